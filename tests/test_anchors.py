"""The comparison of two survival distributions, where the answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from purimetry.compression.survival import MinimumPerturbations
from purimetry.experiments import anchors
from purimetry.experiments.anchors import compare
from purimetry.experiments.workbench import Unmet

CLEAN = np.random.default_rng(0).normal(0.1, 0.02, 200).clip(0.01)


def perturbations(distance, limit=0.5):
    distance = np.asarray(distance)
    return MinimumPerturbations(np.minimum(distance, limit), distance > limit, np.zeros(len(distance), int))


def test_no_test_rejects_equal_distances_and_no_image_says_anything():
    """Every image alone has the same effect, none, so that no resample shows what other images might have."""
    found = compare(perturbations(CLEAN), perturbations(CLEAN), 0.01, 200)
    assert found.of_medians.outcome == "undecided" and found.of_medians.effect.value == 0
    assert found.of_pairs.value == 0 and found.spearman.value == pytest.approx(1)
    assert min(test.p for test in found.tests.values()) > 0.99


def test_a_scaled_distribution_is_found_with_its_shift():
    found = compare(perturbations(1.3 * CLEAN), perturbations(CLEAN), 0.01, 200)
    assert found.of_medians.outcome == "contradicted"
    assert found.of_medians.effect.value == pytest.approx(0.3 * np.median(CLEAN))
    assert found.of_pairs.value == pytest.approx(0.3 * np.median(CLEAN))
    assert max(test.p for test in found.tests.values()) < 1e-6
    assert found.tests["log_rank"].statistic < 0 and found.tests["signed_rank"].statistic == 1


def test_the_same_values_at_other_images_are_alike_though_no_pair_agrees():
    shuffled = np.random.default_rng(1).permutation(CLEAN)
    found = compare(perturbations(shuffled), perturbations(CLEAN), 0.01, 200)
    assert found.of_medians.effect.value == 0 and found.of_medians.outcome == "supported"
    assert abs(found.spearman.value) < 0.3
    assert found.tests["kolmogorov_smirnov"].p == pytest.approx(1)


def test_censoring_beyond_both_medians_moves_neither():
    free, cut = (compare(perturbations(1.2 * CLEAN, limit), perturbations(CLEAN, limit), 0.01, 200)
                 for limit in (0.5, 0.13))
    assert cut.of_medians.effect.value == free.of_medians.effect.value
    assert cut.tests["log_rank"].p < 0.001


def test_a_classifier_that_errs_on_most_images_leaves_nothing_to_compare(monkeypatch):
    monkeypatch.setattr(anchors, "distances", lambda bench, cell: perturbations(np.array([0.0, 0.0, 0.1])))
    with pytest.raises(Unmet, match="errs on half of the clean images"):
        anchors.run(SimpleNamespace(configuration=None))
