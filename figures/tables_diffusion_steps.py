"""Rates of the steps and of the whole purifier, on and off the manifold, with what the paper says of them."""

from ..compression.records import Measurement
from . import paper, paper_diffusion_steps
from .selection import distinct, find, get, select
from .style import SAMPLER_NAMES
from .table import NONE, PAPERS, Row, Table, errors_over, number


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """The steps of each sampler in short, and one by one for the first."""
    records = run["diffusion_steps"]
    return [_claims(records), _whole(records), _forward(records), _steps(records)]


def _of(records: list[Measurement], sampler: str) -> list[Measurement]:
    return [m for m in records if m.at["sampler"] == sampler]


def _claims(records: list[Measurement]) -> Table:
    """Fig. 4d's story, part by part, in words."""

    def row(sampler: str) -> Row:
        of = _of(records, sampler)
        first, last = records[0].at["t_star"], 1
        at = lambda quantity, t: get(of, quantity, t=t)
        return {
            "sampler": SAMPLER_NAMES[sampler],
            "first reverse step: off-manifold, all directions, Eq. 16":
                ", ".join(f"{at(q, first).value:.3f}" for q in ("rate_off", "rate_all", "rate_first_order")),
            "last step": ", ".join(f"{at(q, last).value:.3f}" for q in ("rate_off", "rate_all", "rate_first_order")),
            f"{PAPERS}Eq. 19: on-manifold": f"kappa: {at('state', first).value:.3f} to {at('state', last).value:.3f}",
            "ours: on-manifold": f"{number(at('rate_on', first), 3)} to {number(at('rate_on', last), 3)}",
            f"{PAPERS}Fig. 4d: a random perturbation's rate goes": paper_diffusion_steps.TURN,
            "ours: nearer to the on-manifold rate from step": _step(of, "turn"),
            "and above it from step": _step(of, "travelling_above_on"),
            "on- and off-manifold rates cross at step": _step(of, "off_above_on"),
        }

    rows = [row(sampler) for sampler in distinct(records, "sampler")]
    note = "Steps are counted from 1 at t = t*, with 95 % bootstrap intervals over images."
    return Table(f"Rates on and off the manifold, t* = {records[0].at['t_star']}", rows, note)


def _step(records: list[Measurement], quantity: str) -> str:
    """A step with its interval, or that there is none."""
    none = records[0].at["t_star"] + 1
    word = lambda value: "none" if value >= none else f"{value:g}"
    value, low, high = (get(records, quantity + end).value for end in ("", "_low", "_high"))
    if low >= none:
        return "none"
    return f"{word(value)} ({word(low)} to {word(high)})"


def _whole(records: list[Measurement]) -> Table:
    def row(sampler: str) -> Row:
        of = lambda quantity, digits=3: number(find(_of(records, sampler), quantity), digits)
        return {
            "sampler": SAMPLER_NAMES[sampler],
            "all directions": of("whole_all"),
            "on-manifold": of("whole_on"),
            "off-manifold": of("whole_off"),
            "share of the forward pass (% of the logarithm)": of("forward_share", 1),
            "Hutchinson minus exact: rate of a step": of("hutchinson_error_rate", 4),
            "Eq. 16": of("hutchinson_error_first_order", 4),
            "all steps": of("hutchinson_error_whole", 4),
        }

    rows = [row(sampler) for sampler in distinct(records, "sampler")]
    note = f"{errors_over(select(records, 'whole_all'))} Root-mean-square rates of the whole purifier without its clip."
    return Table("What the steps leave of a perturbation", rows, note)


def _forward(records: list[Measurement]) -> Table:
    """The forward pass to each t* of the run."""
    of = [m for m in records if m.quantity == "forward_cumulative" and m.at["sampler"] != "reverse"]
    scale = paper.STEPS // records[0].run["configuration"]["respaced"]
    t_stars = records[0].run["configuration"]["t_stars"]
    shown = [m for m in of if m.at["sampler"] == of[0].at["sampler"] and m.at["t"] in t_stars]
    rows = [
        {
            "t (paper's t)": f"{m.at['t']} ({m.at['t'] * scale})",
            "ours: product of the steps' rates": f"{m.value:.3f}",
            f"{PAPERS}Sec. 6.2": f"{paper_diffusion_steps.FORWARD:.2f}"
            if m.at["t"] * scale == paper_diffusion_steps.FORWARD_T else NONE,
        }
        for m in shown
    ]
    rows = rows or [{"t (paper's t)": NONE, "ours: product of the steps' rates": "no sampler here has a forward pass"}]
    note = "The same in all directions, sqrt(alpha_bar) by Eqs. 3 and 15; the paper's number is alpha_bar."
    return Table("The forward pass", rows, note)


def _steps(records: list[Measurement]) -> Table:
    sampler = records[0].at["sampler"]
    of = _of(records, sampler)

    def row(t: int) -> Row:
        found = lambda quantity: number(find(of, quantity, t=t), 3)
        return {
            "reverse step t": str(t),
            "all directions": found("rate_all"),
            f"{PAPERS}Eq. 16": found("rate_first_order"),
            "divergence of the noise predictor, per dimension": found("divergence"),
            "off-manifold": found("rate_off"),
            "on-manifold": found("rate_on"),
            f"{PAPERS}Eq. 19, on-manifold (kappa)": found("state"),
            "left of a random perturbation of the input": found("rate_travelling"),
        }

    rows = [row(t) for t in distinct(select(of, "rate_all"), "t")]
    title = f"Rate of each reverse step, {SAMPLER_NAMES[sampler]} at t* = {records[0].at['t_star']}"
    return Table(title, rows, f"{errors_over(select(of, 'rate_all'))} The paper's forms are evaluated on our model.")
