"""Tables S10 and S11 with the paper's numbers, and what orders purifiers as robust accuracy does."""

from ..compression.records import Measurement
from . import paper
from . import paper_distribution as theirs
from .intervals import bracketed
from .selection import distinct, find, get, select
from .style import SAMPLER_NAMES
from .table import NONE, PAPERS, Row, Table, budget, cell_columns, cells, errors_over, number, reported

MEASURES = {"frechet": "Fréchet", "kernel": "kernel", "cosine": "cosine", "rate": "rate"}
SPACES = {"penultimate": "classifier", "inception": "Inception", "clip": "CLIP"}
PREFERRED = {"frechet": "inception", "kernel": "inception", "cosine": "clip", "rate": "penultimate"}
"""The paper's feature spaces; the classifier's own features stand in where a run lacks one."""

ATTACKS = {"converged": "converged attack", "paper": "paper's PGD"}


def shown_space(records: list[Measurement], quantity: str) -> str:
    """The paper's feature space of a distance if the run has it, else the classifier's."""
    return PREFERRED[quantity] if PREFERRED[quantity] in distinct(records, "features") else "penultimate"


def distribution(run: dict[str, list[Measurement]]) -> list[Table]:
    """Correlations first, then distances by budget and feature space."""
    records = run["distribution"]
    ranks = [_ranks(records, eps, attack) for eps in distinct(records, "eps") for attack in ATTACKS]
    settings = [(eps, space) for eps in distinct(records, "eps") for space in distinct(records, "features")]
    return [*(table for table in ranks if table.rows), *(_distances(records, *setting) for setting in settings)]


def paper_correlation(quantity: str, over: str) -> float | None:
    """Rank correlation of the paper's own numbers with its robust accuracy (Tables 2, S10, S11), None without any.

    Of Table S11 the reduction of the distance, negated.

    >>> round(paper_correlation("rate", "ddpm"), 3)
    -1.0
    """
    from scipy.stats import spearmanr

    if quantity == "kernel" or over not in ("all", *theirs.TABLE_S10):
        return None
    at = [(sampler, t) for sampler in theirs.TABLE_S10 for t in theirs.TABLE_S10[sampler] if over in ("all", sampler)]
    values = {"frechet": lambda s, t: theirs.TABLE_S10[s][t], "cosine": lambda s, t: -theirs.TABLE_S11[s][t],
              "rate": lambda s, t: paper.TABLE_2[s][t].rate}[quantity]
    return float(spearmanr([values(*cell) for cell in at], [paper.TABLE_2[s][t].robust for s, t in at]).statistic)


def _ranks(records: list[Measurement], eps: float, attack: str) -> Table:
    def row(m: Measurement) -> Row:
        at = {**m.at, "over": "all"}
        quantity, own = at["predictor"], at["features"] == shown_space(records, at["predictor"])
        over = [o for o in distinct(records, "over") if select(records, "spearman", **{**at, "over": o})]
        spaces = "" if quantity == "rate" else f", {SPACES[at['features']]} features"
        return {
            "what orders purifiers": MEASURES[quantity] + spaces,
            **{f"ours: {_over(o)}": bracketed(records, "spearman", 2, **{**at, "over": o}) for o in over},
            "rate's minus it": NONE if quantity == "rate" else bracketed(records, "rate_minus", 2, **at),
            **{f"{PAPERS}{theirs.SETTING}: {_over(o)}": reported(paper_correlation(quantity, o) if own else None, 2)
               for o in over},
        }

    found = [m for m in select(records, "spearman", eps=eps, attack=attack, over="all")
             if m.at["predictor"] != "rate" or m.at["features"] == "penultimate"]
    note = (
        "Rank correlation of a purifier's distance (or rate) with its robust accuracy, -1 for what explains it; "
        f"brackets: 95 % intervals from random halves of the {found[0].n if found else 0} images. The Fréchet "
        "distance's is that of the halves, where its bias is larger. The paper's are computed from its Tables 2, S10 "
        "and S11 (there from the reduction of the distance, negated)."
    )
    title = f"Rank correlation with robust accuracy, {ATTACKS[attack]}, eps {budget(eps)}"
    return Table(title, [*map(row, found)], note)


def _over(name: str) -> str:
    return "all purifiers" if name == "all" else SAMPLER_NAMES.get(name, name)


def _distances(records: list[Measurement], eps: float, space: str) -> Table:
    def row(cell: dict, t: int) -> Row:
        at = {**cell, "eps": eps, "features": space}
        of = lambda quantity, digits: number(find(records, quantity, **at), digits)
        bias = get(records, "frechet_after_bias", **at).value
        return {
            **cell_columns(cell, t),
            f"{PAPERS}{theirs.SETTING}: FID after": reported(theirs.TABLE_S10.get(cell["sampler"], {}).get(t), 3),
            "ours: Fréchet before": of("frechet_before", 1),
            "ours: Fréchet after": of("frechet_after", 1),
            "of which bias": f"{bias:.1f}",
            "ours: kernel before": of("kernel_before", 3),
            "ours: kernel after": of("kernel_after", 3),
            "ours: kernel reduced by": of("kernel_reduction", 3),
            f"{PAPERS}{theirs.SETTING}: CLIP distance reduced by":
                reported(theirs.TABLE_S11.get(cell["sampler"], {}).get(t), 4),
            "ours: cosine before": of("cosine_before", 4),
            "ours: cosine after": of("cosine_after", 4),
            "ours: cosine reduced by": of("cosine_reduction", 4),
            **{f"robust accuracy, {name} (%)": number(find(records, "robust_accuracy", **cell, eps=eps, attack=attack))
               for attack, name in ATTACKS.items()},
        }

    found = select(records, "frechet_after", eps=eps, features=space)
    title = f"Tables S10, S11: distances to the clean images in the features of {SPACES[space]}, eps {budget(eps)}"
    note = (
        f"{errors_over(found)} Errors and biases of distances between sets are a jackknife's; the kernel distance has "
        "no bias and may be negative. The paper's FID is Inception's; its bias is unknown, with 1,000 images of 768 "
        "features."
    )
    return Table(title, [row(*cell) for cell in cells(found)], note)
