"""Feature spaces: functions from one image to a vector [d], in which distances are measured (App. E.3).

Any function of that kind is one; those made here are pytrees, so compiled programs take them as arguments.
"""

from collections.abc import Callable

from flax import nnx
from jax.tree_util import Partial

from .networks.pure import Network


def penultimate(network: Network) -> Callable:
    """The features from which a classifier's last layer makes its logits.

    network: of a module with a method `features`, such as ConvNet; TypeError for others.

    >>> import jax.numpy as jnp
    >>> from .networks.convnet import ConvNet
    >>> from .networks.pure import pure
    >>> network = pure(ConvNet((8, 8, 1), classes=10, rngs=nnx.Rngs(0)))
    >>> penultimate(network)(jnp.zeros((8, 8, 1))).shape
    (128,)
    """
    module = type(nnx.merge(network.graph, network.state))
    if not hasattr(module, "features"):
        raise TypeError(
            f"{module.__name__} has no method `features`; give it one, or use any function of an image to a vector"
        )
    return Partial(_penultimate, network)


def _penultimate(network, x):
    return nnx.merge(network.graph, network.state).features(x)
