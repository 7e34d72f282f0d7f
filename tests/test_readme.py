"""The README's examples run as they stand, one after the other, and its commands exist."""

import re
from pathlib import Path

import pytest

import purimetry as pm
from purimetry.experiments import models
from purimetry.experiments.command_line import EXPERIMENTS
from purimetry.experiments.configuration import Training

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    """On small, barely trained networks: what is tested are the examples, not the numbers."""
    barely = Training(30, 3, classifier_channels=(4,), denoiser_channels=(4,))
    trained = models.trained
    monkeypatch.setattr(models, "trained", lambda data: trained(data, barely, tmp_path))
    names = {}
    for example in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(example, "README.md", "exec"), names)
    first, *verdicts = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"rate \d\.\d{3}, robust accuracy \d+\.\d%", first)
    assert len(verdicts) == 2 and all(re.match(r"\w+: (supported|contradicted|undecided), effect", v) for v in verdicts)


NAMED = re.findall(r"^\| `(\w+)` \| (?:Fig|Eq|App|Sec|ours)", README, re.MULTILINE)


@pytest.mark.parametrize("name", NAMED)
def test_every_experiment_named_exists(name):
    assert name in EXPERIMENTS


@pytest.mark.parametrize("name", sorted(set(re.findall(r"pm\.(\w+)", README))))
def test_every_name_is_public(name):
    assert name in pm.__all__
    assert getattr(pm, name).__doc__


def test_an_unknown_name_is_said():
    misspelt = "purfy"
    with pytest.raises(AttributeError, match="purimetry has no 'purfy'; its public names are"):
        getattr(pm, misspelt)
