"""A run that takes from others what they have measured: the same numbers, and only the rest is measured."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from purimetry.compression.batches import calls_of
from purimetry.compression.records import RecordError, load_arrays, read_records, save_arrays
from purimetry.experiments import (
    command_line, datasets, minimum_perturbation, models, prediction, rates, reuse, robust_accuracy,
)
from purimetry.experiments.configuration import Configuration, quick
from purimetry.experiments.workbench import BARE, Cell, Part, Workbench

MODELS = """
import jax.numpy as jnp
import numpy as np
import purimetry as pm

digits = pm.digits()
MEANS = np.stack([digits.train_images[digits.train_labels == c].mean(0).ravel() for c in range(10)])

def classifier(x):
    return 5 * (MEANS @ x.ravel() - (MEANS**2).sum(1) / 2)

def denoiser(x, t):
    return jnp.tanh(x)

def darker(x, key):
    return 0.9 * x
"""


@pytest.fixture(scope="module", autouse=True)
def small_calls():
    """Of one size, so that runs of any number of images share their programs."""
    with calls_of(4):
        yield


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    """Options of a small run with models that take no training."""
    file = tmp_path_factory.mktemp("models") / "models.py"
    file.write_text(MODELS)
    return {"classifier": f"{file}:classifier", "denoiser": f"{file}:denoiser", "samplers": ("ddpm",),
            "t_stars": (2,), "eps": (0.1,), "eps_factors": (1.0,), "seeds": (0,), "draws": 2, "attack_steps": 4,
            "attack_restarts": 1, "paper_steps": 4, "bootstrap": 20}


@pytest.fixture(scope="module")
def first(told, tmp_path_factory) -> Path:
    """A run of the first four images."""
    out = tmp_path_factory.mktemp("runs") / "first"
    run(Configuration(out=out, images=4, **told))
    return out


def run(configuration: Configuration) -> list:
    bench = Workbench(configuration)
    return [*robust_accuracy.run(bench), *prediction.run(bench)]


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


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
    marked = copied(first, tmp_path / "marked")
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
    ({"attack_steps": 5, "paper_steps": 5}, "attack_steps, paper_steps"),
])
def test_a_run_of_other_settings_is_refused(told, first, tmp_path, other, named):
    with pytest.raises(RecordError, match=rf"--reuse .*other settings \({named}\)"):
        Workbench(Configuration(out=tmp_path / "out", images=4, reuse=(first,), **{**told, **other}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", [
    {"t_stars": (1, 2)}, {"eps": (0.1, 0.6)}, {"seeds": (0, 3)}, {"eps_factors": (0.5, 1.0)}, {"note": "mine"},
])
def test_what_may_differ_changes_no_row(told, first, tmp_path, other):
    """Rates, and distances, which depend on the largest budget."""
    def measured(name, **also):
        bench = Workbench(Configuration(out=tmp_path / name, images=5, **{**told, **other}, **also))
        return [rates.run(bench), minimum_perturbation.run(bench)]

    assert measured("grown", reuse=(first,)) == measured("alone")


def test_budgets_of_one_name_are_told_apart(told, first, tmp_path):
    with pytest.raises(RecordError, match="eps, in the seventh digit"):
        Workbench(Configuration(out=tmp_path / "out", reuse=(first,), **{**told, "eps": (0.10000001,)}))


def test_a_purifier_that_changed_under_its_name_is_refused(told, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MODELS)
    own = {**told, "samplers": (), "purifiers": (f"{file}:darker",), "images": 2}
    Workbench(Configuration(out=tmp_path / "one", **own))
    Workbench(Configuration(out=tmp_path / "same", reuse=(tmp_path / "one",), **{**own, "samplers": ("ddpm",)}))
    file.write_text(MODELS.replace("0.9", "0.8"))
    with pytest.raises(RecordError, match=r"other settings \(darker\)"):
        Workbench(Configuration(out=tmp_path / "two", reuse=(tmp_path / "one",), **own))


def test_a_purifier_of_ones_own_is_not_taken_for_one_of_ours(told, tmp_path):
    """Of the name that an experiment lends to an autoencoder."""
    file = tmp_path / "mine.py"
    file.write_text(MODELS.replace("darker", "vae"))
    own = {**told, "samplers": (), "purifiers": (f"{file}:vae",), "images": 2}
    rate = lambda bench: rates.rates(bench, Cell("vae", 0), 0.1, 0)["l2"]
    mine, ours = Workbench(Configuration(out=tmp_path / "mine", **own)), {**told, "images": 2}
    assert rate(mine) == pytest.approx(0.9)
    lent = Workbench(Configuration(out=tmp_path / "ours", reuse=(tmp_path / "mine",), **ours))
    lent.lend(Cell("vae", 0), lambda: lambda x, key: 0.5 * x)
    assert rate(lent) == pytest.approx(0.5)
    again = Workbench(Configuration(out=tmp_path / "again", reuse=(tmp_path / "ours",), **own))
    assert rate(again) == pytest.approx(0.9)


@pytest.mark.parametrize("one, other", [("", "v"), ("v", ""), ("v", "w")])
def test_flows_along_other_velocities_are_refused(told, tmp_path, one, other):
    file = tmp_path / "velocities.py"
    file.write_text("v = lambda x, t: x\nw = lambda x, t: -x\n")
    asked = lambda name: {**told, "samplers": ("ddpm", "flow"), "images": 2,
                          **({"velocity": f"{file}:{name}"} if name else {})}
    Workbench(Configuration(out=tmp_path / "one", **asked(one)))
    with pytest.raises(RecordError, match=r"other settings \(velocity\)"):
        Workbench(Configuration(out=tmp_path / "other", reuse=(tmp_path / "one",), **asked(other)))
    Workbench(Configuration(out=tmp_path / "without", reuse=(tmp_path / "one",), **{**told, "images": 2}))


def test_networks_that_were_trained_elsewhere_are_refused(told, tmp_path, monkeypatch):
    """Of one configuration, with other weights; and where no record says which."""
    here = {**{name: told[name] for name in told if name != "classifier"}, "images": 2}
    train = lambda sha256: monkeypatch.setattr(models, "classifier", lambda *_: (lambda x: 10 * x[0, :1, 0], sha256))
    train("a" * 64)
    bench = Workbench(Configuration(out=tmp_path / "one", **here))
    rates.anchors(bench, bench.cells[0], 0)
    again = Workbench(Configuration(out=tmp_path / "again", reuse=(tmp_path / "one",), **here))
    with pytest.raises(RecordError, match="has no records yet"):
        rates.anchors(again, again.cells[0], 0)
    rates.run(bench)
    rates.anchors(again, again.cells[0], 0)
    train("b" * 64)
    other = Workbench(Configuration(out=tmp_path / "other", reuse=(tmp_path / "one",), **here))
    with pytest.raises(RecordError, match="trained another classifier, on another machine perhaps"):
        rates.anchors(other, other.cells[0], 0)


@pytest.mark.parametrize("arrays", [
    {"margin": np.zeros(3, np.float32), "broken_at": np.zeros(3, int), "gradients": np.zeros(3, int)},
    {"margin": np.zeros(4, np.float32)},
])
def test_shards_of_another_kind_are_refused(told, first, tmp_path, arrays):
    older = copied(first, tmp_path / "older")
    save_arrays(older / "robust_accuracy/shards/ddpm-t2-eps0.1-converged.npz", arrays)
    bench = Workbench(Configuration(out=tmp_path / "out", images=5, reuse=(older,), **told))
    with pytest.raises(RecordError, match="older version"):
        robust_accuracy.attacked(bench, bench.cells[0], 0.1, "converged")


def test_records_of_an_older_version_are_refused(told, first, tmp_path, monkeypatch):
    monkeypatch.setattr(reuse, "version", lambda name: "9.9")
    bench = Workbench(Configuration(out=tmp_path / "out", images=5, reuse=(first,), **told))
    with pytest.raises(RecordError, match="older version"):
        rates.anchors(bench, bench.cells[0], 0)


def test_a_part_keeps_no_shards(told, tmp_path):
    part = Part(Workbench(Configuration(out=tmp_path / "out", images=3, **told)), np.array([1]))
    with pytest.raises(TypeError, match="some of the run's images"):
        part.shard("rates", "mine", dict)


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
    (["5:5"], "expected a number"),
    (["0:4", "9:5"], "expected a number"),
    (["nowhere/images.json"], "does not say which images a run measured"),
])
def test_indices_that_name_no_images(told, message):
    with pytest.raises(ValueError, match=message):
        datasets.chosen(told, "digits", 500)


def test_a_list_of_other_images_is_refused(tmp_path):
    (tmp_path / "images.json").write_text('{"dataset": "cifar10", "split": "test", "indices": [1, 2]}')
    with pytest.raises(ValueError, match="its images are of cifar10, and this run's of digits"):
        datasets.chosen([str(tmp_path / "images.json")], "digits", 500)
    assert datasets.chosen([str(tmp_path / "images.json"), "7"], "cifar10", 500).tolist() == [1, 2, 7]


@pytest.mark.parametrize("also", [{"images": 4}, {"subset_seed": 0}])
def test_indices_stand_alone(also):
    with pytest.raises(ValueError, match="leave --images and --subset-seed out"):
        Configuration(indices=("0:4",), **also)


def test_a_tour_and_ones_own_images_keep_the_indices():
    toured = quick(Configuration(indices=("0:4",)))
    assert toured.indices == ("0:4",) and toured.images is None
    assert replace(Configuration(indices=("0:4",)), dataset="mine.npz").resolved().subset_seed is None
    command = command_line.parsed(["run", "rates", "--indices", "0:48", "a/images.json", "--reuse", "a", "b"])
    assert command.configuration.indices == ("0:48", "a/images.json")
    assert command.configuration.reuse == (Path("a"), Path("b"))
