"""Checks of a preflight that look at the defence: its contract, its normalisation, its times, and what attacks see."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .batches import over_images
from .callables import as_pytree
from .checks import check_classifier, check_labels, check_range, traced_twice
from .claim import Claim, view_margin
from .findings import Finding
from .first_layer import first_layer_input
from .purifiers.diffusion import is_diffusion, parts
from .purifiers.purify import purify
from .randomness import PROBE, normal, step_key

FAINT, DROWNED = 0.01, 0.1
"""Standard deviation of the noise at t*, in pixel units, below which hardly anything is purified; share of the image
in x_t* below which hardly anything of it is left."""

USELESS = 0.9
"""Mean squared error of a noise predictor, of 1 for predicting none, above which it denoises hardly anything; a warning
only, for of images whose pixels have nothing to do with one another the best one is no better at small t*."""

FACTORS = (1, 1e-3, 1e-2, 0.1, 10, 100, 1000)
"""Units in which a time may have been told: steps respaced by some factor, or a fraction of the process."""

SIGMAS = 2.0
"""Standard errors from which a difference counts."""

NORMALISATIONS = {
    "2 x - 1": (0.5, 0.5),
    "255 x": (0.0, 1 / 255),
    "ImageNet's mean and deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of what networks expect; those of the images at hand are tried too."""


def fixed_randomness(claim: Claim) -> Iterator[Finding]:
    """The same image and key give the same pixels and margins, when traced twice and when run twice."""
    parts = (claim.view, as_pytree(claim.classifier), as_pytree(claim.purifier))
    rows = jnp.asarray(claim.images), jnp.asarray(claim.labels), claim.keys
    first, *others = (jax.device_get(once) for _ in range(2) for once in _twice(*parts, *rows))
    pairs = [pair for other in others for pair in zip(first, other, strict=True)]
    if not all(np.array_equal(*pair, equal_nan=True) for pair in pairs):
        spread = max(float(np.nanmax(np.abs(a - b), initial=0)) for a, b in pairs)
        yield Finding("fixed_randomness", "error", "the output is random although its key is fixed (pixels or margins "
                      f"differ by up to {spread:g})", "draw all noise from the key that the purifier is given",
                      {"spread": spread})


def logits(claim: Claim) -> Iterator[Finding]:
    """The classifier gives finite logits of at least two classes, neither probabilities nor sigmoids of them."""
    refused = list(_refused("logits", check_classifier, claim.classifier, claim.images))
    yield from refused
    if refused:
        return
    given = over_images(_logits, (claim.classifier,), claim.images)
    yield from _refused("logits", check_labels, claim.labels, *given.shape)
    if given.min() >= 0 and given.max() <= 1:
        yield Finding("logits", "warning", "all outputs lie in [0, 1], as probabilities do and logits seldom",
                      "remove the sigmoid or softmax", {"smallest": given.min(), "largest": given.max()})


def purified_pixels(claim: Claim) -> Iterator[Finding]:
    """The purifier gives finite pixels in [0, 1]."""
    yield from _refused("purified_pixels", lambda: check_range(purify(claim.purifier, claim.images, claim.keys)))


def _refused(name: str, check: Callable, *arguments) -> Iterator[Finding]:
    """What one of `checks` raises, as a finding."""
    try:
        check(*arguments)
    except (ValueError, FloatingPointError) as error:
        message, _, remedy = str(error).partition("; ")
        yield Finding(name, "error", message, remedy)


def normalisation(claim: Claim) -> Iterator[Finding]:
    """The classifier does best on the pixels themselves, and its first layer sees numbers of the usual size.

    A classifier that does better on normalised pixels lacks its normalisation; one that does better where it is
    undone has it twice. Accuracy has to suffer for that to be seen. First layers expect means and standard
    deviations within a few units of 0 and 1.
    """
    accuracy = lambda x: over_images(_right, (claim.classifier,), x.astype(np.float32), claim.labels)
    plain, best = accuracy(claim.images), None
    own = claim.images.mean((0, 1, 2)), claim.images.std((0, 1, 2)) + 1e-6
    for name, (mean, std) in {**NORMALISATIONS, "mean and deviation of these images": own}.items():
        mean, std = np.asarray(mean), np.asarray(std)
        if mean.size not in (1, claim.images.shape[-1]):
            continue
        for flaw, remedy, other in (
            ("is missing", "normalise inside the classifier", (claim.images - mean) / std),
            ("is applied twice", "give the classifier pixels in [0, 1] and normalise in one place",
             claim.images * std + mean),
        ):
            right = accuracy(other)
            gained, lost = int((right & ~plain).sum()), int((plain & ~right).sum())
            if gained - lost > SIGMAS * (gained + lost) ** 0.5 and (best is None or right.mean() > best[0]):
                best = right.mean(), name, flaw, remedy
    if best is not None:
        share, name, flaw, remedy = best
        yield Finding("normalisation", "error", f"the classifier is right on {plain.mean():.1%} of the clean images, "
                      f"but on {share:.1%} as if {name} {flaw}", remedy, {"plain": plain.mean(), "other": share})
    if jax.eval_shape(partial(first_layer_input, claim.classifier), jnp.asarray(claim.images[0])) is None:
        return
    seen = over_images(_first_layer, (claim.classifier,), claim.images)
    mean, std = float(seen.mean()), float(seen.std())
    if abs(mean) > 1.75 or not 0.02 < std < 3:
        yield Finding("normalisation", "warning", f"the first layer sees numbers of mean {mean:.3g} and standard "
                      f"deviation {std:.3g}, expected about 0 and 1", "normalise pixels in [0, 1] once",
                      {"mean": mean, "std": std})


def purification_time(claim: Claim) -> Iterator[Finding]:
    """A diffusion purifier's t* adds noise worth the name, leaves an image, and is told in the predictor's own unit.

    The unit is checked by what it is for: the noise predictor has to do best at the time that it is told.
    """
    if not is_diffusion(claim.purifier):
        return
    predictor, steps, _ = parts(claim.purifier)
    if len(steps.t) == 0:
        yield Finding("purification_time", "warning", "t* is 0, which purifies nothing", "give t* in steps: a fraction "
                      "of the process times the number of steps", {"t_star": 0})
        return
    t_star, left, told = int(steps.t[0]), float(steps.signal[0]), float(steps.time[0])
    noise = np.sqrt(max(1 - left**2, 0)) / left / 2
    measured = {"t_star": t_star, "noise": noise, "left": left, "time": told}
    where = f"t* = {t_star} steps, the predictor's time {told:g},"
    if noise < FAINT:
        yield Finding("purification_time", "warning", f"{where} adds noise of {noise:.2g} in pixel units only",
                      "give t* in steps of this schedule: a fraction or a step of a respaced one must be multiplied",
                      measured)
    if left < DROWNED:
        yield Finding("purification_time", "warning", f"{where} leaves {left:.1%} of the image in the noise",
                      "give t* in steps of this schedule: a step of the unrespaced one has to be divided", measured)
    rows = (claim.images, claim.keys, *(np.full(len(claim.images), v, np.float32) for v in (left, told)))
    errors = over_images(_noise_errors, (predictor,), *rows, name="predicted noise").mean(0)
    best = int(errors.argmin())
    if errors[best] < 0.75 * errors[0]:
        yield Finding("purification_time", "error", f"the noise predictor errs by {errors[0]:.3f} at the time it is "
                      f"told, {told:g}, and by {errors[best]:.3f} at {FACTORS[best]:g} times it",
                      "give the schedule the times that the network was trained with (pm.respaced)",
                      measured | {"error": errors[0], "other_error": errors[best], "factor": FACTORS[best]})
    elif noise >= FAINT and errors[0] > USELESS:
        yield Finding("purification_time", "warning", f"the noise predictor errs by {errors[0]:.3f} at t* = {t_star} "
                      "steps, where predicting no noise at all errs by 1",
                      "check its weights, the schedule that it was trained on, and what it predicts: pm.from_v, "
                      "pm.from_x0 and pm.from_score make noise of others",
                      measured | {"error": errors[0]})


def same_defence(claim: Claim) -> Iterator[Finding]:
    """What the attack sees has the defence's own output: a surrogate may replace its Jacobian, not its values."""
    if claim.seen is None:
        return
    true, seen = (purify(f, claim.images, claim.keys) for f in (claim.purifier, claim.seen))
    apart = float(np.abs(true - seen).max())
    if apart > 1e-5:  # float32, other fusions
        counts = [len(parts(f)[1].t) for f in (claim.seen, claim.purifier) if is_diffusion(f)]
        told = " ({} steps instead of {})".format(*counts) if len(counts) == 2 else ""
        yield Finding("same_defence", "error", f"the attack sees another purifier than the one it is judged by{told}, "
                      f"pixels differ by up to {apart:.2g}",
                      "use the same steps, or pm.straight_through(purifier, surrogate) and say so",
                      {"apart": apart})


@partial(jax.jit, static_argnums=0)
def _twice(view, classifier, purifier, images, labels, keys):
    outputs = lambda x, label, key: (purifier(x, key), view_margin(view, classifier, purifier, x, label, key))
    return traced_twice(outputs, images, labels, keys)


def _logits(classifier, x):
    return classifier(x)


def _right(classifier, x, label):
    return jnp.argmax(classifier(x)) == label


def _first_layer(classifier, x):
    return first_layer_input(classifier, x)


def _noise_errors(predictor, x, key, left, told):
    """Mean squared error of the predicted noise at t*, for each factor of the time that is told."""
    noise = normal(step_key(key, PROBE, 1), x)
    x_t = left * (2 * x - 1) + jnp.sqrt(1 - left**2) * noise
    error = lambda factor: jnp.mean((predictor(x_t, told * factor) - noise) ** 2)
    return jax.lax.map(error, jnp.array(FACTORS, jnp.float32))  # a network of each would take long to compile
