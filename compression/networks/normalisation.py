"""Group normalisation of one image."""

import math

import jax
import jax.numpy as jnp
from flax import nnx


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018) of one image [h, w, c]; at most `groups` groups, as many as divide c.

    The same function as `flax.nnx.GroupNorm` (a test compares them). Averaging over a group as a product with a
    small matrix keeps the channels-last layout; through Flax's reshapes a purifier's gradient takes about 20 %
    longer on CPU. Its sums are float32 at least, as a mean over many pixels needs more than the 8 bits of bfloat16.
    """

    def __init__(self, channels: int, groups: int = 8, epsilon: float = 1e-6, *, rngs: nnx.Rngs):
        self.groups, self.epsilon = math.gcd(groups, channels), epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x):
        given, x = x.dtype, x.astype(jnp.promote_types(x.dtype, jnp.float32))
        size = x.shape[-1] // self.groups
        same_group = jnp.kron(jnp.eye(self.groups, dtype=x.dtype), jnp.ones((size, size), x.dtype))
        average = same_group / (size * x.shape[0] * x.shape[1])
        centred = x - x.sum((0, 1)) @ average
        variance = (centred**2).sum((0, 1)) @ average
        normal = centred * (jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]) + self.bias[...]
        return normal.astype(given)
