"""The README's examples run as they stand, one after the other; its commands, and those of `docs/`, exist."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

import purimetry as pm
from purimetry.compression.records import read_records
from purimetry.experiments import models
from purimetry.experiments.command_line import parsed
from purimetry.experiments.configuration import Training

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README} | {f"docs/{path.name}": path.read_text() for path in sorted(ROOT.glob("docs/*.md"))}
TEXT = "\n".join(PAGES.values())
*OF_YOUR_OWN, ON_RECORDS = sorted(re.findall(r"```python\n(.*?)```", PAGES["docs/own.md"], re.DOTALL),
                                 key=lambda example: "read_records" in example)
"""The examples of `docs/own.md` in their order, that on records last."""


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    """On small, barely trained networks: what is tested are the examples, not the numbers."""
    barely = Training(30, 3, classifier_channels=(4,), denoiser_channels=(4,))
    trained = models.trained
    monkeypatch.setattr(models, "trained", lambda data: trained(data, barely, tmp_path))
    names = {}
    for example in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(example, "README.md", "exec"), names)
    first, ours, *verdicts = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+\.\d% predicted with \d+\.\d gradients an image", ours)
    assert re.fullmatch(r"rate \d\.\d{3}, robust \d+\.\d% predicted, \d+\.\d% attacked", first)
    assert len(verdicts) == 2 and all(re.match(r"\w+: (supported|contradicted|undecided), effect", v) for v in verdicts)


@pytest.mark.peer
def test_the_examples_of_your_own_run(capsys):
    pytest.importorskip("torch")
    names = {}
    for example in OF_YOUR_OWN:
        exec(compile(example, "docs/own.md", "exec"), names)
    assert re.fullmatch(r"rate \d\.\d{3}\nrobust \d+\.\d%\n", capsys.readouterr().out)


def test_the_example_on_your_records_runs_where_they_lie(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(compile(ON_RECORDS, "docs/own.md", "exec"), {"pm": pm})
    *attacks, rates = capsys.readouterr().out.splitlines()
    assert "t = 50, converged: 43.8 ± 7.2 % of 48" in attacks and len(attacks) == 9
    assert re.fullmatch(r"rate 0\.\d{3} of the robust images, 0\.\d{3} of the others", rates)


def test_the_example_on_cifar10s_networks_runs(tmp_path, monkeypatch, capsys):
    """As it stands, on a CIFAR-10 of a few images: its authors' is not there in a test."""
    (home := tmp_path / "cifar-10-batches-bin").mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (home / f"{name}.bin").write_bytes(8 * (bytes([3]) + bytes(range(256)) * 12))
    monkeypatch.setenv("PURIMETRY_DATA", str(tmp_path))
    example, _ = re.findall(r"```python\n(.*?)```", PAGES["docs/cifar10.md"], re.DOTALL)
    exec(compile(example, "docs/cifar10.md", "exec"), {})
    assert re.fullmatch(r"\d+\.\d% of the purified images are right\n", capsys.readouterr().out)


def test_the_example_on_cifar10s_records_says_what_its_page_does(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, example = re.findall(r"```python\n(.*?)```", PAGES["docs/cifar10.md"], re.DOTALL)
    exec(compile(example, "docs/cifar10.md", "exec"), {})
    _, differences, correlations = zip(*(line.split() for line in capsys.readouterr().out.splitlines()), strict=True)
    assert f"{', '.join(differences[:-1])} and {differences[-1]} ± 0.001 above" in PAGES["docs/cifar10.md"]
    assert f"({min(correlations)} to {max(correlations)};" in PAGES["docs/cifar10.md"]


ROWS = {
    "rate_l2": ("rate, ours", "rate of random directions"),
    "measured_robust_accuracy": ("robust, measured", "robust, converged, ours", "robust, converged"),
    "robust_accuracy": ("robust, paper's PGD-40",),
    "predicted_robust_accuracy": ("**robust, predicted without an attack**", "**predicted at anchors (paper's)**"),
}
"""What the tables of CIFAR-10 call a quantity."""


@pytest.mark.parametrize("page, run, columns", [
    ("README.md", "cifar10_pooled", 4), ("docs/cifar10.md", "cifar10_pooled", 4),
    ("docs/cifar10.md", "cifar10_robust", 4),
])
def test_the_table_of_cifar10_is_what_the_records_say(page, run, columns):
    records = read_records(ROOT / "records" / run)
    rows = [line.strip("| ").split(" | ") for line in PAGES[page].splitlines()]
    for sampler in ("ddpm", "reverse", "ddim"):
        for quantity, names in ROWS.items():
            if quantity == "robust_accuracy" and run == "cifar10_pooled":  # whose halves have it
                continue
            found = [m for m in records if m.quantity == quantity and m.at["sampler"] == sampler
                     and m.at.get("predictor", "survival_anchor") == "survival_anchor"
                     and m.at.get("attack", "paper") == "paper"]
            digits, unit = (3, "") if quantity == "rate_l2" else (1, " %")
            cells = [f"{m.value:.{digits}f} ± {m.se:.{digits}f}{unit}" for m in found]
            assert len(cells) == columns
            assert any(row[-columns:] == cells and row[-columns - 1] in names for row in rows), (sampler, quantity)


def test_what_chance_contributes_is_what_the_records_say():
    by = {run: {m.at["predictor"]: f"{m.value:.1f}" for m in read_records(ROOT / "records" / run)
                if m.quantity == "mean_absolute_error_by_chance"} for run in ("cifar10_pooled", "digits")}
    said, digits = by["cifar10_pooled"], by["digits"]
    assert f"{said['survival_anchor']} are what 96 images would show of a law without error" in README
    for name, words in (("survival_anchor", " of a law without error, by chance"), ("image_wise", " by chance"),
                        ("adversarial_rate", " by chance")):
        assert f"{said[name]}{words}" in PAGES["docs/cifar10.md"]
    papers = [digits[name] for name in ("survival_clean", "survival_anchor", "image_wise")]
    theirs, ours = f"{min(papers)} to {max(papers)}", digits["extrapolated_attack"]
    assert f"{theirs} points of the paper's predictors and {ours} of ours" in PAGES["docs/digits.md"]


COMMANDS = sorted({
    *re.findall(r"`purimetry ([^`]+)`", TEXT), *re.findall(r"^purimetry ([^#\n]+)", README, re.MULTILINE),
    *(f"reproduce {told}" for told in re.findall(r'ARGS="?([^`"]+)', TEXT)),
    *(f"run {name}" for name in re.findall(r"^\| `(?!run`)(\w+)` \|", README, re.MULTILINE)),
})
"""What the pages say to type, in a shell, in the text, by `make`, and in the tables of experiments."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command):
    """With something in place of NAME and FILE, and of the folder that `report` is named without."""
    words = shlex.split("report out" if command == "report" else command.replace("NAME", "rates"))
    parsed([__file__ if word == "FILE" else word for word in words])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"pm\.(\w+)", TEXT))))
def test_every_name_is_public(name):
    assert name in pm.__all__
    assert getattr(pm, name).__doc__


def test_the_page_of_public_names_is_current():
    """`python docs/api.py` writes it."""
    module = runpy.run_path(str(ROOT / "docs/api.py"))
    assert module["page"]() == PAGES["docs/api.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    """And every page of `docs/` is reached from the README."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    assert all(((ROOT / page).parent / link).exists() for link in links)
    assert page == "README.md" or f"]({page})" in README


def test_an_unknown_name_is_said():
    misspelt = "purfy"
    with pytest.raises(AttributeError, match=r"purimetry has no 'purfy'; did you mean purify\? Its public names are"):
        getattr(pm, misspelt)
