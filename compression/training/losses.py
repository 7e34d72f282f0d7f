"""Training losses of one image, for `training.loop.fit`."""

import jax
import jax.numpy as jnp
import optax

from ..schedules import CONTINUOUS, Schedule
from ..types import Classifier, Image, Key, Label, NoisePredictor, Scalar
from .loop import ImageLoss

VERSION = 1
"""Raise it when a change makes the same recipe train another network."""


def noise_prediction(schedule: Schedule) -> ImageLoss:
    """The noise-prediction loss of DDPM: mean squared error of eps(x_t, t) at a uniform t in 1..T.

    >>> import jax, jax.numpy as jnp
    >>> from purimetry.compression.schedules import linear
    >>> loss = noise_prediction(linear())
    >>> value = loss(lambda x_t, t: 0 * x_t, jnp.zeros((8, 8, 1)), jnp.int32(0), jax.random.key(0))
    >>> 0.5 < float(value) < 2
    True
    """
    alpha_bar, time = jnp.asarray(schedule.alpha_bar, jnp.float32), jnp.asarray(schedule.time, jnp.float32)

    def loss(network: NoisePredictor, x: Image, label: Label, key: Key) -> Scalar:
        key_time, key_noise = jax.random.split(key)
        t = jax.random.randint(key_time, (), 1, schedule.steps + 1)
        noise = jax.random.normal(key_noise, x.shape)
        x_t = jnp.sqrt(alpha_bar[t]) * (2 * x - 1) + jnp.sqrt(1 - alpha_bar[t]) * noise
        return jnp.mean((network(x_t, time[t]) - noise) ** 2)

    return loss


def flow_matching(network: NoisePredictor, x: Image, label: Label, key: Key) -> Scalar:
    """The loss of rectified flow: mean squared error of the velocity z - x_0 at (1 - t) x_0 + t z, t uniform in 0..1.

    network: of (x_t in the diffusion's range, 999 t), as `purifiers.flow.flow` takes it.

    >>> import jax, jax.numpy as jnp
    >>> value = flow_matching(lambda x_t, t: 0 * x_t, jnp.full((8, 8, 1), 0.5), jnp.int32(0), jax.random.key(0))
    >>> 0.5 < float(value) < 2
    True
    """
    key_time, key_noise = jax.random.split(key)
    t, noise, clean = jax.random.uniform(key_time), jax.random.normal(key_noise, x.shape), 2 * x - 1
    return jnp.mean((network((1 - t) * clean + t * noise, CONTINUOUS * t) - (noise - clean)) ** 2)


def shifted(x: Image, key: Key) -> Image:
    """An image shifted by up to one pixel and dequantised by a little noise."""
    key_shift, key_noise = jax.random.split(key)
    rows, columns = jax.random.randint(key_shift, (2,), 0, 3)
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    moved = jax.lax.dynamic_slice(padded, (rows, columns, 0), x.shape)
    return jnp.clip(moved + 0.02 * jax.random.normal(key_noise, x.shape), 0, 1)


def classification(classifier: Classifier, x: Image, label: Label, key: Key) -> Scalar:
    """Cross-entropy on a shifted image."""
    return optax.softmax_cross_entropy_with_integer_labels(classifier(shifted(x, key)), label)
