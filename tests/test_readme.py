"""The README's examples run as they stand, one after the other, and its commands exist."""

import re
import shlex
from pathlib import Path

import pytest

import purimetry as pm
from purimetry.experiments import models
from purimetry.experiments.command_line import parsed
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
    assert re.fullmatch(r"rate \d\.\d{3}, robust \d+\.\d% predicted, \d+\.\d% attacked", first)
    assert len(verdicts) == 2 and all(re.match(r"\w+: (supported|contradicted|undecided), effect", v) for v in verdicts)


COMMANDS = sorted({
    *re.findall(r"`purimetry ([^`]+)`", README), *re.findall(r"^purimetry ([^#\n]+)", README, re.MULTILINE),
    *(f"reproduce {told}" for told in re.findall(r'ARGS="?([^`"]+)', README)),
    *(f"run {name}" for name in re.findall(r"^\| `(?!run`)(\w+)` \|", README, re.MULTILINE)),
})
"""What README says to type, in a shell, in the text, by `make`, and in the tables of experiments."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command):
    """With something in place of NAME and DIR, and of the folder that `report` is named without."""
    words = shlex.split("report out" if command == "report" else command.replace("NAME", "rates"))
    parsed(words)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"pm\.(\w+)", README))))
def test_every_name_is_public(name):
    assert name in pm.__all__
    assert getattr(pm, name).__doc__


def test_an_unknown_name_is_said():
    misspelt = "purfy"
    with pytest.raises(AttributeError, match="purimetry has no 'purfy'; its public names are"):
        getattr(pm, misspelt)
