"""The report holds every number and figure of a run, needs nothing but itself, and reads well at any width."""

import json
import re
import shutil
import subprocess
from html import unescape
from importlib import import_module
from pathlib import Path

import pytest
from purimetry.compression.records import Measurement, RecordError, read_records
from purimetry.experiments.configuration import QUICK
from purimetry.figures import paper, predictors
from purimetry.figures.headline import headline
from purimetry.figures.report import SECTIONS, write_report

from .test_figures import FIGURES, SyntheticRun

RECORDS = Path(__file__).parent.parent / "records"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement, images = [...document.images];
  parent.postMessage(JSON.stringify({
    width: innerWidth, overflow: root.scrollWidth - root.clientWidth,
    figures: images.filter(i => i.complete && i.naturalWidth > 0).length,
    alternatives: images.filter(i => i.alt).length,
    scrolling: [...document.querySelectorAll(".scroll")].filter(s => s.querySelector("table")
      && s.scrollWidth > s.clientWidth).map(s => s.getAttribute("aria-label")),
    tables: [...document.querySelectorAll("table")].filter(t => t.rows.length > 1).length,
    fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
  }), "*");
});</script>"""
FRAME = """<!doctype html><title></title>
<script>addEventListener("message", e => { document.title = e.data; });</script>
<iframe src="report.html" width="WIDTH" height="900" style="border: 0"></iframe>"""
"""Windows cannot be narrower than about 500 px, frames can."""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report of a run of which every experiment is finished, on the full grid."""
    return write_report(SyntheticRun(tmp_path_factory.mktemp("run") / "out", images=40, seeds=(0, 1)).write(*FIGURES))


def text(path: Path) -> str:
    """What a reader sees, without the embedded images."""
    return unescape(re.sub(r"<(style|title).*?</\1>|<[^>]*>", " ", path.read_text(), flags=re.DOTALL))


def test_pictures_lie_beside_the_report(report):
    found = {path.name for path in (report.parent / "figures").iterdir()}
    assert found == {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    assert report.read_text().count("<img") == len(FIGURES)


def test_answer_carries_the_headline_numbers(report):
    assert "misses the measured robust accuracy by 12.0 points on average (95 % interval 9.6 to 14.4" in text(report)
    assert "Ours, the extrapolated attack, misses by 0.5 points on average" in text(report)
    assert "4.0 points higher than the converged attack" in text(report)


def test_the_answer_is_from_its_own_experiments():
    """Others share names of quantities: `alp_compression` of its autoencoders, `distribution` of fewer images."""
    of = lambda experiment, quantity, value, **at: Measurement(experiment, quantity, value, 1.0, 8, "", at)
    cell = {"sampler": "ddpm", "t_star": 5, "eps": 0.1}
    own = [of("prediction", "measured_robust_accuracy", 60.0, **cell)]
    for predictor in (predictors.PAPERS, predictors.OURS):
        own += [of("prediction", quantity, 3.0, predictor=predictor) for quantity in (
            "mean_absolute_error", "mean_absolute_error_low", "mean_absolute_error_high", "largest_error", "cost")]
    own += [of("robust_accuracy", "robust_accuracy", value, **cell, attack=attack)
            for attack, value in (("paper", 70.0), ("converged", 60.0))]
    foreign = [of("alp_compression", "mean_absolute_error", 99.0, predictor=predictors.PAPERS, kind="autoencoder"),
               of("distribution", "robust_accuracy", 99.0, **cell, attack="paper")]
    assert headline(foreign + own) == headline(own)


def test_the_answer_says_where_preflight_forbids_to_believe_it():
    of = lambda sampler, outcome: Measurement("preflight", "flaws", float(outcome == "error"), None, 8, "flaws", {
        "sampler": sampler, "t_star": 0, "eps": 0.1, "check": "transfer", "outcome": outcome, "found": ""})
    assert "Preflight finds errors at rounding: robust accuracies there" in headline([of("rounding", "error")])
    assert "Preflight" not in headline([of("rounding", "warning"), of("none", "passed")])


def test_papers_numbers_stand_beside_ours_and_are_labelled(report):
    page = text(report)
    reported = [f"{cell.rate:.3f}" for row in paper.TABLE_2.values() for cell in row.values()]
    reported += [f"{row.survival_anchor:.1f}" for row in paper.TABLE_3.values()]
    reported += [f"{r.mean:.3f}" for r in paper.TABLE_5.values()] + [f"{r.mean:.4f}" for r in paper.TABLE_6.values()]
    assert [number for number in reported if number not in page] == []
    assert "Its numbers are for CIFAR-10, eps 8/255; ours are for digits" in page
    assert paper.CITATION in page


def test_settings_cost_and_provenance_are_told(report):
    page = text(report)
    for expected in (
        "n = 40",
        "training.denoiser_steps",
        "c" * 64,
        "d" * 64,
        "jax 0.10.2",
        "cpu (x86_64, linux)",
        "Cost: seconds of computation",
        "How it was computed.",
    ):
        assert expected in page, expected
    missing = re.search(r"Not in this run yet: (.*?)\.", page)
    assert not missing or set(missing[1].split(", ")) == set(SECTIONS) - set(FIGURES)
    assert "Quick tour" not in page


def test_page_refers_to_nothing_outside_itself(report):
    page = report.read_text()
    assert not re.search(r"https?://|<script|@import|url\(", page)
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("data:") or f'id="{link[1:]}"' in page for link in links)
    assert '<html lang="en">' in page


def test_same_records_give_the_same_report(report):
    before = report.read_bytes()
    assert write_report(report.parent).read_bytes() == before


def test_missing_experiments_are_named_with_their_command(tmp_path):
    report = write_report(SyntheticRun(tmp_path / "out", images=40).write("training"))
    page = text(report)
    others = ", ".join(name for name in SECTIONS if name != "training")
    assert f"Not in this run yet: {others}." in " ".join(page.split())
    assert "purimetry run NAME" in page
    assert "has not yet measured" in page


def test_run_without_any_records_still_has_a_page(tmp_path):
    assert "Not in this run yet" in text(write_report(SyntheticRun(tmp_path / "out", images=40).write()))


def test_quick_tour_is_said_to_be_indicative(tmp_path):
    run = SyntheticRun(tmp_path / "out", images=32, note=QUICK)
    assert "only indicative" in text(write_report(run.write("training")))


@pytest.mark.parametrize("folder", sorted(RECORDS.iterdir()), ids=lambda folder: folder.name)
def test_records_that_come_with_purimetry_are_drawn(folder):
    records = read_records(folder)
    run = {name: [m for m in records if m.experiment == name] for name in SECTIONS}
    for name in {m.experiment for m in records}:
        drawing = import_module(f"purimetry.figures.{name}")
        tables = drawing.tables(run)
        assert tables and all(table.rows for table in tables)
        drawing.draw(folder)


def test_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(RecordError, match="not a run"):
        write_report(tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine to open the report in")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_figures_and_tables_without_errors_or_sideways_scrolling(report, tmp_path, width):
    (tmp_path / "report.html").write_text(report.read_text().replace("</head>", PROBE + "</head>"))
    page = tmp_path / "frame.html"
    page.write_text(FRAME.replace("WIDTH", str(width)))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,1000",
        "--virtual-time-budget=5000",
    ]
    shown = subprocess.run(
        [BROWSER, *options, "--dump-dom", page.as_uri()], check=True, capture_output=True, text=True, timeout=600
    )
    seen = json.loads(unescape(re.search(r"<title>(.*?)</title>", shown.stdout).group(1)))
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert width < 1280 or seen["scrolling"] == []
    del seen["scrolling"]
    assert seen == {
        "width": width,
        "overflow": 0,
        "figures": len(FIGURES),
        "alternatives": len(FIGURES),
        "tables": report.read_text().count("<table"),
        "fetched": [],
    }
