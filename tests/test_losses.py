"""Objectives of attacks: what they equal, what leaves them alone, and when they are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression.types import Objective

LOGITS = np.float32([2.0, -1.0, 0.5, 1.7, -3.0])
LABELS = range(5)


def objective(logits, label):
    return Objective(jnp.float32(0), pm.margins(logits, jnp.int32(label)))


dlr, log_odds, cross_entropy = map(jax.jit, (pm.dlr, pm.log_odds, pm.cross_entropy))
targeted_dlr = jax.jit(lambda logits, label, rival: pm.targeted_dlr(objective(logits, label), rival))


@pytest.mark.parametrize("label", LABELS)
def test_dlr_is_the_ratio_of_sorted_logits(label):
    z = np.sort(LOGITS)[::-1]
    rival = np.delete(LOGITS, label).max()
    expected = (rival - LOGITS[label]) / (z[0] - z[2])
    np.testing.assert_allclose(dlr(LOGITS, label), expected, rtol=1e-6)


@pytest.mark.parametrize("label", LABELS)
def test_targeted_dlr_is_the_ratio_of_sorted_logits(label):
    z = np.sort(LOGITS)[::-1]
    for rival in set(LABELS) - {label}:
        expected = (LOGITS[rival] - LOGITS[label]) / (z[0] - (z[2] + z[3]) / 2)
        found = targeted_dlr(LOGITS, label, rival)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_dlr_losses_do_not_know_shift_and_scale():
    label, rival = 1, 3
    for other in (LOGITS + 7, 100 * LOGITS, LOGITS / 100 - 2):
        np.testing.assert_allclose(dlr(other, label), dlr(LOGITS, label), rtol=1e-4)  # float32 of 7 - 2
        found = targeted_dlr(other, label, rival)
        np.testing.assert_allclose(found, targeted_dlr(LOGITS, label, rival), rtol=1e-4)


@pytest.mark.parametrize("label", LABELS)
def test_cross_entropy_is_the_softplus_of_the_log_odds(label):
    np.testing.assert_allclose(np.logaddexp(0, log_odds(LOGITS, label)), cross_entropy(LOGITS, label), rtol=1e-6)


def test_log_odds_ascend_where_cross_entropy_has_no_gradient_left():
    """At 1000 times the logits p(label) is 1; the direction must be that of the nearest rival's margin."""
    confident = lambda loss: jax.jit(jax.grad(loss))(1000 * LOGITS, 0)
    np.testing.assert_array_equal(confident(pm.cross_entropy), np.zeros(5))
    np.testing.assert_allclose(confident(pm.log_odds), [-1, 0, 0, 1, 0], atol=1e-6)


@pytest.mark.parametrize("call, classes", [
    (lambda: pm.dlr(jnp.zeros(2), jnp.int32(0)), 3),
    (lambda: pm.targeted_dlr(objective(jnp.zeros(3), 0), jnp.int32(1)), 4),
])
def test_too_few_classes_are_refused(call, classes):
    with pytest.raises(ValueError, match=f"needs at least {classes} classes, got {classes - 1}; use the margin"):
        call()
