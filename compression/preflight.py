"""Preflight: checks of defence, gradient and attack before a robustness number is believed.

Each check looks for one way in which robustness claims have been overturned: randomness where it was said to be
fixed, masked gradients, attacks that do not converge, budgets, times, step counts and normalisations mixed up. What
passes is not proved right; what does not pass is not to be believed.
"""

from collections.abc import Callable

import numpy as np

from .checks import check_budget, check_images, check_keys, check_labels, check_shape
from .claim import Claim, check_settings
from .findings import Findings
from .preflight_attack import (
    finite_gradients, gradient_free, large_budget, no_budget, rising_loss, transfer, truthful_gradients,
    usable_gradients,
)
from .preflight_defence import fixed_randomness, logits, normalisation, purification_time, purified_pixels, same_defence
from .types import Classifier, Purifier

CONTRACT = (fixed_randomness, logits, purified_pixels, finite_gradients)
"""Without these no attack can run; the others are skipped when one of them fails."""

CHECKS = (
    normalisation, purification_time, same_defence, usable_gradients, truthful_gradients, no_budget, rising_loss,
    large_budget, gradient_free, transfer,
)
"""All the others, in the order in which they are made."""


def preflight(
    classifier: Classifier, purifier: Purifier, images, labels, keys, eps: float, *,
    on_check: Callable[[str], None] = lambda name: None, **settings,
) -> Findings:
    """Make all checks of a robustness claim; `.raise_if_any()` of what is returned raises what forbids to believe it.

    images: [n, height, width, channel] in [0, 1]; 32 are enough for all but mild flaws. labels, keys: [n].
    settings: the fields of `Claim` after eps. on_check: told each check before it is made.

    Takes about as long as five attacks of these images. l_inf only.

    >>> import jax.numpy as jnp
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
    check_settings(settings)
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
