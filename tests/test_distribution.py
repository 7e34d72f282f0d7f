"""What orders purifiers, on features whose distances are known, and which feature spaces a run has."""

from types import SimpleNamespace

import numpy as np
import pytest

from purimetry.experiments import distribution
from purimetry.experiments.configuration import Configuration
from purimetry.figures.tables_distribution import paper_correlation

RANDOM = np.random.default_rng(0)


def test_order_gives_each_cells_distances_rates_and_accuracies():
    clean = RANDOM.normal(size=(40, 3))
    after = np.stack([clean + shift for shift in ([0, 0, 0], [3.0, 0, 4])], 1)
    rate, cosine = np.tile([0.2, 0.4], (40, 1)), np.tile([0.01, 0.02], (40, 1))
    robust = [np.arange(40)[:, None] < counts for counts in ([40, 20], [10, 0])]
    found = dict(zip(distribution.QUANTITIES, distribution.order(clean, after[:, ::-1], after, cosine, rate, *robust),
                     strict=True))
    np.testing.assert_allclose(found["frechet"], [0, 25], atol=1e-9)  # a shift by one vector
    np.testing.assert_allclose(found["kernel"][0], 0, atol=1e-9)
    assert found["kernel"][1] == pytest.approx(found["kernel_before"][0]) and found["kernel"][1] > 1
    expected = {"rate": [0.2, 0.4], "cosine": [0.01, 0.02], "paper": [1, 0.5], "converged": [0.25, 0]}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values)
    np.testing.assert_allclose(
        distribution.rank_correlations(np.stack(list(found.values())), "converged"), [-1, -1, -1, -1])


def test_a_run_has_the_feature_spaces_whose_weights_it_is_given(tmp_path):
    one, other = tmp_path / "clip.safetensors", tmp_path / "clip2.safetensors"
    one.write_bytes(b"1"), other.write_bytes(b"2")
    of = lambda **given: distribution.spaces(SimpleNamespace(configuration=Configuration(**given)))
    assert [str(space) for space in of()] == ["penultimate"]
    (_, first), (_, second) = of(clip=one), of(clip=other)
    assert first.name == second.name == "clip"
    assert str(first) != str(second) and str(first).startswith("clip-")  # shards of other weights are others
    assert Configuration(clip=one).determinants() == Configuration().determinants()


def test_a_file_of_weights_that_is_not_there_is_said_at_once(tmp_path):
    with pytest.raises(ValueError, match="--inception .*: there is no such file; download"):
        Configuration(inception=tmp_path / "missing.pth")


def test_the_papers_own_numbers_give_its_own_correlations():
    """By hand: within DDPM its FID falls in every step in which robust accuracy rises; reverse-only's turns."""
    assert paper_correlation("frechet", "ddpm") == pytest.approx(-1)
    assert paper_correlation("frechet", "reverse") == pytest.approx(0.4)  # ranks 4 1 2 3 5 against 1 2 3 4 5
    assert paper_correlation("rate", "reverse") == pytest.approx(-1)
    assert paper_correlation("kernel", "all") is None and paper_correlation("rate", "vpsde") is None
