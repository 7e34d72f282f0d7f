"""The report of a run: one self-contained page with its answer, figures, tables, cost and provenance."""

import base64
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from ..compression.records import Measurement, read_costs, read_manifest, read_records, write_atomic
from . import budgets, paper, style
from .headline import QUESTION, headline
from .table import PAPERS, budget, heads, typeset

SECTIONS = (
    "prediction", "hypotheses", "diagnosis", "robust_accuracy", "preflight", "protocols", "attack_peers", "rates",
    "rates_causes", "rates_timesteps", "minimum_perturbation", "anchors", "distances", "distribution", "randomness",
    "randomness_evaluation", "manifold", "diffusion_steps", "gaussian_field", "exact_theory", "examples", "training",
    "alp_matrix", "alp_tradeoff", "alp_sigma", "alp_trials",
    "alp_claims", "alp_protocols", "alp_compression", "alp_hierarchy", "alp_tsne",
)
"""Experiments by what the reader wants to know first; each has a module here with TITLE, CAPTION, draw and tables."""


def write_report(folder: Path) -> Path:
    """Draw the figures of a finished or unfinished run and write its report.

    folder: the run's output folder. Writes figures/NAME.png and .svg for every experiment that has records, and
    report.html, whose path is returned.

    Raises RecordError if the folder holds no run of this version.
    """
    folder = Path(folder)
    configuration, records = read_manifest(folder)["configuration"], read_records(folder)
    by_experiment = {name: [m for m in records if m.experiment == name] for name in SECTIONS}
    sections = [_section(folder, name, by_experiment) for name, found in by_experiment.items() if found]
    page = _template().render(
        question=QUESTION,
        answer=headline(records),
        note=configuration.get("note", ""),
        configuration=dict(_flat(configuration)),
        budgets=", ".join(map(budget, configuration["eps"])),
        uninformative=budgets.notes(records),
        sections=sections,
        missing=[name for name, found in by_experiment.items() if not found],
        costs=read_costs(folder),
        provenance=_provenance(records),
        citation=paper.CITATION,
        setting=paper.SETTING,
        paper_column=PAPERS,
    )
    write_atomic(folder / "report.html", page.encode())
    return folder / "report.html"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(heads=heads, typeset=typeset)
    return environment.get_template("report.html.jinja")


def _section(folder: Path, name: str, run: dict[str, list[Measurement]]) -> dict:
    drawing = import_module(f".{name}", __package__)
    figure: Figure | None = drawing.draw(folder)  # None where the records are of a kind that tables say alone
    if figure is not None:
        style.save(figure, folder / "figures", name)
    said = {file: folder / name / f"{file}.txt" for file in ("about", "lacking")}
    return {
        "name": name,
        "title": drawing.TITLE,
        "image": figure and base64.b64encode((folder / "figures" / f"{name}.svg").read_bytes()).decode(),
        "caption": drawing.CAPTION,
        "width": figure and round(96 * figure.get_figwidth()),
        "tables": drawing.tables(run),
        **{file: path.read_text() if path.exists() else "" for file, path in said.items()},
    }


def _flat(values: dict, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as ("training.seed", "0"), but those that were left open."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, ", ".join(map(_said, value if isinstance(value, list) else [value]))


def _said(value: object) -> str:
    """A setting's value; 8/255 rather than its decimals."""
    return budget(value) if isinstance(value, float) else str(value)


def _provenance(records: list[Measurement]) -> dict[str, str]:
    """What determines the records; several values where a run was resumed on another machine, or has several data."""
    weights = dict.fromkeys(name for m in records for name in m.run["weights_sha256"])
    rows: dict[str, Callable[[dict], object]] = {
        "machine": lambda run: run["device"],
        "versions": lambda run: ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        "data SHA-256": lambda run: run["data_sha256"],
        **{f"{name} SHA-256": lambda run, name=name: run["weights_sha256"].get(name) for name in weights},
    }
    found = {name: dict.fromkeys(of(m.run) for m in records) for name, of in rows.items()}
    return {name: "; ".join(filter(None, values)) for name, values in found.items() if values}
