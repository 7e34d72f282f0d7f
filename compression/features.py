"""Feature spaces: functions from one image to a vector [d], in which distances are measured (App. E.3).

Any function of that kind is one; those made here are pytrees, so compiled programs take them as arguments.
"""

from collections.abc import Callable
from pathlib import Path

from flax import nnx
from jax.tree_util import Partial

from .networks import clip_image
from .networks import inception as inception_v3
from .networks.pure import Network
from .weights import load_published


def penultimate(network: Callable) -> Callable:
    """The features from which a classifier's last layer makes its logits.

    network: of a module with a method `features`, such as ConvNet; TypeError for others, and for a function.

    >>> import jax.numpy as jnp
    >>> from .networks.convnet import ConvNet
    >>> from .networks.pure import pure
    >>> network = pure(ConvNet((8, 8, 1), classes=10, rngs=nnx.Rngs(0)))
    >>> penultimate(network)(jnp.zeros((8, 8, 1))).shape
    (128,)
    """
    module = type(network.module if isinstance(network, Network) else network)
    if not isinstance(network, Network) or not hasattr(module, "features"):
        raise TypeError(f"a classifier of type {module.__name__} shows no features from which its logits are made; "
                        "give pm.pure of a module with a method `features`, or any function of an image to a vector")
    return Partial(_penultimate, network)


def inception(path: Path | str, dims: int = 2048) -> Network:
    """The features of the Fréchet Inception distance, of images of any size.

    path: weights ported from TensorFlow's of 2015, `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid's releases,
        or the same as `.safetensors`; other weights of Inception-v3 give other distances.
    dims: 2048 as usual; 768 as in the paper (App. D), or 192, 64.

    Raises RecordError for a file that cannot be read, ValueError for weights of another network.
    """
    return inception_v3.inception(load_published(path), dims)


def clip(path: Path | str) -> Network:
    """CLIP's embedding of images of any size, not normalised, for `cosine_distance` (Table S11).

    path: weights of OpenAI's ViT-B/32, B/16 or L/14 in Hugging Face's format (`model.safetensors` of
        `openai/clip-vit-base-patch32`), the whole model or the image tower with its projection.

    Raises RecordError for a file that cannot be read, ValueError for weights of another network.
    """
    return clip_image.clip_image(load_published(path))


def _penultimate(network, x):
    return nnx.merge(network.graph, network.state).features(x)
