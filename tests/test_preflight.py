"""Preflight: a sound defence passes every check, and each check finds the defence that has its flaw."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import purimetry as pm
from purimetry.compression import preflight, samplers, schedules
from purimetry.compression.attacks.square import square
from purimetry.compression.findings import Finding, Findings, PreflightError
from purimetry.compression.first_layer import first_layer_input

N, SHAPE, CLASSES, EPS = 24, (4, 4, 1), 4, 0.1
RANDOM = np.random.default_rng(0)
BRIGHT = RANDOM.uniform(size=(CLASSES, *SHAPE)) < np.linspace(0.2, 0.8, CLASSES)[:, None, None, None]
CENTRES = np.where(BRIGHT, 0.7, 0.3).astype(np.float32)
LABELS = np.arange(N) % CLASSES
IMAGES = (CENTRES[LABELS] + RANDOM.uniform(-0.04, 0.04, (N, *SHAPE))).astype(np.float32)
KEYS = pm.configurations(0, np.arange(N))
ATTACK = partial(pm.converged_pgd, steps=6, restarts=CLASSES)
WEAKER = partial(square, queries=60, horizon=60)
MEAN, STD = 0.5, 0.2


def nearest(z):
    """Logits of the nearest centre, of pixels z that are normalised by MEAN and STD; class 0 is all that is far."""
    return -jnp.sum((z[None] - (jnp.asarray(CENTRES) - MEAN) / STD) ** 2, (1, 2, 3)).at[0].min(12.0)


def sound(x):
    return nearest((x - MEAN) / STD)


def noisy(x, key):
    return jnp.clip(0.8 * x + 0.1 + 0.02 * jax.random.normal(key, x.shape), 0, 1)


def claim(classifier=sound, purifier=noisy, images=IMAGES, eps=EPS, **settings):
    given = dict(attack=ATTACK, gradient_free=WEAKER) | settings
    return preflight.Claim(classifier, purifier, images, LABELS, KEYS, eps, **given)


def found(check, *arguments, **settings):
    return list(check(claim(*arguments, **settings)))


def only(check, *arguments, **settings):
    (finding,) = found(check, *arguments, **settings)
    assert finding.check == check.__name__ and finding.remedy
    return finding


@pytest.mark.parametrize("purifier", [pm.identity, noisy], ids=["bare", "noisy"])
def test_a_sound_defence_passes_every_check(purifier):
    told = []
    findings = preflight.preflight(sound, purifier, IMAGES, LABELS, KEYS, EPS, attack=ATTACK, gradient_free=WEAKER,
                                   clean_accuracy=1.0, on_check=told.append)
    assert findings.found == () and findings.skipped == ()
    assert list(findings.passed) == told == [c.__name__ for c in (*preflight.CONTRACT, *preflight.CHECKS)]
    findings.raise_if_any()


def rounded(x, key):
    return jnp.round(5 * x) / 5


def shattered(x, key):
    """Within 0.02 of the image, but with a slope of 1 + 40 cos(2000 x)."""
    return x + 0.02 * jnp.sin(2000 * x)


@pytest.mark.parametrize("purifier, expected", [
    (rounded, {"usable_gradients", "rising_loss", "large_budget", "gradient_free", "transfer"}),
    (shattered, {"truthful_gradients", "transfer"}),
], ids=["quantised", "shattered"])
def test_a_masked_defence_is_flagged_from_several_sides(purifier, expected):
    findings = preflight.preflight(sound, purifier, IMAGES, LABELS, KEYS, 0.25, attack=ATTACK, gradient_free=WEAKER)
    assert expected <= {finding.check for finding in findings.found if finding.severity == "error"}
    with pytest.raises(PreflightError, match="gradient"):
        findings.raise_if_any()


def test_what_takes_the_place_of_a_jacobian_is_flagged_no_more():
    through = pm.straight_through(rounded)
    settings = dict(attack=ATTACK, gradient_free=WEAKER, seen=through)
    findings = preflight.preflight(sound, rounded, IMAGES, LABELS, KEYS, 0.25, **settings)
    assert findings.errors == ()


class Restless:
    """Draws from a generator of its own, while it is traced or while it runs."""

    def __init__(self, running):
        self.generator, self.running = np.random.default_rng(0), running

    def draw(self):
        return np.float32(self.generator.uniform(0.9, 1))

    def __call__(self, x, key):
        scale = jax.ShapeDtypeStruct((), jnp.float32)
        factor = jax.pure_callback(self.draw, scale, vmap_method="sequential") if self.running else self.draw()
        return x * factor


@pytest.mark.parametrize("purifier", [Restless(False), Restless(True), jax.jit(Restless(False))],
                         ids=["tracing", "running", "tracing once"])
def test_random_output_at_a_fixed_key(purifier):
    finding = only(preflight.fixed_randomness, purifier=purifier)
    assert "random although its key is fixed" in finding.message and finding.measured["spread"] > 0.1


def test_random_pixels_at_a_fixed_key_that_no_margin_shows():
    restless, unseen = Restless(True), lambda x: sound(x.at[0, 0].set(0.5))
    corner = lambda x, key: x.at[0, 0].set(restless(x, key)[0, 0])
    assert "pixels or margins" in only(preflight.fixed_randomness, unseen, corner).message


@pytest.mark.parametrize("classifier, severity, message", [
    (lambda x: jax.nn.softmax(sound(x)), "error", "probabilities"),
    (lambda x: jax.nn.sigmoid(sound(x)), "warning", r"all outputs lie in \[0, 1\]"),
    (lambda x: sound(x)[:3], "error", r"labels must lie in 0..2"),
    (lambda x: sound(x) * jnp.inf, "error", "non-finite logits"),
])
def test_what_is_no_logits(classifier, severity, message):
    finding = only(preflight.logits, classifier)
    assert finding.severity == severity and re.search(message, finding.message)


def test_pixels_that_are_none():
    assert "pixels in [0, 1]" in only(preflight.purified_pixels, purifier=lambda x, key: 2 * x - 1).message
    message = only(preflight.purified_pixels, purifier=lambda x, key: x / 0).message
    assert "is not finite for image 0 (24 of 24" in message


def no_slope(x, key):
    """The square root of 0 has an infinite derivative, and 0 times infinity is none."""
    return x * (1 + 0 * jnp.sqrt(0 * x))


def test_gradients_that_are_not_finite_stop_the_preflight():
    assert "not finite for image 0 and 23 more of 24" in only(preflight.finite_gradients, purifier=no_slope).message
    findings = preflight.preflight(sound, no_slope, IMAGES, LABELS, KEYS, EPS)
    assert findings.passed == ("fixed_randomness", "logits", "purified_pixels")
    assert findings.skipped == tuple(check.__name__ for check in preflight.CHECKS)
    with pytest.raises(PreflightError, match="not checked after that: normalisation"):
        findings.raise_if_any()


def missing(x):
    return nearest(x)


def twice(x):
    return sound((x - MEAN) / STD)


@pytest.mark.parametrize("classifier, message", [
    (missing, "2 x - 1 is missing"),  # or that of these images: both repair it
    (twice, "mean and deviation of these images is applied twice"),
    (lambda x: sound((x + 1) / 2), "2 x - 1 is missing"),
    (lambda x: sound(x / 255), "255 x is missing"),
    (lambda x: sound(2 * x - 1), "2 x - 1 is applied twice"),
])
def test_normalisation_that_is_missing_or_done_twice(classifier, message):
    (error,) = [f for f in found(preflight.normalisation, classifier) if f.severity == "error"]
    assert message in error.message and error.measured["other"] == 1 > error.measured["plain"]


def layer(scale, shift):
    weights = RANDOM.normal(size=(16, CLASSES)).astype(np.float32)
    return lambda x: (scale * x + shift).ravel() @ weights


@pytest.mark.parametrize("classifier, sound", [
    (layer(1.0, 0.0), True), (layer(2.0, -1.0), True), (layer(1 / STD, -MEAN / STD), True),
    (layer(255.0, 0.0), False), (layer(1 / STD**2, -(1 + STD) * MEAN / STD**2), False), (layer(1 / 255, 0.0), False),
    (lambda x: jnp.full(CLASSES, x.mean()), True),  # no layer is to be seen
])
def test_the_first_layers_input_has_the_usual_size(classifier, sound):
    warned = [f for f in found(preflight.normalisation, classifier) if f.severity == "warning"]
    assert len(warned) == (not sound)
    if warned:
        seen = np.asarray(jax.jit(jax.vmap(partial(first_layer_input, classifier)))(IMAGES))
        expected = {"mean": float(seen.mean()), "std": float(seen.std())}
        assert warned[0].measured == pytest.approx(expected, rel=1e-3)  # float32 sums


def test_the_first_layer_is_found_inside_functions_and_before_any_other():
    weights = np.ones((5, 16), np.float32)
    plain = lambda x: weights @ (3 * x).ravel()
    nested = lambda x: jax.nn.silu(jax.jit(jax.checkpoint(plain))(x - 1)) @ jnp.ones((5, 2))
    norm = lambda x: plain(x * (jnp.ones((2, 2)) @ jnp.ones((2, 1))).sum())  # a product of constants is no layer
    x, seen = IMAGES[0], lambda network: jax.jit(partial(first_layer_input, network))(IMAGES[0])
    np.testing.assert_allclose(seen(nested), 3 * (x - 1).ravel(), rtol=1e-6)
    np.testing.assert_allclose(seen(norm), 12 * x.ravel(), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(partial(first_layer_input, plain)))(IMAGES), 3 * IMAGES.reshape(N, -1),
                               rtol=1e-6)
    assert seen(jnp.sum) is None
    network = jax.jit(lambda: pm.pure(pm.ConvNet((4, 4, 1), CLASSES, (8,), rngs=nnx.Rngs(0))))()
    np.testing.assert_allclose(np.asarray(seen(network))[0], 2 * x - 1, rtol=1e-6)


# Diffusion with the exact predictor of pixels that are independent normal, N(0, 0.3^2) in [-1, 1].

GREY = np.clip(0.5 + 0.15 * RANDOM.normal(size=(N, *SHAPE)), 0, 1).astype(np.float32)


def predictor(x_t, t):
    """Of a network that was trained with the times 0..999 of the linear schedule."""
    ab = jnp.asarray(schedules.linear().alpha_bar, jnp.float32)[jnp.clip(t.astype(jnp.int32) + 1, 1, 1000)]
    return x_t * jnp.sqrt(1 - ab) / (0.3**2 * ab + 1 - ab)


def timed(steps, images=GREY):
    return found(preflight.purification_time, purifier=pm.diffusion(predictor, steps), images=images)


@pytest.mark.parametrize("sampler", [*samplers.SAMPLERS.values(), pm.heun, pm.dpm, pm.one_step])
@pytest.mark.parametrize("steps", [1000, 100])
def test_a_purification_time_of_the_right_size_passes(sampler, steps):
    assert timed(sampler(schedules.respaced(schedules.linear(), steps), steps // 10)) == []


@pytest.mark.parametrize("schedule, t_star, severity, message", [
    (schedules.linear(), 0, "warning", "purifies nothing"),
    (schedules.linear(), 1, "warning", "noise of 0.005 in pixel units only"),  # sqrt(1e-4) / 2
    (schedules.respaced(schedules.linear(), 100), 100, "warning", "leaves 0.6% of the image"),  # t* of 1000 was meant
    (schedules.linear(100, 1e-3, 0.2), 10, "error", "at 10 times it"),  # the respaced schedule's noise, not its times
    (schedules.linear()._replace(time=np.arange(-1, 1000) / 1000), 100, "error", "at 1000 times it"),
])
def test_a_purification_time_in_the_wrong_unit(schedule, t_star, severity, message):
    (finding,) = timed(pm.ddpm(schedule, t_star))
    assert finding.severity == severity and message in finding.message


@pytest.mark.parametrize("predictor", [
    lambda x_t, t: 0 * x_t,
    lambda x_t, t: -x_t,  # the sign of a score's
], ids=["nothing", "score"])
def test_a_predictor_of_no_noise_is_warned_of(predictor):
    steps = pm.ddpm(schedules.respaced(schedules.linear(), 100), 10)
    (finding,) = found(preflight.purification_time, purifier=pm.diffusion(predictor, steps), images=GREY)
    assert finding.severity == "warning" and "predicting no noise at all errs by 1" in finding.message
    assert "pm.from_score" in finding.remedy


def test_a_fraction_of_the_process_is_refused_where_steps_are_meant():
    with pytest.raises(ValueError, match="multiply a fraction"):
        pm.ddpm(schedules.linear(), 0.1)


def test_other_purifiers_have_no_time_to_check():
    assert found(preflight.purification_time) == []


def test_attack_and_defence_with_other_steps():
    short, full = (pm.diffusion(predictor, pm.ddim(schedules.respaced(schedules.linear(), 10 * n), n)) for n in (2, 10))
    finding = only(preflight.same_defence, purifier=full, seen=short, images=GREY)
    assert "(2 steps instead of 10)" in finding.message
    assert not found(preflight.same_defence, purifier=full, seen=full, images=GREY)
    assert not found(preflight.same_defence, purifier=full, seen=pm.straight_through(full), images=GREY)


def test_warnings_are_warned_and_errors_are_raised_together():
    warning, *errors = (Finding("a check", severity, f"found {number}", "mend it")
                        for number, severity in enumerate(["warning", "error", "error"]))
    with pytest.warns(UserWarning, match="a check: found 0; mend it"):
        Findings((warning,)).raise_if_any()
    with pytest.raises(PreflightError, match="a check: found 1; mend it\na check: found 2; mend it"):
        Findings(tuple(errors)).raise_if_any()


@pytest.mark.parametrize("change, message", [
    (dict(images=255 * IMAGES), r"must lie in \[0, 1\]"), (dict(eps=8.0), "8/255 is 0.0314"),
    (dict(labels=LABELS[:3]), rf"shape \({N},\)"), (dict(keys=KEYS[:3]), "one an image"),
    (dict(purifier=lambda x, key: x[:2]), "keep the image's shape"),
])
def test_bad_input_is_refused(change, message):
    given = dict(classifier=sound, purifier=noisy, images=IMAGES, labels=LABELS, keys=KEYS, eps=EPS) | change
    with pytest.raises(ValueError, match=message):
        preflight.preflight(**given)
