"""The benchmark against PyTorch: same function before any time, a row for every task and layout, at a size that says
nothing about speed."""

import copy
from functools import cache, partial

import jax
import pytest

benchmarks = pytest.importorskip("purimetry.experiments.benchmarks", reason="the peers extra", exc_type=ImportError)

pytestmark = pytest.mark.peer

TINY = benchmarks.Setting(channels=(8,), t_star=2, images=4, batch=4, search_steps=2, convolved=2, repeats=1)


@pytest.fixture(scope="module", autouse=True)
def one_case():
    """Its networks are built and compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "Case", cache(benchmarks.Case))
        yield


def test_every_task_is_timed_against_every_layout():
    rows = benchmarks.run(TINY)
    tasks = {row["name"].split(",")[0] for row in rows}
    assert tasks == {"purification", "attack gradient", "rates", "minimum perturbations",
                     "gradient of ten convolutions in a scan"}
    for row in rows:
        assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["ours_seconds"])  # of one repeat, so exactly
    assert [row["peer"] for row in rows if row["name"].startswith("rates")] == list(benchmarks.LAYOUTS)


def test_memory_of_both_sides_is_told():
    rows = benchmarks.memory(TINY)
    assert [row["peer"] for row in rows] == list(benchmarks.LAYOUTS)
    assert all(row["ours_mib"] > 0 and row["ratio"] == row["peer_mib"] / row["ours_mib"] for row in rows)


def test_different_functions_are_not_timed():
    case = copy.copy(benchmarks.Case(TINY))
    case.unet = jax.jit(partial(jax.tree.map, lambda weight: 1.1 * weight))(case.unet)
    with pytest.raises(AssertionError, match="noise predictor: ours and PyTorch's differ by .*expected 1e-04"):
        case.check()
