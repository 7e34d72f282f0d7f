"""A run's forecast: passes of an image as the experiments make them, times what a pass takes."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from purimetry.compression import batches
from purimetry.compression.batches import calls_of
from purimetry.experiments import (
    forecast, minimum_perturbation, models, prediction, preflight, progress, rates, robust_accuracy,
)
from purimetry.experiments.command_line import main
from purimetry.experiments.configuration import Configuration
from purimetry.experiments.workbench import BARE, Cell, Workbench
from purimetry.experiments.pieces import Passes


@pytest.fixture
def networks(monkeypatch):
    """They compile in no time."""
    monkeypatch.setattr(models, "classifier", lambda *_: (lambda x: jnp.arange(10.0) * x.mean(), "c" * 64))
    monkeypatch.setattr(models, "denoiser", lambda *_: (lambda x, t: 0 * x, "d" * 64))


@pytest.fixture
def bench(tmp_path, networks):
    told = dict(images=5, samplers=("ddpm",), t_stars=(2, 4), eps=(0.1, 0.2), seeds=(0, 1), draws=3)
    return Workbench(Configuration(out=tmp_path, attack_steps=7, attack_restarts=3, paper_steps=11, **told))


@pytest.fixture
def rows_of_calls(monkeypatch):
    """How many images the compiled calls of a test had."""
    over_shard, seen = batches._over_shard, set()
    monkeypatch.setattr(batches, "_over_shard", lambda *given: seen.add(len(given[2][0])) or over_shard(*given))
    return seen


def test_seconds_are_those_of_the_classifier_and_of_each_step():
    speed = forecast.Speed((1.0, 2.0), (10.0, 20.0), {Cell("blur", 0): (100.0, 200.0)}, t_star=1, n=4)
    assert speed.seconds(Passes(Cell("ddpm", 3), 2, 5)) == 2 * (1 + 3 * 10) + 5 * (2 + 3 * 20)
    assert speed.seconds(Passes(Cell("blur", 0), 2, 5)) == 2 * (1 + 100) + 5 * (2 + 200)
    assert speed.seconds(Passes(BARE, 2, 5)) == 2 * 1 + 5 * 2


def test_passes_are_what_the_experiments_do(bench):
    grid = two, four = Cell("ddpm", 2), Cell("ddpm", 4)
    assert robust_accuracy.passes(bench)[2:4] == [Passes(BARE, 3, 11), Passes(BARE, 5, 21)]
    gradients = {c: sum(p.gradient for p in robust_accuracy.passes(bench) if p.cell == c) for c in (BARE, *grid)}
    once = 2 * (11 + 3 * 7)
    assert gradients == {BARE: once + 4 * 3 * 7, two: once, four: once + 4 * 3 * 7}  # two are checked at the largest
    assert minimum_perturbation.passes(bench) == 3 * [Passes(BARE, 10 * 3, 10 * 3 * 7)]
    bare = Passes(BARE, 1 + 5, 1 + 5 * 8)
    assert prediction.passes(bench) == [p for c in (two, two, four, four) for p in (Passes(c, 3 * 4, 1 + 3 * 8), bare)]
    sizes = 2 * 2 + 3  # two budgets by two seeds, and 0.025, 0.05, 0.4
    assert rates.passes(bench) == [Passes(cell, 2 + sizes * (1 + 3), 64) for cell in grid]
    assert preflight.passes(bench) == [Passes(BARE, 300, 84), Passes(four, 300, 84), Passes(BARE, 0, 21)]


def test_an_attack_takes_no_more_gradients_than_its_passes(bench):
    found = robust_accuracy.attacked(bench, bench.cells[0], 0.1, "converged")
    assert found["gradients"].max() <= 3 * 7


@pytest.mark.parametrize("shape, told, n", [
    ((8, 8, 1), None, 16), ((32, 32, 3), None, 16), ((64, 64, 3), None, 4), ((256, 256, 3), None, 1),
    ((256, 256, 3), 2, 2),
])
def test_an_attack_on_large_images_has_the_memory_for_those_in_a_call_or_was_told_how_many(
    bench, rows_of_calls, shape, told, n
):
    bench.images = np.full((5, *shape), 0.5, np.float32)
    with calls_of(told):
        robust_accuracy.attacked(bench, BARE, 0.1, "paper")
        assert rows_of_calls == {n} == {robust_accuracy.together(bench.images)}


def test_a_forecast_tells_its_parts_its_basis_and_what_it_lacks(bench, monkeypatch):
    monkeypatch.setattr(forecast, "measure", lambda bench: forecast.Speed((0.1, 0.0), (0.0, 0.0), {}, 2, 4))
    forwards = sum(p.forward for p in prediction.passes(bench))
    said = forecast.forecast(bench, ["prediction", "diagnosis"], processes=2)
    assert f"at most {forwards * 8 * 0.1 / 2:.0f} s on 2 processes" in said  # 5 images are two shards of 4
    assert "without compilation, diagnosis (" in said and "timed in calls of 4 at t* = 2" in said
    assert "--reuse" not in said
    monkeypatch.setattr(bench, "configuration", replace(bench.configuration, reuse=(Path("other"),)))
    assert "what --reuse knows is not measured" in forecast.forecast(bench, ["prediction"], processes=2)


def test_a_forecast_leaves_the_folder_to_a_run(tmp_path, networks, monkeypatch, capsys):
    monkeypatch.setattr(forecast, "measure", lambda bench: forecast.Speed((0.1, 0.0), (0.0, 0.0), {}, 2, 4))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` says warnings its own way
    for images in ("4", "5"):
        told = ["--images", images, "--samplers", "ddpm", "--t-stars", "1", "--workers", "1"]
        assert main(["run", "rates", "--forecast", *told, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert capsys.readouterr().out.count("forecast: at most") == 2


def test_what_has_records_is_not_forecast(bench):
    bench.write("prediction", [])
    assert forecast.forecast(bench, ["prediction"], 1) == "forecast: nothing that takes long is left"
    assert forecast.forecast(bench, ["prediction", "diagnosis"], 1) == "no forecast of diagnosis"


@pytest.mark.parametrize("told, n", [(None, 16), (3, 3)])
def test_a_call_of_the_size_that_attacks_make_is_timed(bench, rows_of_calls, told, n):
    with calls_of(told):
        speed = forecast.measure(bench)
    assert (speed.t_star, speed.n, rows_of_calls) == (2, n, {n})
    assert all(seconds >= 0 for seconds in (*speed.bare, *speed.step)) and speed.bare[0] > 0


def test_progress_is_said_in_a_log_and_once_it_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(progress, "shown", lambda: False)
    progress.say("rates", 0.25, 1800)
    progress.say("rates", 0.25, 5)
    progress.say("rates", 0.5, 120, before=0.4)  # at the pace of the tenth that took two minutes
    progress.say("rates", 0.4, 120, before=0.4)
    assert capsys.readouterr().out == (
        "rates: 25 % done in 30 min, about 1 h 30 min left\nrates: 50 % done in 2 min, about 10 min left\n")


def test_every_long_experiment_of_the_main_run_says_its_passes():
    folder = Path(forecast.__file__).parent
    told = {path.stem for path in folder.glob("*.py") if re.search(r"^def passes", path.read_text(), re.M)}
    assert told == {"rates", "minimum_perturbation", "preflight", "robust_accuracy", "prediction"}
