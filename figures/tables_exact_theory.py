"""What is exact, what was estimated, and what the paper's forms give, beside one another."""

from itertools import product

import numpy as np

from ..compression.records import Measurement
from .selection import distinct, find, get, select
from .style import SAMPLER_NAMES
from .table import NONE, Row, Table, number

NAMES = {"low_rank": "flat manifold", "mixture": "mixture"}


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Where the approximations hold, and every purifier of the middle variance."""
    records = run["exact_theory"]
    return [_compression(records), _robust(records), *(_purifiers(records, kind) for kind in NAMES)]


def _compression(records: list[Measurement]) -> Table:
    def row(kind: str, off: float) -> Row:
        of = lambda quantity: select(records, quantity, kind=kind, off_variance=off)
        off_by = [abs(m.value) / m.se for m in of("rate_difference") if m.se]
        return {
            "data": NAMES[kind],
            "variance": f"{off:g}",
            "rate, estimated minus exact, in standard errors": f"{np.median(off_by):.1f} (median)" if off_by else NONE,
            "root mean square over expected rate": _ratios(of("rate_rms"), of("rate_exact")),
            "product of the steps' exact rates over exact rate": _ratios(of("rate_product"), of("rate_exact")),
            "product of their first-order forms (Eqs. 15, 16) over exact rate":
                _ratios(of("rate_first_order"), of("rate_exact")),
            "SNR, estimated over exact": _ratios(of("snr_estimated"), of("snr_exact")),
        }

    rows = [row(*place) for place in product(NAMES, distinct(records, "off_variance"))]
    note = "Ranges over samplers and t*. The mixture's exact SNR is that of one component alone."
    return Table("Where the approximations hold: compression", rows, note)


def _ratios(above: list[Measurement], below: list[Measurement]) -> str:
    values = np.array([a.value / b.value for a, b in zip(above, below, strict=True)])
    return f"{values.min():.2f} to {values.max():.2f}" if len(values) else NONE


def _robust(records: list[Measurement]) -> Table:
    def row(kind: str, classifier: str, budget: float) -> Row:
        of = lambda quantity: np.array([
            m.value for m in select(records, quantity, kind=kind, classifier=classifier, budget=budget)
        ])
        attacked = of("robust_attacked")
        error = lambda said: f"{(said - attacked).mean():+.1f}, {np.abs(said - attacked).mean():.1f}"
        return {
            "data": NAMES[kind],
            "classifier": classifier.replace("_", " "),
            "budget (medians)": f"{budget:g}",
            "bare (%)": f"{of('robust_bare').mean():.1f}",
            "purified, attacked (%)": f"{attacked.mean():.1f}",
            "images on which theory and attack differ (%)": f"{of('robust_disagreement').mean():.1f}",
            "S(CR eps) at anchors: mean error, mean size of it (points)": error(of("robust_paper_anchor")),
            "S(CR eps) at clean images": error(of("robust_paper_clean")),
        }

    found = select(records, "robust_attacked")
    places = dict.fromkeys((m.at["kind"], m.at["classifier"], m.at["budget"]) for m in found)
    note = (
        f"Means over samplers and t*, at variance {found[0].at['off_variance']:g}, n = {found[0].n} images in each. "
        "Theory is exact for the flat manifold, and linearised at each image for the mixture. Budgets are multiples of "
        "the bare classifier's median minimum perturbation."
    )
    return Table("Where the approximations hold: robust accuracy", [row(*place) for place in places], note)


def _purifiers(records: list[Measurement], kind: str) -> Table:
    off = sorted(distinct(records, "off_variance"))[1]
    found = select(records, "rate_exact", kind=kind, off_variance=off)

    def row(m: Measurement) -> Row:
        of = lambda quantity, digits=3: number(find(records, quantity, **m.at), digits)
        exact_snr = find(records, "snr_exact", **m.at)
        return {
            "sampler": SAMPLER_NAMES[m.at["sampler"]],
            "t*": str(m.at["t_star"]),
            "expected rate, exact": of("rate_exact"),
            "estimated": of("rate_estimated"),
            "root mean square": of("rate_rms"),
            "product of steps": of("rate_product"),
            "Eqs. 15, 16": of("rate_first_order"),
            "SNR, exact": f"{exact_snr.value:.4f}" if exact_snr else "no noise",
            "SNR, estimated": of("snr_estimated", 4),
        }

    n = get(records, "rate_estimated", **found[0].at).n
    note = f"± standard error over images, n = {n}; of SNRs by bootstrap. Variance {off:g}."
    return Table(f"Rate and SNR, {NAMES[kind]}", [row(m) for m in found], note)
