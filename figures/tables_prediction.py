"""The predictors' scores, Table 3 with the paper's numbers, and the causes of error."""

from ..compression.records import Measurement
from . import paper, predictors
from .selection import distinct, find, select
from .table import PAPERS, Row, Table, budget, cell_columns, cells, errors_over, number, reported

CAUSES = {
    "anchor_shift": "anchor differs from image",
    "heterogeneity": "images differ in rate",
    "norm": "l_inf, not l2",
    "anisotropy": "attack is no random direction",
    "nonlinearity": "classifier or map bends",
    "residual": "rest",
}
"""Why the paper's prediction misses, from one predictor of the chain to the next."""

TOTAL = "measured_minus_predicted"
"""What they add up to."""

RATIOS = {
    "rate_drift": "rate over that at the smallest size",
    "adversarial_over_random": "adversarial over random rate",
    "linf_over_l2": "l_inf over l2 rate",
    "distance_over_linear": "minimum perturbation over a linear classifier's (median)",
    "gained_over_promised": "margin gained over promised to first order",
}


def prediction(run: dict[str, list[Measurement]]) -> list[Table]:
    """How far off each predictor is, and Table 3 cell by cell."""
    records = run["prediction"]
    tables = [_predictions(records, run.get("rates", []), eps) for eps in distinct(records, "eps")]
    return [_scores(records), *tables]


def _scores(records: list[Measurement]) -> Table:
    def score(quantity: str, predictor: str, digits: int = 1) -> str:
        return number(find(records, quantity, predictor=predictor), digits)

    def interval(quantity: str, predictor: str, digits: int) -> str:
        sides = (predictors.overall(records, quantity + side, predictor).value for side in ("", "_low", "_high"))
        return "{} [{}, {}]".format(*(f"{value:.{digits}f}" for value in sides))

    def row(predictor: str) -> Row:
        return {
            "predictor": predictors.name(predictor),
            "mean error (points)": interval("mean_absolute_error", predictor, 1),
            "by chance (points)": score("mean_absolute_error_by_chance", predictor),
            "largest error (points)": score("largest_error", predictor),
            "bias (points)": score("bias", predictor),
            "rank correlation": interval("spearman", predictor, 3),
            "agreement (% of images)": score("agreement", predictor),
            "gradients an image": score("gradients", predictor),
            "cost (% of the attack)": score("cost", predictor),
        }

    error = lambda predictor: predictors.overall(records, "mean_absolute_error", predictor).value
    best_first = sorted(predictors.present(records), key=error)
    measured = select(records, "measured_robust_accuracy")
    note = (
        f"Over {len(measured)} purifiers and budgets, n = {measured[0].n} images each, best first; brackets are 95 % "
        "bootstrap intervals, ± bootstrap standard errors over images. By chance: the mean error that so few images "
        "would show of a predictor without error. Agreement: images whose own prediction is right, with its standard "
        "error over images. Gradients and cost count those through the purifier."
    )
    return Table("Predicted against measured robust accuracy", [*map(row, best_first)], note)


def _predictions(records: list[Measurement], rates: list[Measurement], eps: float) -> Table:
    def row(cell: dict, t: int) -> Row:
        theirs = beside.cells.get(cell["sampler"]) if t == paper.TABLE_3_T else None
        predicted = {
            f"ours: {predictors.name(p)}": number(
                find(records, "predicted_robust_accuracy", **cell, eps=eps, predictor=p)
            )
            for p in predictors.present(records)
        }
        return {
            **cell_columns(cell, t),
            "ours: clean accuracy": number(find(rates, "clean_accuracy", **cell)),
            "ours: rate": number(find(rates, "rate_l2", **cell, eps=eps), 3),
            "ours: measured": number(find(records, "measured_robust_accuracy", **cell, eps=eps)),
            **predicted,
            f"{column} clean accuracy": reported(theirs and theirs.clean),
            f"{column} rate": reported(theirs and theirs.rate, 3),
            f"{column} PGD": reported(theirs and theirs.robust),
            f"{column} survival at clean images": reported(theirs and theirs.survival_clean),
            f"{column} survival at anchors": reported(theirs and theirs.survival_anchor),
        }

    measured = select(records, "measured_robust_accuracy", eps=eps)
    beside = paper.predictions(measured[0].run["configuration"]["dataset"])
    column = f"{PAPERS}{beside.setting}:"
    title = f"Table {beside.number}: robust accuracy (%) at eps {budget(eps)}, predicted and measured"
    note = f"{errors_over(measured)} Accuracies, measured and by each predictor, are in %, rates ratios of l2 norms."
    return Table(title, [row(*c) for c in cells(measured)], note)


def diagnosis(run: dict[str, list[Measurement]]) -> list[Table]:
    """Contributions to the error, and the ratios behind them."""
    records = run["diagnosis"]
    contributions = select(records, "contribution")
    causes, budgets = distinct(contributions, "cause"), distinct(contributions, "eps")
    ratios = [quantity for quantity in RATIOS if select(records, quantity)]

    def parts(at: dict) -> Row:
        found = {CAUSES[cause]: number(find(records, "contribution", **at, cause=cause)) for cause in causes}
        return {**found, "measured − predicted": number(find(records, TOTAL, **at))}

    def quotients(at: dict) -> Row:
        return {RATIOS[q]: number(find(records, q, **at), 3) for q in ratios}

    return [
        Table(
            title,
            [
                {**cell_columns(cell, t), "eps": budget(eps), **columns({**cell, "eps": eps})}
                for eps in budgets
                for cell, t in cells(contributions)
            ],
            errors_over(contributions),
        )
        for title, columns in (
            ("Where the paper's prediction errs (percentage points)", parts),
            ("Ratios behind the causes", quotients),
        )
    ]
