"""The command line: what a user types, and what it says when that cannot be done."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from purimetry.compression.data.dataset import only_test
from purimetry.compression.data.digits import digits
from purimetry.experiments import models, networks
from purimetry.experiments.architectures import Given
from purimetry.experiments.command_line import EXPERIMENTS, main, parsed
from purimetry.experiments.configuration import Configuration, Training, quick
from purimetry.experiments.workbench import Cell, Workbench


@pytest.fixture(autouse=True)
def showwarning(monkeypatch):
    """`main` says warnings its own way; give the tests' way back."""
    import warnings

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def test_list_names_every_experiment(capsys):
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(EXPERIMENTS)


def test_every_option_is_explained_with_its_default():
    script = "from purimetry.experiments.command_line import main; main(['reproduce', '--help'])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout
    flat = " ".join(shown.split())
    for option in ("--images", "--eps", "--t-stars", "--draws", "--denoiser-steps", "--quick", "--out"):
        assert option in flat
    for words in ("pixel", "default: 40", "unless told"):
        assert words in flat


@pytest.mark.parametrize("arguments, message", [
    (["--images", "501"], "digits has 500 test images"),
    (["--images", "1"], "at least 2"),
    (["--eps", "8"], "budget in pixel units"),
    (["--eps-max", "2"], "budget in pixel units"),
    (["--t-stars", "101"], "t_star counts steps of the schedule, 0..100, got 101"),
    (["--respaced", "33"], "must divide the schedule's 1000 steps"),
    (["--seeds"], "--seeds is empty"),
    (["--t-stars", "0", "5"], "--t-stars is at least 1, got 0"),
    (["--bootstrap", "1"], "--bootstrap is at least 2, got 1"),
    (["--eps-factors", "1", "-1"], "--eps-factors is above 0, got -1"),
    (["--eps-max", "0"], "--eps-max is above 0, got 0"),
    (["--t-stars", "1", "1"], "--t-stars says the same twice, got 1 1; say each once"),
    (["--samplers", "ddim", "ddim"], "--samplers says the same twice, got ddim ddim"),
])
def test_what_cannot_be_met_is_said_before_any_work(tmp_path, capsys, arguments, message):
    assert main(["run", "training", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def trained_until(monkeypatch):
    """Let the denoiser, or the velocity as well, come from a folder with a card that says so."""

    def until(**last):
        given = {name: Given("diffusers", lambda x, t: 0 * x, "d" * 64, None, step) for name, step in last.items()}
        monkeypatch.setattr(networks, "_read", lambda configuration, dataset: given)

    return until


def test_a_network_is_used_for_what_it_was_trained_for(tmp_path, trained_until):
    trained_until(denoiser=250, velocity=150)
    told = Configuration(t_stars=(2, 26, 30), out=tmp_path / "out", images=2, velocity="flow")
    message = "trained until t = 250, which is step 25 of 100, got --t-stars 26 30; choose t* up to 25"
    with pytest.raises(ValueError, match=re.escape(message)):
        Workbench(told)
    message = "--velocity flow was trained until t = 150, which is step 15 of 100, got --t-stars 26 30; choose t*"
    with pytest.raises(ValueError, match=re.escape(message)):
        Workbench(replace(told, samplers=("flow",)))
    assert not (tmp_path / "out").exists()


def test_experiments_over_all_times_say_where_the_denoiser_was_not_trained(tmp_path, trained_until):
    trained_until(denoiser=20)
    bench = Workbench(Configuration(t_stars=(2,), out=tmp_path / "out", images=2))
    bench.purifier(Cell("ddim", 2))
    with pytest.warns(UserWarning, match="ddim-t3 begins beyond t = 20, until which the denoiser was trained"):
        bench.purifier(Cell("ddim", 3))


def test_a_foreign_folder_is_an_error_and_not_a_traceback(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["run", "training", "--out", str(tmp_path)]) == 1
    assert "is not a run of purimetry" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 1


def test_quick_is_a_smaller_run_of_the_same_kind():
    full, tour = Configuration().resolved(), quick(Configuration())
    assert tour.images < full.images and set(tour.t_stars) < set(full.t_stars) and tour.samplers == full.samplers
    assert tour.determinants().keys() == full.determinants().keys()
    assert "Quick tour" in tour.note and quick(Configuration(note="mine")).note == "mine"
    assert (tour.t_stars, tour.eps, tour.images) == ((5,), (0.1,), 32)


def test_a_quick_tour_keeps_what_it_is_told_to_measure():
    told = dict(samplers=("reverse",), t_stars=(1,), eps=(0.2,), images=40)
    tour = quick(Configuration(**told))
    assert all(getattr(tour, name) == value for name, value in told.items())
    colour = quick(Configuration(dataset="cifar10"))
    assert (colour.eps, colour.images, colour.t_stars) == ((2 / 255,), 8, (2,))
    assert quick(Configuration(purifiers=("mine.py:blur",))).samplers == ()


def test_a_data_set_has_its_own_values_of_what_is_not_told():
    colour = Configuration(dataset="cifar10", images=7).resolved()
    assert (colour.images, colour.eps) == (7, (2 / 255,))
    assert Configuration().resolved().eps == (0.1, 0.2)
    assert Configuration(t_stars=(5, 1)).resolved().t_stars == (1, 5)
    assert [Configuration(eps=(eps,)).resolved().eps_max for eps in (0.1, 0.4, 0.7)] == [0.5, 0.8, 1]
    assert (Configuration().resolved().training.robust_eps, colour.training.robust_eps) == (0.15, 8 / 255)


def test_the_two_folders_do_not_determine_records(tmp_path):
    one, two = Configuration(out=tmp_path / "a"), Configuration(out=tmp_path / "b", cache=tmp_path)
    assert one.determinants() == two.determinants()
    assert json.loads(json.dumps(one.determinants()))["images"] == 128


def test_a_measurement_says_what_determines_it(tmp_path):
    training = Training(2, 2, classifier_channels=(4,), denoiser_channels=(4,))
    bench = Workbench(Configuration(out=tmp_path / "out", cache=tmp_path / "cache", images=4, training=training))
    found = bench.mean("rates", "rate", np.array([1.0, 2.0, 3.0, 4.0]), "ratio", {"t_star": 1})
    assert (found.value, found.n) == (2.5, 4)
    assert found.se == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    assert {"configuration", "versions", "device", "data_sha256", "weights_sha256", "seed"} == set(found.run)


def test_trained_weights_are_cached_and_rebuilt_when_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "1")
    training, dataset = Training(classifier_steps=3, classifier_channels=(4,)), digits()
    first = models.classifier(training, dataset, tmp_path)[1]
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    assert models.classifier(training, dataset, tmp_path)[1] == first
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="building it again"):
        assert models.classifier(training, dataset, tmp_path)[1] == first
    assert models.classifier(replace(training, classifier_steps=4), dataset, tmp_path)[1] != first
    assert len(list(tmp_path.iterdir())) == 2


def test_no_run_takes_what_a_script_has_trained_on_many_threads(tmp_path, monkeypatch):
    what = Training(classifier_steps=1, classifier_channels=(4,)), digits(), tmp_path
    names = lambda: sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.safetensors"))
    monkeypatch.delenv("NPROC", raising=False)
    models.classifier(*what)
    (scripts,) = names()
    assert scripts.startswith("scripts/classifier-")
    monkeypatch.setenv("NPROC", "1")
    models.classifier(*what)
    runs = scripts.removeprefix("scripts/")
    assert names() == [runs, scripts]
    (tmp_path / scripts).unlink()
    monkeypatch.delenv("NPROC")
    models.classifier(*what)  # but a script takes what a run has trained
    assert names() == [runs]


def test_the_test_split_is_fixed_and_stratified():
    data = digits()
    assert data.test_images.shape == (500, 8, 8, 1) and data.train_images.shape == (1297, 8, 8, 1)
    assert data.test_images.min() == 0 and data.test_images.max() == 1
    counts = np.bincount(data.test_labels)
    assert counts.min() >= 48 and counts.max() <= 51
    assert data.fingerprint == digits().fingerprint
    every = np.concatenate([data.train_images, data.test_images]).reshape(1797, -1).sum(1)
    assert every.sum() == pytest.approx(561718 / 16, rel=1e-6)  # scikit-learn's own sum of all pixels


def test_a_budget_may_be_a_fraction():
    assert parsed(["run", "rates", "--eps", "8/255", "0.1"]).configuration.eps == (8 / 255, 0.1)
    assert parsed(["run", "rates", "--eps=8/255"]).configuration.eps == (8 / 255,)
    assert parsed(["run", "rates", "--eps-max=16/255"]).configuration.eps_max == 16 / 255


def test_what_has_no_images_to_train_on_is_said():
    images = np.zeros((2, 8, 8, 1), np.float32)
    with pytest.raises(ValueError, match="grey has no images to train on; give networks of your own"):
        models.trained(only_test("grey", images, [0, 1]))
