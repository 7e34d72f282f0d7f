"""The matrix of protocols: each cell against its closed form, and its cost against a count of model evaluations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import protocol, randomness, samplers, schedules
from purimetry.compression.attacks import linf
from purimetry.compression.attacks.square import square
from purimetry.compression.callables import as_pytree
from purimetry.compression.ensembles import Pooled, majority_vote, mean_of_logits
from purimetry.compression.gradients import cosine
from purimetry.compression.purifiers.diffusion import fewer_steps
from purimetry.compression.protocol import (
    BPDA, FULL, evaluate, expectation, fixed, fresh, strongest, transferred, vote, while_optimising,
)

SHAPE, N, EPS, SHIFT = (2, 2, 1), 40, 0.1, 0.2
RANDOM = np.random.default_rng(0)
MEANS = np.linspace(0.2, 0.55, N).astype(np.float32)
IMAGES = np.broadcast_to(MEANS[:, None, None, None], (N, *SHAPE)).copy()
LABELS, KEYS = np.zeros(N, int), pm.configurations(0, np.arange(N))
CORNER = partial(pm.pgd, steps=4, step_size=1.0, start=linf.clean_start)
"""Where the gradient keeps its sign, the first step reaches the corner of the budget."""
PGD = {"pgd": (CORNER, pm.margin)}


def dark(x):
    """The second class is bright images, those of a mean from 1/2."""
    return jnp.stack([0.5, x.mean()])


def shifted(x, key):
    """Brighter or darker by SHIFT (1 + x / 10), which no attack can change, and only x's own gradient is seen."""
    return x + SHIFT * jnp.where(jax.random.bernoulli(key), 1.0, -1.0)


def brighter(key):
    return bool(shifted(jnp.zeros(SHAPE), key).mean() > 0)


def right(x, keys):
    """Whether images of mean x are right at each image's own draws, [images, draws]."""
    up = np.array([[brighter(key) for key in row] for row in keys])
    return x[:, None] + SHIFT * np.where(up, 1, -1) < 0.5


def test_draws(n, first=0):
    return [[randomness.redraw(randomness.step_key(key, randomness.JUDGE, 0), first + j) for j in range(n)]
            for key in KEYS]


test_draws.__test__ = False


def rows(protocols, attacks=PGD, classifier=dark, purifier=shifted, **settings):
    return evaluate(protocols, attacks, classifier, purifier, IMAGES, LABELS, KEYS, EPS, **settings)


@pytest.fixture(scope="module")
def matrix():
    """All gradients of this defence agree, so every protocol's candidate is eps brighter."""
    protocols = [fixed(), transferred(3, first=2), fresh(5), expectation(4, 7), vote(9, 2)]
    return {(row.protocol.name, row.reading): row for row in rows(protocols)}


def test_readings_of_a_protocol_are_rows_of_their_own(matrix):
    many = [(name, reading) for name in ("transfer between xi", "fresh xi", "EOT-4")
            for reading in ("worst", "mean", "vote")]
    assert list(matrix) == [("fixed xi", "single"), *many, ("majority of 9", "vote")]


@pytest.mark.parametrize("name, n, first", [
    ("transfer between xi", 3, 2), ("fresh xi", 5, 0), ("EOT-4", 7, 0), ("majority of 9", 9, 0),
])
def test_each_cell_is_judged_by_the_draws_that_it_names(matrix, name, n, first):
    draws = test_draws(n, first)
    clean, robust = right(MEANS, draws), right(MEANS + EPS, draws)
    assert 0 < robust.mean() < clean.mean() < 1
    expected = {
        "worst": (clean.all(1), robust.all(1)), "mean": (clean.mean(1), robust.mean(1)),
        "vote": (clean.mean(1) > 0.5, robust.mean(1) > 0.5),
    }
    for (protocol_name, reading), row in matrix.items():
        if protocol_name == name:
            np.testing.assert_allclose(row.clean, expected[reading][0], atol=1e-6)
            np.testing.assert_allclose(row.robust, expected[reading][1], atol=1e-6)


def test_a_fixed_xi_is_attacked_and_judged_by_the_images_own_key(matrix):
    row, own = matrix["fixed xi", "single"], [[key] for key in KEYS]
    np.testing.assert_array_equal(row.clean, right(MEANS, own)[:, 0])
    np.testing.assert_array_equal(row.robust, right(MEANS + EPS, own)[:, 0])
    assert row.accuracy == row.robust.mean()
    assert row.se == pytest.approx(row.robust.std(ddof=1) / N**0.5)


def test_a_row_says_all_that_belongs_beside_its_number(matrix):
    assert matrix["transfer between xi", "mean"].at == {
        "protocol": "transfer between xi", "xi_attack": "fixed", "k": 1, "xi_test": "fresh", "n": 3, "reading": "mean",
        "gradient": "full", "attack": "pgd", "eps": EPS, "steps": 4, "restarts": 1, "draws": 1,
    }
    at = matrix["EOT-4", "worst"].at
    assert (at["xi_attack"], at["k"], at["xi_test"], at["n"]) == ("fresh", 4, "fresh", 7)


def test_a_random_defence_is_driven_to_nothing_while_it_is_judged_while_optimising():
    """Images of 0.45 fail at every second draw whatever the attack does: of T tries 2^-T of them survive."""
    n, steps = 400, 3
    images, keys = np.full((n, *SHAPE), 0.45, np.float32), pm.configurations(0, np.arange(n))
    attacks = {"noise": (partial(pm.pgd, steps=steps, step_size=0.3), pm.margin)}
    protocols, labels = [while_optimising(fresh()), fresh()], np.zeros(n, int)
    driven, once = evaluate(protocols, attacks, dark, shifted, images, labels, keys, 1e-3, size=n)
    for row, survive in ((driven, 0.5 ** (steps + 2)), (once, 0.5)):  # the clean image, the start and every step
        assert abs(row.accuracy - survive) < 4 * (survive * (1 - survive) / n) ** 0.5
    assert driven.reading == "while optimising" and driven.at["xi_test"] == "every input"


def test_every_input_has_a_draw_of_its_own():
    loss = protocol.drawn_for_every_input(dark, lambda x, key: x + jax.random.uniform(key), jnp.int32(0))
    margins = jax.jit(jax.vmap(lambda x, key: loss(x, key).margin, (0, None)))
    xs = np.float32(RANDOM.uniform(size=(50, *SHAPE)))
    first, again, other = (np.asarray(margins(xs, key)) for key in (KEYS[0], KEYS[0], KEYS[1]))
    shift = first + 0.5 - xs.mean((1, 2, 3))
    assert len(np.unique(shift.round(5))) == 50 and 0 < shift.min() and shift.max() < 1
    assert (first == again).all() and (first != other).all()


MATRIX = np.diag(np.float32([1.0, -1.0, 1.0, -1.0]))


def mirrored(x, key):
    """Half of the pixels are turned into their negative, so the identity's Jacobian misleads where it is theirs."""
    return (MATRIX @ x.ravel()).reshape(SHAPE)


def test_each_gradient_reaches_its_own_corner():
    """Full and surrogate gradients raise the margin by eps, the identity's leaves it where it is."""
    bright = lambda x: jnp.stack([0.025, x.mean()])
    images = RANDOM.uniform(0.3, 0.7, (N, *SHAPE)).astype(np.float32)
    margins = np.asarray(jax.jit(jax.vmap(lambda x: mirrored(x, KEYS[0]).mean()))(images)) - 0.025
    kinds = {**FULL, **BPDA, "surrogate": lambda x, key: 2 * mirrored(x, key)}
    found = evaluate([fixed()], PGD, bright, mirrored, images, LABELS, KEYS, EPS, gradients=kinds)
    full, bpda, surrogate = (row.robust for row in found)
    assert [row.gradient for row in found] == ["full", "bpda", "surrogate"]
    np.testing.assert_array_equal(full, margins + EPS < 0)
    np.testing.assert_array_equal(surrogate, full)
    np.testing.assert_array_equal(bpda, margins < 0)
    assert full.sum() < bpda.sum()


def test_every_attack_has_its_rows_and_the_strongest_is_left_of_all():
    """One attack brightens and the other darkens, and what is neither bright nor dark is right."""
    sees = lambda sign: lambda logits, label: sign * logits[2]
    attacks = {"up": (CORNER, sees(1)), "down": (CORNER, sees(-1)),
               "square": (partial(square, queries=30, horizon=30), pm.margin)}
    band = lambda x: jnp.stack([0.02 - (x.mean() - 0.4) ** 2, 0.0, x.mean() - 9])
    up, down, free = rows([fixed()], attacks, band, pm.identity)
    assert (up.robust != down.robust).any()
    both = strongest([up, down])
    np.testing.assert_array_equal(both.robust, np.minimum(up.robust, down.robust))
    assert both.attack == "up + down" and both.gradient == "full" and both.steps == 8
    np.testing.assert_array_equal(both.gradients, up.gradients + down.gradients)
    assert free.gradients.sum() == 0 < free.evaluations.min()
    for other in (*rows([fresh()], {"up": attacks["up"]}, band, pm.identity), up._replace(eps=0.5)):
        with pytest.raises(ValueError, match="one protocol, reading and budget, got 2 kinds"):
            strongest([up, other])


@pytest.mark.parametrize("this, view, draws", [
    (fixed(), None, 1), (expectation(3, n=2), None, 1), (expectation(2, n=3), Pooled(5), 5), (fresh(4), None, 1),
    (while_optimising(expectation(2)), None, 1),
], ids=["fixed", "EOT", "EOT through an ensemble", "fresh", "while optimising"])
def test_evaluations_are_as_many_as_the_model_was_asked(this, view, draws):
    """Four images that are never broken, one batch of each: no padding, and nobody leaves early."""
    count = [0]

    def counted(x):
        jax.debug.callback(lambda _: count.__setitem__(0, count[0] + 1), x.mean())
        return jnp.stack([9.0, x.mean()])

    settings = {} if view is None else {"view": view}
    row, *_ = evaluate([this], PGD, counted, shifted, IMAGES[:4], LABELS[:4], KEYS[:4], EPS, **settings)
    jax.effects_barrier()
    checked = 2 * 2  # check_classifier asks twice at two images
    assert row.gradients.tolist() == 4 * [4 * this.k * draws] and row.draws == draws
    assert count[0] - checked == row.evaluations.sum()


def test_an_ensemble_is_attacked_and_judged_as_one():
    """At a held key, five shifts that vote: an image is broken where three of them are, once it is eps brighter."""
    own = [list(randomness.redraws(key, 5)) for key in KEYS]
    majority = lambda x: right(x, own).mean(1) > 0.5
    soft = lambda x: 50 * dark(x)  # so that no gradient of the votes vanishes
    (row,) = rows([fixed()], classifier=soft, view=Pooled(5, majority_vote))
    np.testing.assert_array_equal(row.clean, majority(MEANS))
    np.testing.assert_array_equal(row.robust, majority(MEANS + EPS))
    (mean,) = rows([fixed()], view=Pooled(5, mean_of_logits))
    shifts = np.array([[SHIFT if brighter(key) else -SHIFT for key in keys] for keys in own]).mean(1)
    np.testing.assert_array_equal(mean.robust, MEANS + EPS + shifts < 0.5)
    assert row.draws == mean.draws == 5


def test_an_attack_that_is_not_judged_by_its_own_key_spends_every_step():
    for this, spent in ((fixed(), False), (fresh(), True)):
        (row,) = rows([this])
        assert (row.gradients == 4).all() == spent


@pytest.mark.parametrize("bad", [expectation(0), fresh(0), vote(0)])
def test_no_draws_are_refused(bad):
    with pytest.raises(ValueError, match="at least 1 draw"):
        rows([bad])


def test_progress_names_the_cell():
    told = []
    rows([fixed(), fresh()], on_segment=lambda cell, done, active: told.append((cell, done)))
    assert told == [("pgd, full gradient, fixed xi", 1.0), ("pgd, full gradient, fresh xi", 1.0)]


# A surrogate with fewer sampler steps.

SCHEDULES = {n: schedules.respaced(schedules.linear(), n) for n in (10, 20, 50, 100)}


def predictor(x_t, t):
    """Exact for pixels of standard deviation s around -m or m; the purifier's Jacobian differs by pixel and step."""
    m, s = 0.4, 0.3
    ab = jnp.asarray(schedules.linear().alpha_bar, jnp.float32)[t.astype(jnp.int32) + 1]
    variance = ab * s**2 + 1 - ab
    centre = jnp.sqrt(ab) * m * jnp.tanh(jnp.sqrt(ab) * m * x_t / variance)
    return jnp.sqrt(1 - ab) / variance * (x_t - centre)


@jax.jit
def weighted_gradient(f, x, key, weights):
    """And the output."""

    def weighted(x):
        y = f(x, key)
        return jnp.sum(weights * y), y

    return jax.grad(weighted, has_aux=True)(x)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS.values(), ids=samplers.SAMPLERS)
def test_a_surrogates_gradient_approaches_the_defences_with_its_steps(sampler):
    """All steps give the defence's own gradient, a few a better one than none."""
    x, weights = np.float32([RANDOM.uniform(0.2, 0.8, (6, 6, 1)), RANDOM.normal(size=(6, 6, 1))])
    purifier = pm.diffusion(predictor, sampler(SCHEDULES[100], 20))
    slope = lambda f: weighted_gradient(as_pytree(f), x, KEYS[0], weights)
    full, output = slope(purifier)
    same, same_output = slope(fewer_steps(purifier, sampler(SCHEDULES[100], 20)))
    np.testing.assert_allclose(same_output, output, atol=1e-6)
    np.testing.assert_allclose(same, full, atol=1e-5)
    agreement = [float(cosine(full, slope(f)[0])) for f in (
        lambda x, key: x, *(fewer_steps(purifier, sampler(SCHEDULES[n], n // 5)) for n in (10, 50)))]
    assert agreement == sorted(agreement) and agreement[-1] > 0.99


def test_a_long_step_of_a_surrogate_has_the_noise_of_the_short_ones_that_it_replaces():
    """Without a prediction each step scales and adds noise: two of them add s_2 n_1 z_1 + n_2 z_2."""
    none = lambda x_t, t: 0 * x_t
    fine, coarse = samplers.ddpm(SCHEDULES[100], 4), samplers.ddpm(SCHEDULES[50], 2)
    short = fewer_steps(pm.diffusion(none, fine), coarse)

    @jax.jit
    def by_hand(x, key):
        state = samplers.diffuse(fine, 2 * x - 1, key)
        z = [jax.random.normal(randomness.step_key(key, randomness.REVERSE, t), SHAPE) for t in (4, 3, 2, 1)]
        for j in range(2):
            one, two = fine.state[2 * j + 1] * fine.noise[2 * j], fine.noise[2 * j + 1]
            noise = (one * z[2 * j] + two * z[2 * j + 1]) / jnp.sqrt(one**2 + two**2)
            state = coarse.state[j] * state + coarse.noise[j] * noise
        return jnp.clip((state + 1) / 2, 0, 1)

    x = np.full(SHAPE, 0.5)
    np.testing.assert_allclose(jax.jit(short)(x, KEYS[0]), by_hand(x, KEYS[0]), atol=1e-6)


@pytest.mark.parametrize("steps, message", [
    (samplers.ddpm(SCHEDULES[50], 3), "a divisor of the purifier's 10 steps"),
    (samplers.ddpm(SCHEDULES[20], 5), "ends at the same noise, got 5 steps"),
    (samplers.ddpm(SCHEDULES[20], 0), "got 0 steps"),
])
def test_a_surrogate_at_another_t_star_is_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        fewer_steps(pm.diffusion(predictor, samplers.ddpm(SCHEDULES[100], 10)), steps)


def test_the_surrogate_of_no_step_is_the_identity():
    none = samplers.ddpm(SCHEDULES[100], 0)
    x = jnp.full((2, 2, 1), 0.3)
    np.testing.assert_array_equal(fewer_steps(pm.diffusion(predictor, none), none)(x, pm.configuration(0, 0)), x)


def test_large_images_are_evaluated_few_at_a_time(monkeypatch):
    """As many evaluations in one compiled call as `shard_size` allows, divided by the draws."""
    seen = []
    watched = lambda *given, **other: seen.append(given[8]) or pm.attack_images(*given, **other)
    monkeypatch.setattr(protocol, "attack_images", watched)
    large, bright = np.full((9, 64, 64, 3), 0.5, np.float32), lambda x: jnp.stack([x.mean(), 0.4])
    evaluate([fixed(), expectation(2, n=1)], {"up": (CORNER, pm.margin)}, bright, pm.identity, large, np.zeros(9, int),
             pm.configurations(0, np.arange(9)), 0.1)
    assert seen == [4, 2]
