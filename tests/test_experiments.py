"""The contract of every experiment, on real digits in a tiny run: it measures, resumes, and is drawn and tabulated."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purimetry.compression.attacks.ensemble import standard_attacks
from purimetry.compression.batches import calls_of
from purimetry.compression.networks import unet
from purimetry.compression.networks.convolution import Convolution
from purimetry.compression.protocol import BPDA, FULL, fixed, fresh
from purimetry.compression.records import read_records
from purimetry.experiments import alp_cells, attack_peers, autoencoders, models
from purimetry.experiments.alp_protocols import Case
from purimetry.experiments.autoencoders import THREATS
from purimetry.experiments.command_line import EXPERIMENTS, MAIN
from purimetry.experiments.configuration import Configuration, Training
from purimetry.experiments.workbench import BARE, Workbench
from purimetry.figures import budgets, report, style


def last_attack(classes, norm, **effort):
    return standard_attacks(classes, norm, **effort)[-1:]


TINY = {
    "images": 8, "samplers": ("ddpm", "reverse"), "t_stars": (2,), "eps": (0.1,), "seeds": (0,), "draws": 2,
    "attack_steps": 4, "attack_restarts": 2, "paper_steps": 4, "ensemble_steps": 4, "square_queries": 8,
    "bootstrap": 20, "eps_factors": (0.5, 1.0),
    "respaced": 200,  # so that t* = 2 is among those of `rates_timesteps`
    "training": Training(
        classifier_steps=200, denoiser_steps=50, robust_steps=20, autoencoder_steps=10, classifier_channels=(8,),
        denoiser_channels=(8,),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of the run and its weights; as in any run, an experiment finds the shards of those before it."""
    return tmp_path_factory.mktemp("experiments")


@pytest.fixture(autouse=True)
def unpadded():
    """No compiled call is padded to more images than there are."""
    with calls_of(TINY["images"]):
        yield


FEWER = {
    "alp_matrix": {"SIGMAS": (0.0, 0.5), "THREATS": {name: THREATS[name] for name in ("classifier", "fixed")}},
    "alp_sigma": {"STARTS": (0.5, 0.05)},
    "alp_tradeoff": {"CELLS": (("test", 0.5), ("test", "learned"), ("wide", "learned"), ("trained", 0.0)),
                     "THREATENED": ("classifier",)},
    "alp_trials": {"STARTS": (0.5, 0.05), "SIGMAS": (0.0, 0.5), "PGD": ("classifier",)},
    "attack_peers": {
        "ATTACKS": {"square": "square"}, "standard_attacks": last_attack, "DEFENCES": (attack_peers.PURIFIED,),
    },
    "rates_causes": {"TIMES": (10,), "SCHEDULES": (100, 200)},
    "preflight": {"defences": lambda bench: [BARE]},
    "alp_protocols": {
        "CASES": (Case("draw", fixed(), "full", ("pgd", "square")), Case("ensemble", fresh(), "bpda")),
        "standard_attacks": last_attack,
    },
    "alp_compression": {"compared": lambda bench: [*alp_cells.compared(bench)[:2], *bench.middle_cells[:1]]},
    "alp_claims": {"STARTS": (0.5, 0.05), "THREATS": ("classifier",)},
    "alp_hierarchy": {"KNOWN": ("classifier", "defence"), "REPEATS": 3, "DIFFPURE": 20},
    "protocols": {"PROTOCOLS": (fixed(), fresh(2)), "gradients": lambda bench, cell: (*FULL, *BPDA)},
}
"""Less of experiments that would compile dozens of programs, one kind of each left."""

class Predictor(nnx.Module):
    """A noise predictor that compiles in no time, in the place of the UNet."""

    def __init__(self, c_image, channels, *, rngs):
        self.layer = Convolution(c_image, c_image, rngs=rngs)
        self.slope = nnx.Param(jnp.ones(()))

    def __call__(self, x, t):
        return self.layer(x) + self.slope[...] * jnp.tanh(x * (1 + t / 1000))


WHAT = autoencoders._what


def smaller(*told):
    """What determines an autoencoder, of a size with which its training and ensembles of 20 take little."""
    *others, bottleneck = WHAT(*told)
    return *others, replace(bottleneck, latent=bottleneck.latent // 16, channels=(4,), batch=16)


JOINED = {"alp_claims": ("alp_hierarchy", "alp_protocols", "alp_tradeoff", "alp_trials")}
"""Experiments whose work another one does itself where it is lacking."""


def shards(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("*/shards/*.npz")}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_measures_resumes_and_is_shown(name, folder, monkeypatch):
    experiment, drawing = (import_module(f"purimetry.{home}.{name}") for home in ("experiments", "figures"))
    for part in (name, *JOINED.get(name, ())):
        for constant, fewer in FEWER.get(part, {}).items():
            monkeypatch.setattr(import_module(f"purimetry.experiments.{part}"), constant, fewer)
    monkeypatch.setattr(autoencoders, "_what", smaller)
    if name == "attack_peers":  # has the UNet in PyTorch too
        folder = folder / name
    else:
        monkeypatch.setattr(unet, "UNet", Predictor)
    configuration = Configuration(out=folder / "out", cache=folder / "cache", **TINY)
    bench = Workbench(configuration)
    for piece in experiment.pieces(bench):
        piece.compute()
    records = experiment.run(bench)
    assert records and all(m.experiment == name and np.isfinite(m.value) and m.n >= 1 for m in records)
    assert any(m.se is not None for m in records) or name == "preflight"  # whose records are verdicts
    weights = {"classifier", "denoiser", *(["alp"] if name.startswith("alp_") else [])}
    assert all(weights <= {of.split(" trial")[0] for of in m.run["weights_sha256"]} for m in records)
    before, written = shards(bench.folder.path), (folder / f"out/{name}/records.jsonl").read_bytes()

    experiment.run(Workbench(configuration))
    assert shards(bench.folder.path) == before
    assert (folder / f"out/{name}/records.jsonl").read_bytes() == written

    figure = drawing.draw(bench.folder.path)
    assert drawing.TITLE and drawing.CAPTION
    assert style.encode(figure, "svg") == style.encode(drawing.draw(bench.folder.path), "svg")
    found = read_records(bench.folder.path)
    budgets.notes(found)  # which the report takes from all records, whatever experiments they are of
    tables = drawing.tables({kind: [m for m in found if m.experiment == kind] for kind in EXPERIMENTS})
    assert tables
    for table in tables:
        assert table.title and table.rows and all(row.keys() == table.rows[0].keys() for row in table.rows)


def test_the_bare_classifier_is_measured_before_other_networks_are_there(folder, tmp_path, monkeypatch):
    def too_early(*_):
        raise AssertionError("the denoiser is not trained yet")

    monkeypatch.setattr(models, "denoiser", too_early)
    bench = Workbench(Configuration(out=tmp_path, cache=folder / "cache", **TINY))
    for name in ("minimum_perturbation", "preflight", "robust_accuracy", "prediction", "anchors", "hypotheses"):
        early = [piece for piece in import_module(f"purimetry.experiments.{name}").pieces(bench)
                 if piece.needs == ("classifier",)]
        assert len(early) == 1
        early[0].compute()
    assert shards(tmp_path) and all(f"/{BARE}" in shard for shard in shards(tmp_path))


def test_every_experiment_has_a_place_in_the_report():
    assert set(report.SECTIONS) == set(EXPERIMENTS)
    assert set(MAIN) <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_its_command_its_time_and_what_to_expect(name):
    about = import_module(f"purimetry.experiments.{name}").__doc__
    assert all(f"\n{head}: " in about for head in ("Command", "Time", "Expect"))
    assert f"purimetry run {name}" in about
