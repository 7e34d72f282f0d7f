"""One training loop for every network: a Python loop over a jitted, deterministic step.

The batch and the noise of step k depend only on (seed, k), so a run that resumes from a saved state ends with
the same weights as one that was never interrupted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from ..networks.pure import Network
from ..types import Image, Key, Label, Scalar

ImageLoss = Callable[[Network, Image, Label, Key], Scalar]


@dataclass(frozen=True)
class Recipe:
    """What determines a training run besides network, loss, data and seed.

    steps: optimiser steps. batch: images a step. learning_rate: peak of Adam's, after a linear warm-up over
    `warmup` of the steps and before a cosine decay to 0. ema: decay of the weights' moving average.
    """

    steps: int
    batch: int = 128
    learning_rate: float = 2e-3
    warmup: float = 0.05
    ema: float = 0.999


class TrainState(NamedTuple):
    """Everything that a resumed run needs: step reached, weights, their moving average, optimiser state."""

    step: Int[Array, ""]
    weights: object
    average: object
    optimiser: object


def start(network: Network, recipe: Recipe) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.int32(0), network.state, network.state, _optimiser(recipe).init(network.state))


def fit(
    network: Network,
    loss: ImageLoss,
    images: Float[Array, "n height width channel"] | UInt8[Array, "n height width channel"],
    labels: Int[Array, "n"],
    recipe: Recipe,
    seed: int,
    state: TrainState | None = None,
    on_step: Callable[[TrainState, float], None] = lambda state, loss: None,
) -> Network:
    """Train `network` on a loss of one image and return it with its averaged weights.

    loss: (network, image, label, key) to a scalar; its mean over the batch is minimised.
    images: in [0, 1], or bytes 0..255, of which only a batch at a time becomes pixels.
    state: where to resume; from the start if None. on_step: called after each step with (state, loss).

    Raises FloatingPointError when the loss stops being finite.
    """
    state = start(network, recipe) if state is None else state
    for _ in range(int(state.step), recipe.steps):
        state, value = _step(network.graph, loss, recipe, images, labels, seed, state)
        value = float(value)
        if value != value or abs(value) == float("inf"):
            raise FloatingPointError(
                f"training loss became {value} at step {int(state.step)}; lower the learning rate "
                f"({recipe.learning_rate}) or check the images"
            )
        on_step(state, value)
    return network.with_state(state.average)


def _pixels(images):
    """Bytes as pixels in [0, 1], by a table: to the bit what NumPy makes of them, whatever the compiler does."""
    return images if images.dtype != jnp.uint8 else jnp.asarray(np.arange(256) / np.float32(255), jnp.float32)[images]


def _optimiser(recipe: Recipe) -> optax.GradientTransformation:
    warmup = max(1, int(recipe.warmup * recipe.steps))
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, warmup, max(recipe.steps, warmup + 1))
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


@partial(jax.jit, static_argnames=("graph", "loss", "recipe"))
def _step(graph, loss, recipe, images, labels, seed, state):
    key_batch, key_loss = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
    chosen = jax.random.randint(key_batch, (recipe.batch,), 0, len(images))
    keys = jax.random.split(key_loss, recipe.batch)

    def mean_loss(weights):
        batch = _pixels(images[chosen])
        return jnp.mean(jax.vmap(partial(loss, Network(graph, weights)))(batch, labels[chosen], keys))

    value, gradient = jax.value_and_grad(mean_loss)(state.weights)
    updates, optimiser = _optimiser(recipe).update(gradient, state.optimiser, state.weights)
    weights = optax.apply_updates(state.weights, updates)
    decay = jnp.minimum(recipe.ema, (1 + state.step) / (10 + state.step))
    average = optax.incremental_update(weights, state.average, 1 - decay)
    return TrainState(state.step + 1, weights, average, optimiser), value
