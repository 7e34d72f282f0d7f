"""Preflight: checks of defence, gradient and attack before a robustness number is believed.

Each check looks for one way in which robustness claims have been overturned: randomness where it was said to be
fixed, masked gradients, attacks that do not converge, budgets, times, step counts and normalisations mixed up. What
passes is not proved right; what does not pass is not to be believed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from .batches import over_images
from .callables import as_pytree
from .checks import (
    check_budget, check_classifier, check_images, check_keys, check_labels, check_purifier, check_shape,
)
from .claim import Claim, view_margin
from .findings import Finding, Findings
from .first_layer import first_layer_input
from .losses import margin
from .purifiers.diffusion import is_diffusion, parts
from .purifiers.identity import identity
from .randomness import PROBE, normal, redraw, step_key
from .types import Classifier, Purifier

TINY = 1e-6
"""l_inf budget that changes nothing."""

LOST = 0.1
"""Share of images without a usable gradient from which an attack is blind."""

TOLD = 4.0
"""Factor by which a small step along the gradient may gain more, or less, than the gradient promises."""

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


def preflight(
    classifier: Classifier, purifier: Purifier, images, labels, keys, eps: float, *,
    on_check: Callable[[str], None] = lambda name: None, **settings,
) -> Findings:
    """Make all checks of a robustness claim; `.raise_if_any()` of what is returned raises what forbids to believe it.

    images: [n, height, width, channel] in [0, 1]; 32 are enough for all but mild flaws. labels, keys: [n].
    settings: the fields of `Claim` after eps. on_check: told each check before it is made.

    Takes about as long as five attacks of these images. l_inf only.

    >>> import purimetry as pm
    >>> images = np.random.default_rng(0).uniform(size=(16, 2, 2, 1)).astype(np.float32)
    >>> classifier = lambda x: jnp.stack([0.0, 9 * (x.mean() - 0.5)])
    >>> labels, keys = (images.mean((1, 2, 3)) > 0.5).astype(int), pm.configurations(0, np.arange(16))
    >>> preflight(classifier, pm.identity, images, labels, keys, 0.1).found
    ()
    """
    check_images(images)
    check_labels(labels, len(images))
    check_budget(eps)
    check_keys(keys, len(images))
    check_shape(purifier, images[0], keys[0])
    claim = Claim(classifier, purifier, np.asarray(images), np.asarray(labels), keys, float(eps), **settings)
    found, passed, names = [], [], [check.__name__ for check in (*CONTRACT, *CHECKS)]
    for check in (*CONTRACT, *CHECKS):
        if check not in CONTRACT and any(f.severity == "error" and f.check in names[: len(CONTRACT)] for f in found):
            break
        on_check(check.__name__)
        new = list(check(claim))
        found += new
        passed += [check.__name__] if not new else []
    made = {*passed, *(finding.check for finding in found)}
    return Findings(tuple(found), tuple(passed), tuple(name for name in names if name not in made))


# What an attack needs before it can run at all.


def fixed_randomness(claim: Claim) -> Iterator[Finding]:
    """The same image and key give the same output, when traced twice and when run twice."""
    parts = (claim.view, as_pytree(claim.classifier), as_pytree(claim.purifier))
    outputs = [_twice(*parts, jnp.asarray(claim.images), jnp.asarray(claim.labels), claim.keys) for _ in range(2)]
    (first, *others) = [np.asarray(margins) for pair in outputs for margins in pair]
    spread = max(float(np.nanmax(np.abs(other - first), initial=0)) for other in others)
    if not all(np.array_equal(first, other, equal_nan=True) for other in others):
        yield Finding("fixed_randomness", "error", f"the output is random although its key is fixed (margins differ by "
                      f"up to {spread:g})", "draw all noise from the key that the purifier is given",
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
    yield from _refused("purified_pixels", check_purifier, claim.purifier, claim.images, claim.keys)


def _refused(name: str, check: Callable, *arguments) -> Iterator[Finding]:
    """What one of `checks` raises, as a finding."""
    try:
        check(*arguments)
    except (ValueError, FloatingPointError) as error:
        message, _, remedy = str(error).partition("; ")
        yield Finding(name, "error", message, remedy)


def finite_gradients(claim: Claim) -> Iterator[Finding]:
    """Loss and gradient are finite at a random point of the budget."""
    bad = ~claim.probe.finite
    if bad.any():
        yield Finding("finite_gradients", "error", f"loss or gradient is not finite for image {bad.argmax()} and "
                      f"{bad.sum() - 1} more of {len(bad)}", "look for square roots, norms and divisions at 0, and for "
                      "overflow; or replace the purifier's Jacobian (pm.straight_through)",
                      {"share": bad.mean()})


# The defence.


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
    rows = (claim.images, claim.keys)
    true, seen = (over_images(_purified, (f,), *rows) for f in (claim.purifier, claim.seen))
    apart = float(np.abs(true - seen).max())
    if apart > 1e-5:  # float32, other fusions
        counts = [len(parts(f)[1].t) for f in (claim.seen, claim.purifier) if is_diffusion(f)]
        told = " ({} steps instead of {})".format(*counts) if len(counts) == 2 else ""
        yield Finding("same_defence", "error", f"the attack sees another purifier than the one it is judged by{told}, "
                      f"pixels differ by up to {apart:.2g}",
                      "use the same steps, or pm.straight_through(purifier, surrogate) and say so",
                      {"apart": apart})


# The gradient.


def usable_gradients(claim: Claim) -> Iterator[Finding]:
    """Gradients are neither zero nor so small that the whole budget promises less than the loss's rounding."""
    lost, zero = claim.probe.reach <= claim.probe.rounding, (claim.probe.reach == 0).mean()
    if lost.any():
        yield Finding("usable_gradients", "error" if lost.mean() > LOST else "warning",
                      f"the gradient is zero for {zero:.0%} of the images, and too small to be of use for "
                      f"{lost.mean() - zero:.0%} more", "attack the margin instead of cross-entropy; where the "
                      "purifier rounds or saturates, replace its Jacobian (pm.bpda) or use no gradients",
                      {"zero": zero, "lost": lost.mean()})


def truthful_gradients(claim: Claim) -> Iterator[Finding]:
    """A step of eps / 8 along the gradient's sign gains about what the gradient promises."""
    promised, gained = float(claim.probe.promised.sum()), float(claim.probe.gained.sum())
    if promised <= 0 or 1 / TOLD <= gained / promised <= TOLD:
        return
    ratio, shattered = gained / promised, gained < promised
    yield Finding("truthful_gradients", "error" if shattered and claim.seen is None else "warning",
                  f"small steps along the gradient gain {ratio:.2g} times what it promises, expected about 1",
                  "the gradient is shattered or not the loss's: replace the Jacobian of what oscillates "
                  "(pm.bpda), average over draws, or attack without gradients" if shattered else
                  "the gradient is flatter than the loss: attack the margin, or replace the Jacobian of what saturates",
                  {"gained_over_promised": ratio})


# The attack.


def no_budget(claim: Claim) -> Iterator[Finding]:
    """At eps = 0 robust accuracy is clean accuracy, and clean accuracy is the one that is known."""
    tiny = ~claim.clean | (claim.margins(claim.attacked(TINY).x) >= 0)
    flipped = tiny & claim.clean
    if flipped.any():
        yield Finding("no_budget", "error", f"a budget of {TINY:g} breaks {flipped.sum()} of {claim.clean.sum()} "
                      "images that are right when clean, expected none", "look for what the defence does to clean "
                      "images alone (rounding, caching), and for a discontinuous purifier",
                      {"flipped": flipped.mean()})
    known, n = claim.clean_accuracy, len(claim.clean)
    if known is not None:
        found, se = float(claim.clean.mean()), (max(known * (1 - known), 1 / n) / n) ** 0.5
        if abs(found - known) > (1 + SIGMAS) * se:
            yield Finding("no_budget", "error", f"clean accuracy is {found:.1%} here, {known:.1%} was stated",
                          "use the same images, labels, preprocessing and weights in both",
                          {"clean": found, "stated": known})


def rising_loss(claim: Claim) -> Iterator[Finding]:
    """A larger budget, which holds the smaller one, gives the attack a larger margin."""
    for low, high in pairwise(claim.rise):
        rise = claim.rise[high] - claim.rise[low]
        if rise.mean() <= SIGMAS * rise.std() / len(rise) ** 0.5:
            yield Finding("rising_loss", "error", f"from eps = {low:g} to {high:g} the attacked margin changes by "
                          f"{rise.mean():.3g} on average, expected a clear rise", "the attack does not ascend: raise "
                          "its steps, check its step size and gradient", {"rise": rise.mean(), "eps": high})


def large_budget(claim: Claim) -> Iterator[Finding]:
    """At eps = 0.5, where every image can become the same grey, robust accuracy is at most chance."""
    robust = float((claim.clean & (claim.rise[max(claim.rise)] < 0)).mean())
    chance = 1 / over_images(_logits, (claim.classifier,), claim.images[:1]).shape[1]
    if robust > chance + SIGMAS * (chance * (1 - chance) / len(claim.images)) ** 0.5:
        yield Finding("large_budget", "error", f"robust accuracy is {robust:.1%} at eps = {max(claim.rise):g}, "
                      f"expected at most chance, {chance:.1%}", "it is the attack that fails: its gradients are masked "
                      "or its steps too few", {"robust": robust, "chance": chance})


def gradient_free(claim: Claim) -> Iterator[Finding]:
    """An attack without gradients breaks nothing that the attack leaves standing."""
    found = claim.attacked(claim.eps, claim.gradient_free, purifier=claim.purifier, criterion=margin)
    yield from _weaker(claim, "gradient_free", "an attack without gradients", found.margin >= 0)


def transfer(claim: Claim) -> Iterator[Finding]:
    """Adversarial images of the bare classifier, or of another xi, break nothing that the attack leaves standing."""
    sources, others = {}, jax.vmap(partial(redraw, number=0))(claim.keys)
    own, redrawn = (over_images(_purified, (claim.purifier,), claim.images, keys) for keys in (claim.keys, others))
    if claim.purifier is not identity:
        sources["the bare classifier"] = {"purifier": identity}
    if not np.array_equal(own, redrawn):
        sources["another xi"] = {"keys": others}
    for name, source in sources.items():
        found = claim.attacked(claim.eps, **source)
        yield from _weaker(claim, "transfer", f"an attack of {name}", claim.margins(found.x) >= 0)


def _weaker(claim, check, name, also) -> Iterator[Finding]:
    """`also`: whether an attack that ought to be weaker broke each image."""
    also = also | ~claim.clean
    only, missed = int((also & ~claim.broken).sum()), int((claim.broken & ~also).sum())
    if only:
        yield Finding(check, "error" if only > missed else "warning",
                      f"{name} breaks {only} of {len(also)} images that the attack with gradients leaves standing, "
                      f"which breaks {missed} others",
                      "gradients are masked or the attack is too short: report the stronger one, and find out why",
                      {"only": only, "missed": missed, "robust": (~claim.broken).mean(), "other": (~also).mean()})


CONTRACT = (fixed_randomness, logits, purified_pixels, finite_gradients)
"""Without these no attack can run; the others are skipped when one of them fails."""

CHECKS = (
    normalisation, purification_time, same_defence, usable_gradients, truthful_gradients, no_budget, rising_loss,
    large_budget, gradient_free, transfer,
)
"""All the others, in the order in which they are made."""


@partial(jax.jit, static_argnums=0)
def _twice(view, classifier, purifier, images, labels, keys):
    """Two traces, so that noise which is drawn while tracing differs between them."""
    apply = lambda: jax.vmap(lambda *row: view_margin(view, classifier, purifier, *row))(images, labels, keys)
    return apply(), apply()


def _logits(classifier, x):
    return classifier(x)


def _right(classifier, x, label):
    return jnp.argmax(classifier(x)) == label


def _purified(purifier, x, key):
    return purifier(x, key)


def _first_layer(classifier, x):
    return first_layer_input(classifier, x)


def _noise_errors(predictor, x, key, left, told):
    """Mean squared error of the predicted noise at t*, for each factor of the time that is told."""
    noise = normal(step_key(key, PROBE, 1), x)
    x_t = left * (2 * x - 1) + jnp.sqrt(1 - left**2) * noise
    error = lambda factor: jnp.mean((predictor(x_t, told * factor) - noise) ** 2)
    return jnp.stack([error(jnp.float32(factor)) for factor in FACTORS])
