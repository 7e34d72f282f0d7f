"""The dry run of Table 4: what it makes is read as a user's own files are, and its report says what it is."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from purimetry.compression.attacks.pgd import pgd
from purimetry.compression.batches import over_images
from purimetry.compression.losses import cross_entropy
from purimetry.compression.records import read_manifest, read_records
from purimetry.experiments import dry_run, forecast, robust_accuracy
from purimetry.experiments.command_line import EXPERIMENTS, main
from purimetry.experiments.workbench import Workbench

MEASURED, ATTACKS = ("rates", "robust_accuracy"), ("paper", "converged", "stronger")


@pytest.fixture
def showwarning(monkeypatch):
    """`main` says warnings its own way; give the tests' way back."""
    import warnings

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def test_a_dry_run_has_images_of_several_classes_and_both_networks(tmp_path):
    bench = Workbench(dry_run.prepared(tmp_path))
    assert bench.images.shape == (6, 32, 32, 3) and len(set(bench.labels.tolist())) > 1
    logits = over_images(lambda network, x: network(x), (bench.classifier,), bench.images)
    assert logits.argmax(1).tolist() == bench.labels.tolist()
    assert {*MEASURED} < {*dry_run.EXPERIMENTS} < {*EXPERIMENTS}
    assert read_manifest(tmp_path / "run")["configuration"]["classifier"]["architecture"] == "bottleneck-resnet"


@pytest.fixture
def least(monkeypatch):
    """One cell of Table 4 by the narrowest denoiser and the fewest steps, and of its experiments two."""
    prepared, denoiser = dry_run.prepared, dry_run.DENOISER
    monkeypatch.setattr(dry_run, "EXPERIMENTS", MEASURED)
    monkeypatch.setattr(dry_run, "DENOISER", partial(denoiser, multiples=(1,), attention_at=()))
    monkeypatch.setattr(robust_accuracy, "protocols", lambda configuration: dict.fromkeys(
        ATTACKS, (partial(pgd, steps=1), cross_entropy)))  # one to compile
    monkeypatch.setattr(forecast, "forecast", lambda *told: "forecast")
    monkeypatch.setattr(dry_run, "prepared", lambda folder: replace(
        prepared(folder), images=2, batch=2, samplers=("ddpm",), t_stars=(1,)))


@pytest.mark.filterwarnings("ignore:At eps 4/255 the converged attack leaves nothing")
def test_a_dry_run_measures_and_is_labelled(tmp_path, least, capsys, showwarning):
    assert main(["dry-run", "--out", str(tmp_path), "--workers", "1"]) == 0
    assert "--classifier resnet50:resnet50.pth" in capsys.readouterr().out
    records = read_records(tmp_path / "run")
    assert all(np.isfinite(m.value) and m.run["configuration"]["note"] == dry_run.NOTE for m in records)
    assert dry_run.NOTE in (tmp_path / "run" / "report.html").read_text()
    rates = {m.quantity for m in records if m.experiment == "rates"}
    assert "rate_l2" in rates and "rms_rate_hutchinson" in rates and "rms_rate" not in rates  # of large images
    attacks = [m for m in records if m.quantity == "robust_accuracy"]
    assert {(m.at["sampler"], m.at["attack"]) for m in attacks} == {
        (sampler, attack) for sampler in ("none", "ddpm") for attack in ATTACKS}
