"""A run that takes from others what they have measured: the same numbers, and only the rest is measured."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from purimetry.compression.records import RecordError, load_arrays, read_records, save_arrays
from purimetry.experiments import command_line, prediction, reuse, robust_accuracy
from purimetry.experiments.configuration import Configuration, quick
from purimetry.experiments.workbench import BARE, Workbench

MODELS = """
import jax.numpy as jnp

def classifier(x):
    return jnp.stack([x[:, :4].mean(), x[:, 4:].mean(), x[:4].mean()] + 7 * [0.1 * x.mean()])

def denoiser(x, t):
    return jnp.tanh(x)

def darker(x, key):
    return 0.9 * x
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    """Options of a small run with models that take no training."""
    file = tmp_path_factory.mktemp("models") / "models.py"
    file.write_text(MODELS)
    return {"classifier": f"{file}:classifier", "denoiser": f"{file}:denoiser", "samplers": ("ddpm",),
            "t_stars": (2,), "eps": (0.1,), "eps_factors": (1.0,), "seeds": (0,), "draws": 2, "attack_steps": 4,
            "attack_restarts": 1, "paper_steps": 4, "bootstrap": 20, "batch": 4}


@pytest.fixture(scope="module")
def first(told, tmp_path_factory) -> Path:
    """A run of the first four images."""
    out = tmp_path_factory.mktemp("runs") / "first"
    run(Configuration(out=out, images=4, **told))
    return out


def run(configuration: Configuration) -> list:
    bench = Workbench(configuration)
    return [*robust_accuracy.run(bench), *prediction.run(bench)]


def arrays(folder: Path) -> dict:
    return {str(path.relative_to(folder)): load_arrays(path) for path in folder.glob("*/shards/*.npz")}


def test_more_images_and_samplers_give_the_records_of_a_run_of_its_own(told, first, tmp_path):
    """Images in another order, half of them known, and a sampler of which nothing is."""
    asked = {**told, "indices": ("6", "1:4", "9", "4"), "samplers": ("ddpm", "ddim")}
    alone = run(Configuration(out=tmp_path / "alone", **asked))
    grown = run(Configuration(out=tmp_path / "grown", reuse=(first,), **asked))
    assert alone == grown
    expected, found = arrays(tmp_path / "alone"), arrays(tmp_path / "grown")
    assert expected.keys() == found.keys()
    for shard in expected:
        for name, values in expected[shard].items():
            assert np.array_equal(values, found[shard][name]), (shard, name)


def test_only_what_is_not_known_is_measured(told, first, tmp_path, monkeypatch):
    """A shard of the other run with marked values comes through, and the attack is given the other images alone."""
    marked = tmp_path / "marked"
    for file in first.rglob("*"):
        if file.is_file():
            (marked / file.relative_to(first)).parent.mkdir(parents=True, exist_ok=True)
            (marked / file.relative_to(first)).write_bytes(file.read_bytes())
    shard = "robust_accuracy/shards/ddpm-t2-eps0.1-converged.npz"
    save_arrays(marked / shard, {**load_arrays(marked / shard), "margin": np.arange(4, dtype=np.float32)})
    attacked, attack = [], robust_accuracy.attack_images

    def counted(constructor, classifier, purifier, images, *rest, **options):
        attacked.append(len(images))
        return attack(constructor, classifier, purifier, images, *rest, **options)

    monkeypatch.setattr(robust_accuracy, "attack_images", counted)
    bench = Workbench(Configuration(out=tmp_path / "more", indices=("5", "3", "1"), reuse=(marked,), **told))
    found = robust_accuracy.attacked(bench, bench.cells[0], 0.1, "converged")
    assert attacked == [1] and found["margin"][1:].tolist() == [3, 1]
    assert len(robust_accuracy.attacked(bench, BARE, 0.1, "converged")["margin"]) == 3


def test_runs_are_pooled_by_the_images_that_they_name(told, first, tmp_path, monkeypatch):
    """Nothing is attacked, and a damaged shard of one of two runs is measured again with a warning."""
    second = tmp_path / "second"
    run(Configuration(out=second, indices=("4:6",), **told))
    files = (str(second / "images.json"), str(first / "images.json"))
    monkeypatch.setattr(robust_accuracy, "attack_images", None)
    asked = {**told, "indices": files, "reuse": (first, second)}
    run(Configuration(out=tmp_path / "pooled", **asked))
    assert json.loads((tmp_path / "pooled/images.json").read_text())["indices"] == [4, 5, 0, 1, 2, 3]
    assert all(m.n in (2, 6) for m in read_records(tmp_path / "pooled"))
    monkeypatch.undo()

    expected = arrays(tmp_path / "pooled")
    shard = "robust_accuracy/shards/none-t0-eps0.1-paper.npz"
    (second / shard).write_bytes((second / shard).read_bytes()[:-9])
    bench = Workbench(Configuration(out=tmp_path / "again", **asked))
    with pytest.warns(UserWarning, match="--reuse: .*none-t0-eps0.1-paper.npz is truncated"):
        found = robust_accuracy.attacked(bench, BARE, 0.1, "paper")
    assert np.array_equal(found["broken_at"], expected[shard]["broken_at"])


@pytest.mark.parametrize("other, named", [
    ({"draws": 3}, "draws"), ({"seeds": (1, 0)}, "the first of seeds"), ({"respaced": 50}, "respaced"),
    ({"attack_steps": 5, "eps_max": 0.7}, "attack_steps, eps_max"),
])
def test_a_run_of_other_settings_is_refused(told, first, tmp_path, other, named):
    with pytest.raises(RecordError, match=rf"--reuse .*other settings \({named}\)"):
        Workbench(Configuration(out=tmp_path / "out", images=4, reuse=(first,), **{**told, **other}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", [
    {"t_stars": (1, 2)}, {"eps": (0.1, 0.2)}, {"seeds": (0, 3)}, {"eps_factors": (0.5, 1.0)}, {"note": "mine"},
])
def test_what_has_a_name_of_its_own_may_differ(told, first, tmp_path, other):
    Workbench(Configuration(out=tmp_path / "out", images=5, reuse=(first,), **{**told, **other}))


def test_a_purifier_that_changed_under_its_name_is_refused(told, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MODELS)
    own = {**told, "samplers": (), "purifiers": (f"{file}:darker",), "images": 2}
    Workbench(Configuration(out=tmp_path / "one", **own))
    Workbench(Configuration(out=tmp_path / "same", reuse=(tmp_path / "one",), **{**own, "samplers": ("ddpm",)}))
    file.write_text(MODELS.replace("0.9", "0.8"))
    with pytest.raises(RecordError, match=r"other settings \(darker\)"):
        Workbench(Configuration(out=tmp_path / "two", reuse=(tmp_path / "one",), **own))


def test_a_folder_without_a_run_is_refused(told, first, tmp_path):
    with pytest.raises(RecordError, match="is not a run of purimetry"):
        Workbench(Configuration(out=tmp_path / "out", reuse=(tmp_path,), **told))
    (tmp_path / "run.json").write_bytes((first / "run.json").read_bytes())
    with pytest.raises(RecordError, match="images.json does not say which images"):
        Workbench(Configuration(out=tmp_path / "out", reuse=(tmp_path,), **told))


@pytest.mark.parametrize("told, message", [
    (["-1"], "expected a number such as 7, a range such as 0:48 or a file"),
    (["0:5", "3"], "names image 3 twice"),
    (["498:501"], "500 test images, numbered from 0, got 500"),
    (["7"], "names 1 of the images; standard errors need at least 2"),
    (["5:5"], "names 0 of the images"),
    (["nowhere/images.json"], "does not say which images a run measured"),
])
def test_indices_that_name_no_images(told, message):
    with pytest.raises(ValueError, match=message):
        reuse.chosen(told, 500)


@pytest.mark.parametrize("also", [{"images": 4}, {"subset_seed": 0}])
def test_indices_stand_alone(also):
    with pytest.raises(ValueError, match="leave --images and --subset-seed out"):
        Configuration(indices=("0:4",), **also)


def test_a_tour_and_ones_own_images_keep_the_indices(capsys):
    assert quick(Configuration(indices=("0:4",))).indices == ("0:4",)
    assert replace(Configuration(indices=("0:4",)), dataset="mine.npz").resolved().subset_seed is None
    command = command_line.parsed(["run", "rates", "--indices", "0:48", "a/images.json", "--reuse", "a", "b"])
    assert command.configuration.indices == ("0:48", "a/images.json")
    assert command.configuration.reuse == (Path("a"), Path("b"))
