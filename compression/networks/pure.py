"""A Flax module split once into a pure, callable pytree."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
from flax import nnx


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # arrays have no hash, by which `jax.jit` knows a function
class Network:
    """A network as a function whose weights are pytree leaves, so compiled programs take it as an argument.

    graph: the architecture, static.
    state: the weights.

    >>> import jax.numpy as jnp
    >>> network = pure(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    >>> network(jnp.ones(2)).shape
    (3,)
    """

    graph: nnx.GraphDef = field(metadata={"static": True})
    state: nnx.State

    def __call__(self, *inputs):
        return self.module(*inputs)

    @property
    def module(self) -> nnx.Module:
        """The module put together again, for its other methods and its parts."""
        return nnx.merge(self.graph, self.state)

    def with_state(self, state) -> "Network":
        """The same architecture with other weights."""
        return Network(self.graph, state)


def pure(module: nnx.Module) -> Network:
    """Split a module into its architecture and weights."""
    return Network(*nnx.split(module))


def blueprint(build: Callable[..., nnx.Module]) -> nnx.Module:
    """The module that `build(rngs=...)` describes, with shapes and types in the place of arrays; nothing is computed.

    >>> blueprint(lambda rngs: nnx.Linear(2, 3, rngs=rngs)).kernel.shape
    (2, 3)
    """
    return nnx.eval_shape(lambda: build(rngs=_OneKey()))


class _OneKey(nnx.Rngs):
    """The same key for every array. Flax would count keys, and at each count look through the whole trace so far."""

    def params(self) -> jax.Array:
        return jax.random.key(0)
