"""A network in less precision than what is around it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..callables import Made, as_pytree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InPrecision:
    """A network whose weights are of `dtype`, called with an image of any; made by `in_precision`."""

    network: Callable
    dtype: jnp.dtype = field(metadata={"static": True})

    def __call__(self, x: Float[Array, "..."], *more) -> Float[Array, "..."]:
        return self.network(x.astype(self.dtype), *more).astype(x.dtype)


def in_precision(network: Callable, dtype) -> Callable:
    """The same network with weights, image and arithmetic rounded to `dtype`, its output in the caller's own again.

    network: a function of an image (and of a time, which is left as it is), with its weights as pytree leaves.
    dtype: `jnp.bfloat16` has the range of float32 and 8 bits: a rounding changes a number by at most 1 / 256 of it.

    A sampler around it, and the gradient that it hands on, stay float32, so `diffusion(in_precision(denoiser,
    jnp.bfloat16), steps)` rounds what the denoiser predicts but not the image. Of what `from_v`, `velocity_of` and
    their like make of a network, that network alone is rounded, neither their formula nor the schedule in it.

    >>> halve = in_precision(lambda x: x / 2, jnp.bfloat16)
    >>> halve(jnp.float32([1.0, 1.001])).tolist(), halve(jnp.ones(2)).dtype.name
    ([0.5, 0.5], 'float32')
    """

    def rounded(part):
        if isinstance(part, Made):
            return replace(part, network=in_precision(part.network, dtype))
        return part.astype(dtype) if jnp.issubdtype(part.dtype, jnp.floating) else part

    network = jax.tree.map(rounded, as_pytree(network), is_leaf=lambda part: isinstance(part, Made))
    return network if isinstance(network, Made) else InPrecision(network, jnp.dtype(dtype))
