"""Writes `docs/api.md`: every public name, by the file it is defined in, with the first line of its docstring.

Command: .venv/bin/python docs/api.py
"""

import inspect
from importlib import import_module
from pathlib import Path

import purimetry as pm

INTRODUCTION = """# Public names

`import purimetry as pm` has these; `help` says more of each: shapes, units, errors, and an example that runs.
"""


def page() -> str:
    """The text of the page."""
    parts = [INTRODUCTION]
    for home, names in pm._HOME.items():
        about = inspect.getdoc(import_module(f"purimetry.{home}")).split("\n\n")[0]
        parts.append(f"## {home.replace('.', '/')}.py\n\n{_joined(about)}\n")
        parts.append("\n".join(f"- `{name}`{_told(getattr(pm, name))}" for name in sorted(names)) + "\n")
    return "\n".join(parts)


def _told(value) -> str:
    """The first paragraph of a docstring of its own; constants and submodules have none that is theirs."""
    own = inspect.isclass(value) or callable(value) or inspect.ismodule(value)
    return f": {_joined(inspect.getdoc(value).split(chr(10) * 2)[0])}" if own and inspect.getdoc(value) else ""


def _joined(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
