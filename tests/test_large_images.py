"""Large images: no more of them, nor of their draws, in one compiled call than fit the memory, whatever measures them.

At 64 x 64 x 3, for which a CPU is given 4 at a time, and with networks that compile in no time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import batches
from purimetry.compression.batches import at_most, over_draws
from purimetry.experiments import (
    adversarial, autoencoders, distribution, models, protocols, randomness_evaluation,
)
from purimetry.experiments.configuration import Configuration
from purimetry.experiments.workbench import Cell, Workbench

SHAPE, FIT = (64, 64, 3), 4
CELL = Cell("ddpm", 1)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "classifier", lambda *_: (lambda x: jnp.arange(10.0) * x.mean(), "c" * 64))
    monkeypatch.setattr(models, "denoiser", lambda *_: (lambda x, t: 0 * x, "d" * 64))
    told = dict(images=5, samplers=("ddpm",), t_stars=(1,), eps=(0.1,), seeds=(0,), draws=2, paper_steps=1)
    made = Workbench(Configuration(out=tmp_path, attack_steps=1, attack_restarts=1, **told))
    made.images = np.linspace(0, 1, 5 * np.prod(SHAPE), dtype=np.float32).reshape(5, *SHAPE)
    return made


@pytest.fixture
def rows_of_calls(monkeypatch):
    """How many images the compiled calls of a test had."""
    over_shard, seen = batches._over_shard, set()
    monkeypatch.setattr(batches, "_over_shard", lambda *given: seen.add(len(given[2][0])) or over_shard(*given))
    return seen


MEASUREMENTS = {
    "attack": (lambda bench: adversarial.adversaries(bench, CELL, adversarial.PGD), FIT),
    "EOT": (lambda bench: adversarial.adversaries(bench, CELL, adversarial.PGD_EOT), 1),
    "protocol": (lambda bench: protocols.matrix(bench, CELL, pm.fixed(), "bpda"), FIT),
    "gradients of other xi": (lambda bench: randomness_evaluation.cosines(bench, CELL, "bpda"), FIT),
    "features": (lambda bench: distribution._embedded(
        distribution.Space("mean", None, lambda: lambda x: x.mean((0, 1))), {"clean": bench.images}), FIT),
    "margins of autoencoders": (
        lambda bench: autoencoders.margins(bench, pm.identity, pm.defended, bench.images), FIT),
}


@pytest.mark.parametrize("measure, most", MEASUREMENTS.values(), ids=MEASUREMENTS)
def test_no_measurement_calls_more_large_images_than_fit(bench, rows_of_calls, measure, most):
    measure(bench)
    assert max(rows_of_calls) == most


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_small_images_are_called_as_a_measurement_asks(shape):
    images = np.zeros((5, *shape))
    assert [at_most(size, images) for size in (2, 16, 64, 240)] == [2, 16, 64, 240]
    assert [adversarial.together(images, draws) for draws in (1, 15, 20)] == [240, 16, 12]
    program = lambda over: str(jax.make_jaxpr(over)(images[0], np.zeros((500, *shape))))
    assert program(lambda x, draws: over_draws(jnp.sin, draws, x)) == program(lambda x, draws: jax.vmap(jnp.sin)(draws))


def test_a_user_may_ask_for_more():
    with pm.calls_of(16):
        assert at_most(64, np.zeros((5, 256, 256, 3))) == 16


def _objective(x, draws):
    """A mean over draws whose gradient keeps what is as large as the image, a draw."""
    one = lambda draw: jnp.sin(jnp.sin(x * draw) ** 2 + x).sum()
    return over_draws(one, draws, x).mean()


def test_turns_change_neither_the_mean_nor_its_gradient():
    x, draws = np.linspace(0, 1, np.prod(SHAPE)).reshape(SHAPE), np.linspace(0.5, 1.5, 10)
    at_once = lambda x, draws: jnp.mean(jnp.array([_objective(x, draws[i : i + 1]) for i in range(10)]))
    both = (jax.jit(jax.value_and_grad(mean))(x, draws) for mean in (_objective, at_once))
    for ours, expected in zip(*both, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_many_draws_of_a_large_image_take_no_more_memory_than_those_of_a_turn():
    memory = lambda draws: jax.jit(jax.grad(_objective)).lower(
        np.ones(SHAPE), np.ones(draws)).compile().memory_analysis().temp_size_in_bytes
    assert memory(16 * FIT) < 2 * memory(FIT) + 8 * np.prod(SHAPE) * 4
