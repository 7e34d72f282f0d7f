"""Budgets that do not tell purifiers apart are named, and the survival curve suggests others."""

import pytest

from purimetry.compression.records import Measurement
from purimetry.figures import budgets
from purimetry.figures.table import budget

COLOUR, GREY = ({"configuration": {"eps": eps}} for eps in ([1 / 255, 8 / 255], [0.1, 0.2]))


def robust(value, t_star=1, eps=8 / 255, se=2.0, attack="converged"):
    at = {"sampler": "ddpm", "t_star": t_star, "eps": eps, "attack": attack}
    return Measurement("robust_accuracy", "robust_accuracy", float(value), float(se), 48, "%", at, COLOUR)


def clean(value, t_star):
    at = {"sampler": "ddpm", "t_star": t_star}
    return Measurement("rates", "clean_accuracy", float(value), 3.0, 48, "%", at, COLOUR)


def quantile(value, survive, run=COLOUR):
    at = {"sampler": "none", "t_star": 0, "survive": survive}
    return Measurement("minimum_perturbation", "perturbation_quantile", value, 0.0002, 45, "pixel", at, run)


@pytest.mark.parametrize("eps, text", [
    (8 / 255, "8/255"), (0.5 / 255, "0.5/255"), (0.25 * 0.5 / 255, "0.125/255"), (0.00196078, "0.5/255"),
    (0.1, "0.1"), (0.2, "0.2"), (0.025, "0.025"), (0.4, "0.4"), (0.0123, "0.0123"), (32 / 255, "32/255"),
])
def test_a_budget_is_written_in_levels_unless_it_is_a_short_decimal(eps, text):
    assert budget(eps) == text


def test_a_budget_that_breaks_everything_is_named_with_a_better_one():
    records = [robust(0.0, se=0.0), robust(2.1, 2, se=2.1), robust(50, eps=1 / 255), quantile(0.62 / 255, 50),
               quantile(1.4 / 255, 5)]
    (said,) = budgets.notes(records)
    assert said.startswith("At eps 8/255 the converged attack leaves nothing behind every purifier")
    assert "n = 48" in said and "suggests --eps 0.00196078 0.00588235" in said


def test_a_budget_that_breaks_nothing_is_measured_against_clean_accuracy():
    (said,) = budgets.notes([robust(79), robust(88, 2), clean(80, 1), clean(90, 2)])
    assert "leaves everything that is right without an attack" in said
    assert budgets.notes([robust(79), robust(86, 2), clean(80, 1), clean(90, 2)]) == []


def preflight(sampler, t_star, outcome, check="no_budget"):
    at = {"sampler": sampler, "t_star": t_star, "check": check, "outcome": outcome,
          "found": f"{check}: clean accuracy is 12.5 %; check the labels"}
    return Measurement("preflight", "flaws", float(outcome != "passed"), None, 8, "flaws", at, COLOUR)


@pytest.mark.parametrize("value, found, said", [
    (0, [], "but nothing is right without an attack either: check that labels are numbered as"),
    (12, [preflight("none", 0, "error")], "but preflight finds of no purifier without an attack: clean accuracy is 12"),
    (12, [preflight("ddpm", 1, "warning")], "but preflight finds of DDPM at t* = 1 without an attack: clean accuracy"),
    (80, [preflight("ddpm", 1, "error", "transfer"), preflight("ddim", 1, "error"), preflight("none", 0, "passed")],
     "so this budget does not tell purifiers apart"),
])
@pytest.mark.parametrize("left", ["nothing", "everything"])
def test_a_budget_is_not_blamed_for_what_is_wrong_without_an_attack(value, found, said, left):
    attacked = robust(value if left == "everything" else 0, se=0.0)
    wrong = Measurement("rates", "clean_accuracy", float(value), 0.0, 48, "%", {"sampler": "ddpm", "t_star": 1}, COLOUR)
    (note,) = budgets.notes([attacked, wrong, quantile(0.62 / 255, 50), *found])
    assert said in note and ("suggests --eps" in note) == said.startswith("so this budget")


def test_other_budgets_attacks_and_the_bare_classifier_say_nothing():
    assert budgets.notes([robust(0, 0, se=0), robust(0, attack="paper", se=0), robust(10)]) == []
    assert budgets.notes([robust(0, 1, se=0), robust(99, 2)]) == []  # the budget tells these two apart


def test_suggestions_are_rounded_and_tabulated():
    records = [quantile(0.62 / 255, 50), quantile(1.4 / 255, 5)]
    assert [budget(eps) for eps in budgets.suggestions(records)] == ["0.5/255", "1.5/255"]
    (table,) = budgets.suggested(records)
    assert [list(row.values()) for row in table.rows] == [
        ["50 %", "0.62 ± 0.05", "0.5/255"], ["5 %", "1.40 ± 0.05", "1.5/255"]]
    grey = [quantile(0.118, 50, GREY), quantile(0.171, 5, GREY)]
    assert [budget(eps) for eps in budgets.suggestions(grey)] == ["0.12", "0.17"]
    assert budgets.suggested([]) == [] and budgets.suggestions([]) == []
