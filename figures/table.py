"""A table of a report, and how numbers and cells are written in it."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ..compression.records import Measurement
from . import paper
from .style import SAMPLER_NAMES

NONE = "–"
PAPERS = "paper, "
"""How the heading of any column with the paper's numbers starts; their setting follows."""

PAPER = f"{PAPERS}{paper.SETTING}:"
"""How it starts where they are of the paper's main setting."""

Row = dict[str, str]
"""Texts by column heading, in order; all rows of a table have the same headings."""


class Table(NamedTuple):
    """A table of text; `note` says what stands behind the numbers."""

    title: str
    rows: list[Row]
    note: str


class Head(NamedTuple):
    """Of a table: neighbouring columns whose headings begin alike up to a colon, or, `shared` being empty, one column.

    columns: what each heading says beyond that, by heading.
    """

    shared: str
    columns: dict[str, str]


def heads(headings: Sequence[str]) -> list[Head]:
    """A table's head, which says once what neighbouring headings share.

    >>> heads(["t*", "ours: rate", "ours: PGD", "paper: PGD"])[:2]
    [Head(shared='', columns={'t*': 't*'}), Head(shared='ours', columns={'ours: rate': 'rate', 'ours: PGD': 'PGD'})]
    """
    found = []
    for shared, group in groupby(headings, lambda heading: heading.rpartition(": ")[0]):
        several = list(group)
        if shared and len(several) > 1:
            found.append(Head(shared, {heading: heading.removeprefix(f"{shared}: ") for heading in several}))
        else:
            found += [Head("", {heading: heading}) for heading in several]
    return found


def typeset(text: str) -> str:
    """A cell's text as it is printed: a minus is one, and an error is not torn from its sign.

    >>> typeset("-2.0"), typeset("PGD-40"), len(typeset("1.0 ± 0.9").split(" "))
    ('−2.0', 'PGD-40', 2)
    """
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text).replace("± ", "±\N{NO-BREAK SPACE}")


def number(m: Measurement | None, digits: int = 1, scale: float = 1) -> str:
    """A measurement with its standard error, both times `scale`.

    >>> number(Measurement("rates", "rms_rate", 0.2345, 0.01, 8, "ratio"), 3)
    '0.234 ± 0.010'
    >>> number(Measurement("prediction", "bias", -0.01, 0.2, 8, "points"))
    '0.0 ± 0.2'
    >>> number(None)
    '–'
    """
    if m is None:
        return NONE
    value = round(scale * m.value, digits) + 0.0  # without the sign of a negative zero
    return f"{value:.{digits}f}" + ("" if m.se is None else f" ± {scale * m.se:.{digits}f}")


def reported(value: float | None, digits: int = 1) -> str:
    """A number of the paper, which has no error unless the paper gives one."""
    return NONE if value is None else f"{value:.{digits}f}"


def budget(eps: float) -> str:
    """A budget or size of noise, in levels of 255 unless it is a short decimal.

    >>> budget(8 / 255), budget(0.5 / 255), budget(0.1), budget(0.05)
    ('8/255', '0.5/255', '0.1', '0.05')
    """
    short = abs(eps - round(eps, 3)) < 1e-9
    levels = round(16 * 255 * eps) / 16  # a half or a quarter of a budget too
    return f"{levels:g}/255" if abs(255 * eps - levels) < 1e-4 and not short else f"{eps:g}"


class Unit(NamedTuple):
    """In which distances are shown: how many of them make a pixel unit, and their name."""

    factor: int
    name: str


def unit(budgets: Sequence[float]) -> Unit:
    """The unit of distances beside these budgets: levels of 255 if that is how the last one is written.

    >>> unit([1 / 255, 2 / 255]), unit([0.1, 0.2])
    (Unit(factor=255, name='1/255'), Unit(factor=1, name='pixel units'))
    """
    return Unit(255, "1/255") if budget(budgets[-1]).endswith("/255") else Unit(1, "pixel units")


def unit_of(records: Sequence[Measurement]) -> Unit:
    """The unit of distances of a run, by its own budgets."""
    return unit(records[0].run["configuration"]["eps"])


def errors_over(records: list[Measurement]) -> str:
    """The note of a table of means over images."""
    return f"± standard error over images, n = {', '.join(str(n) for n in sorted({m.n for m in records}))}."


def cells(records: list[Measurement]) -> Iterator[tuple[dict, int]]:
    """Coordinates of each purifier, and its t* in steps of the paper's schedule, 0 for one that has none."""
    seen = []
    for m in records:
        cell = {name: m.at[name] for name in ("sampler", "t_star") if name in m.at}
        if len(cell) == 2 and cell["sampler"] != "none" and cell not in seen:
            seen.append(cell)
            yield cell, cell["t_star"] * paper.STEPS // m.run["configuration"]["respaced"]


def cell_columns(cell: dict, t: int) -> Row:
    """The first columns of a row about one purifier."""
    step = f"{cell['t_star']} ({t})" if t else NONE
    return {"sampler": SAMPLER_NAMES[cell["sampler"]], "t* (paper's t)": step}


def cell_name(cell: dict) -> str:
    """A purifier in words; one without steps has none.

    >>> cell_name({"sampler": "ddpm", "t_star": 5}), cell_name({"sampler": "blur", "t_star": 0})
    ('DDPM at t* = 5', 'blur')
    """
    return SAMPLER_NAMES[cell["sampler"]] + (f" at t* = {cell['t_star']}" if cell["t_star"] else "")
