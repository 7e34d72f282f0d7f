"""What ALP's claims are judged by: joined attacks, effects, and estimates of large Jacobians against exact ones."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import purimetry as pm
import pytest
from purimetry.compression.jacobian import participation_ratio
from purimetry.compression.statistics import Interval, row_spread, student
from purimetry.compression.variance import variances
from purimetry.experiments import alp_claims, alp_compression, alp_protocols, alp_tsne

KEY = pm.configuration(0, 0)


def row(gradient, robust, reading="mean", defence="draw", attack="pgd"):
    at = {"defence": defence, "protocol": "fixed xi", "n": 8, "reading": reading, "gradient": gradient,
          "attack": attack}
    return at, np.array(robust), np.ones(len(robust))


def test_what_all_attacks_leave_is_the_least_of_each_image_and_kinds_are_kept_apart():
    rows = [row("full", [1.0, 0.0]), row("bpda", [0.5, 1.0]), row("full", [1.0, 1.0], reading="worst")]
    (mean, left), (worst, alone) = alp_protocols.together(rows)
    assert (mean["reading"], mean["attack"], worst["reading"]) == ("mean", "all", "worst")
    np.testing.assert_array_equal(left, [0.5, 0.0])
    np.testing.assert_array_equal(alone, [1.0, 1.0])


def test_masking_is_what_attacks_with_the_gradient_leave_beyond_those_without(monkeypatch):
    rows = [row("full", [1.0, 1.0, 0.0]), row("full", [1.0, 0.0, 0.0], attack="square"), row("bpda", [0.0, 1.0, 1.0]),
            row("full", [0.0, 0.0, 0.0], attack="standard"), row("bpda", [0.0, 0.0, 0.0], defence="ensemble")]
    monkeypatch.setattr(alp_protocols, "everything", lambda bench, eps: rows)
    np.testing.assert_array_equal(alp_claims.masking(None, 0.1), [1.0, 1.0, 0.0])


def test_attack_is_taken_back_wholly_not_at_all_or_made_worse():
    clean, attacked = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    taken_back = partial(alp_tsne._taken_back, attacked, clean=clean)
    assert (taken_back(clean), taken_back(attacked), taken_back(attacked + 1)) == (100, 0, -50)


@pytest.mark.parametrize("shift, said", [(2.0, True), (0.0, False)])
def test_what_is_taken_back_is_said_of_an_attack_that_moved_images(shift, said, monkeypatch):
    """Of one that did not, the share is a ratio of noise."""
    draw, labels = np.random.default_rng(0).normal, np.arange(40) % 2
    centroids = np.array([[0.0, 0.0], [9.0, 0.0]])
    at = lambda away: centroids[labels] + np.stack([0 * labels, 1 + away + 0.1 * draw(size=40)], 1)
    features = {"clean": at(0), "attacked": at(shift), **{name: at(shift / 2) for name in alp_tsne.SIGMAS}}
    monkeypatch.setattr(alp_tsne, "embedded", lambda *_: {**features, "centroids": centroids, "spread": 1.0})
    bench = SimpleNamespace(labels=labels, configuration=SimpleNamespace(bootstrap=200, eps=(0.1,)),
                            mean=lambda _, name, values, unit, at: (name, np.mean(values)),
                            measurement=lambda _, name, value, se, n, unit, at: (name, value))
    found = list(alp_tsne._measure(bench, "classifier"))
    taken = [value for name, value in found if name == "realignment"]
    assert len(taken) == (len(alp_tsne.SIGMAS) if said else 0)
    np.testing.assert_allclose(taken, 50, atol=100 * 4 * 0.1 * (1.5 / 40) ** 0.5 / 2)  # 4 standard errors, a way of 2


def test_a_map_keeps_clusters_together_and_is_the_same_each_time():
    centres = 20 * np.eye(3)[np.arange(24) % 3]
    features = centres + np.random.default_rng(0).normal(size=(24, 3))
    found = alp_tsne.mapped(features)
    distance = np.linalg.norm(found[:, None] - found, axis=2) + np.where(np.eye(24), np.inf, 0)
    assert (distance.argmin(1) % 3 == np.arange(24) % 3).all()
    np.testing.assert_array_equal(found, alp_tsne.mapped(features))


def test_sketched_spectrum_of_a_linear_purifier_is_the_exact_one():
    """The participation ratio's relative error is about sqrt(2 / draws) times a factor of the spectrum's shape, < 1."""
    scale = jnp.linspace(0.2, 2.0, 48).reshape(4, 4, 3)
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (48, 48)))[0]
    linear = lambda x, key: (rotation @ (scale * x).ravel()).reshape(x.shape)
    largest, rank = alp_compression._sketched(400, linear, jnp.full((4, 4, 3), 0.5), KEY)
    assert largest == pytest.approx(2.0, rel=0.01)  # of 12 Krylov steps: the spectrum is dense at its end
    assert rank == pytest.approx(float(participation_ratio(scale.ravel())), rel=3 * (2 / 400) ** 0.5)


def test_intervals_of_few_values_cover_the_truth_as_often_as_they_say():
    """Of 2000 samples of 5: 95 % within three standard errors, 1.5 %."""
    found = [student(sample) for sample in np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))]
    assert np.mean([one.low <= 3 <= one.high for one in found]) == pytest.approx(0.95, abs=0.015)


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="length >= 2"):
        student(np.array([1.0]))


@pytest.mark.parametrize("deviation, images, bound", [
    (0.0, 48, 0.975), (2.0, 48, 0.95), (5.0, 48, 0.95), (3.0, 8, 0.95),
])
def test_a_spread_of_trainings_is_told_from_the_noise_of_their_images(deviation, images, bound):
    """Of 1000 tables of 5 trainings: coverage, and errors to either side, within three standard errors; at 0 an
    interval cannot lie below, and where images are few it may be too wide."""
    draw = np.random.default_rng(0).normal
    tables = [70 + draw(size=images) * 40 + deviation * draw(size=(5, 1)) + 26 * draw(size=(5, images))
              for _ in range(1000)]
    found = [row_spread(table, resamples=2) for table in tables]
    assert -0.022 <= np.mean([one.low <= deviation <= one.high for one in found]) - bound <= 0.03
    assert np.mean([one.low > deviation for one in found]) <= 0.025 + 0.015
    between = [table.mean(1).var(ddof=1) - deviation**2 for table in tables]  # about 26^2 / images
    assert np.mean(between) == pytest.approx(26**2 / images, abs=3 * np.std(between) / 1000**0.5)


def test_a_spread_of_rows_is_the_internal_variance_of_pixels():
    """Two-way analysis of variance, in float32 there; se as found by repetition, of which 400 know 4 %."""
    draw = np.random.default_rng(0).normal
    tables = draw(size=(400, 5, 1)) * 4 + draw(size=(400, 5, 12))
    found = [row_spread(table) for table in tables]
    pixels = jnp.asarray(tables[0], jnp.float32)[..., None]
    assert found[0].value**2 == pytest.approx(float(variances(pixels).internal), rel=1e-4)
    assert np.mean([one.se**2 for one in found]) ** 0.5 == pytest.approx(np.std([one.value for one in found]), rel=0.2)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1)])
def test_a_spread_of_rows_needs_two_of_each(shape):
    with pytest.raises(ValueError, match="at least 2 of each, got shape"):
        row_spread(np.ones(shape))


def test_trainings_that_do_not_differ_are_not_called_unstable():
    """Their 48 images make accuracies vary by 5 points: that is no spread of trainings, in all but 2.5 % of 300."""
    random = np.random.default_rng(0)
    chance = random.beta(0.5, 1.0, (300, 48))
    right = random.random((300, 5, 48)) < chance[:, None]
    found = [alp_claims.stability(one).outcome for one in right]
    assert np.mean([outcome == "contradicted" for outcome in found]) <= 0.025 + 3 * (0.025 * 0.975 / 300) ** 0.5


@pytest.mark.parametrize("name", alp_claims.CLAIMS)
def test_images_are_said_to_decide_where_n_counts_images(name):
    """And not of trainings or repeats."""
    bench = SimpleNamespace(measurement=lambda _, quantity, *rest: (quantity, *rest))
    open_ = alp_claims.CLAIMS[name].judged(Interval(0.22, 0.0, 2000.0, 1.0), 5)
    units = {quantity: unit for quantity, _, _, _, unit, _ in alp_claims._say(bench, open_, {})}
    assert units.get("effect_images_to_decide") == (None if name in ("sigma", "speed", "stable") else "images")


@pytest.mark.parametrize("right", [0, 20])
def test_trainings_that_agree_on_every_image_decide_nothing(right):
    verdict = alp_claims.stability(np.tile(np.arange(32) < right, (5, 1)))
    assert (verdict.outcome, verdict.effect.value, verdict.needed) == ("undecided", 0, np.inf)
