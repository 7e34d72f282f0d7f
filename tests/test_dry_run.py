"""The dry run of Table 4: what it makes is read as a user's own files are, and its report says what it is."""

import jax.numpy as jnp
import numpy as np
import pytest
from purimetry.compression.records import read_manifest, read_records
from purimetry.experiments import dry_run
from purimetry.experiments.command_line import EXPERIMENTS, main
from purimetry.experiments.workbench import Workbench


@pytest.fixture
def showwarning(monkeypatch):
    """`main` says warnings its own way; give the tests' way back."""
    import warnings

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def test_a_dry_run_has_images_of_several_classes_and_both_networks(tmp_path):
    bench = Workbench(dry_run.prepared(tmp_path))
    assert bench.images.shape == (6, 32, 32, 3) and len(set(bench.labels.tolist())) > 1
    answers = [int(np.argmax(bench.classifier(jnp.asarray(image)))) for image in bench.images[:2]]
    assert answers == bench.labels[:2].tolist()
    assert read_manifest(tmp_path / "run")["configuration"]["classifier"]["architecture"] == "bottleneck-resnet"


def test_a_dry_run_measures_and_is_labelled(tmp_path, monkeypatch, capsys, showwarning):
    """By the experiment that compiles least; the command itself runs those of Table 4."""
    assert set(dry_run.EXPERIMENTS) < set(EXPERIMENTS)
    monkeypatch.setattr(dry_run, "EXPERIMENTS", ("training",))
    assert main(["dry-run", "--out", str(tmp_path), "--workers", "1"]) == 0
    assert "--classifier resnet50:resnet50.pth" in capsys.readouterr().out
    records = read_records(tmp_path / "run")
    assert {m.quantity for m in records} == {"clean_accuracy", "noise_prediction_error"}
    assert records[0].value == 100  # labels are the classifier's own
    assert all(np.isfinite(m.value) and m.run["configuration"]["note"] == dry_run.NOTE for m in records)
    assert dry_run.NOTE in (tmp_path / "run" / "report.html").read_text()
