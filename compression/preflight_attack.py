"""Checks of a preflight that look at the attack: can its gradients be used, and is it stronger than weaker ones?"""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import jax
import numpy as np

from .checks import check_classifier
from .claim import Claim
from .findings import Finding
from .losses import margin
from .preflight_defence import SIGMAS
from .purifiers.identity import identity
from .purifiers.purify import purify
from .randomness import redraw

TINY = 1e-6
"""l_inf budget that changes nothing."""

LOST = 0.1
"""Share of images without a usable gradient from which an attack is blind."""

LUCK = 0.05
"""Probability of as many right images by chance from which they may be right by chance."""

TOLD = 4.0
"""Factor by which a small step along the gradient may gain more, or less, than the gradient promises."""


def finite_gradients(claim: Claim) -> Iterator[Finding]:
    """Loss and gradient are finite at a random point of the budget."""
    bad = ~claim.probe.finite
    if bad.any():
        yield Finding("finite_gradients", "error", f"loss or gradient is not finite for image {bad.argmax()} and "
                      f"{bad.sum() - 1} more of {len(bad)}", "look for square roots, norms and divisions at 0, and for "
                      "overflow; or replace the purifier's Jacobian (pm.straight_through)",
                      {"share": bad.mean()})


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


def no_budget(claim: Claim) -> Iterator[Finding]:
    """At eps = 0 robust accuracy is clean accuracy, which is above chance, and the one that is known."""
    yield from _no_better_than_chance(claim)
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


def _no_better_than_chance(claim: Claim) -> Iterator[Finding]:
    """Clean images are right no more often than chance may have it; of too few to tell it says nothing."""
    from scipy.special import bdtrc

    chance, n = 1 / check_classifier(claim.classifier, claim.images[:1]), len(claim.clean)
    by_chance = lambda right: bdtrc(int(right.sum()) - 1, n, chance)  # so many or more
    if chance**n > LUCK or by_chance(claim.clean) <= LUCK:
        return
    found, alone = float(claim.clean.mean()), f"and the bare classifier is right on {claim.bare.mean():.1%}"
    behind = claim.purifier is not identity
    spoilt = behind and by_chance(claim.bare) <= LUCK
    yield Finding("no_budget", "error" if found <= chance else "warning",
                  f"clean accuracy is {found:.1%} on {n} images{f', {alone}' if behind else ''}, expected clearly more "
                  f"than chance, {chance:.1%}",
                  "the purifier leaves nothing to recognise: check its range of pixels, its order of channels and t*"
                  if spoilt else "check that labels are numbered as the classifier's classes are, the normalisation, "
                  "and the order of channels (RGB); or take more images, if that is all it can do",
                  {"clean": found, "chance": chance, "bare": claim.bare.mean()})


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
    chance = 1 / check_classifier(claim.classifier, claim.images[:1])
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
    own, redrawn = (purify(claim.purifier, claim.images, keys) for keys in (claim.keys, others))
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
