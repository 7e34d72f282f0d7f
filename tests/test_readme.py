"""The README's example runs as it stands, and its commands exist."""

import re
from pathlib import Path

import pytest

import purimetry as pm
from purimetry.experiments import models
from purimetry.experiments.configuration import Training

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    """On barely trained networks: what is tested is the example, not the numbers."""
    trained = models.trained
    monkeypatch.setattr(models, "trained", lambda data: trained(data, Training(30, 3), tmp_path))
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"rate \d\.\d{3}, robust accuracy \d+\.\d%\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"pm\.(\w+)", README))))
def test_every_name_is_public(name):
    assert name in pm.__all__
    assert getattr(pm, name).__doc__


def test_an_unknown_name_is_said():
    misspelt = "purfy"
    with pytest.raises(AttributeError, match="purimetry has no 'purfy'; its public names are"):
        getattr(pm, misspelt)
