"""Answers about the data manifold in words, and the numbers behind them."""

from ..compression.records import Measurement
from .intervals import OUTCOMES, bracketed
from .selection import distinct, find, get, select
from .style import SAMPLER_NAMES
from .table import Row, Table, cells, errors_over, number

WORDS = {"supported": "yes", "contradicted": "no", "undecided": "open"}
SPACES = {"halves": "data's, from two halves of the training images", "random": "data's and a random one"}


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """The answers over all cells, cell by cell, what is left, where directions lie, and the tangent spaces."""
    records = run["manifold"]
    by_sampler = [_answers(records, sampler) for sampler in distinct(records, "sampler")]
    return [_summary(records), *by_sampler, _left(records), _shares(records), _spectra(records), _tangents(records)]


def _claims(records: list[Measurement]) -> dict[str, str]:
    """Statements by the quantity that they are about."""
    return {m.quantity: m.at["claim"] for m in records if "claim" in m.at and find(records, f"{m.quantity}_outcome")}


def _word(m: Measurement) -> str:
    return WORDS[OUTCOMES[round(m.value)]]


def _summary(records: list[Measurement]) -> Table:
    def row(quantity: str, statement: str) -> Row:
        said = [_word(m) for m in select(records, f"{quantity}_outcome")]
        effects = [m.value for m in select(records, quantity)]
        counts = [f"{word} in {said.count(word)}" for word in WORDS.values() if word in said]
        return {
            "claim": statement,
            "answer": f"{said[0]} in all {len(said)} cells" if len(counts) == 1 else f"{', '.join(counts)} cells",
            "effect, over cells": f"{min(effects):.2f} to {max(effects):.2f}",
        }

    note = (
        "Yes or no where the whole 95 % interval over images is on one side, open otherwise. On the manifold is in the "
        f"tangent space of the data at the image, of dimension {get(records, 'dimension').value:g}: by chance "
        f"{get(records, 'chance').value:.1f} % of a direction's squared norm lies in it."
    )
    return Table("What the Jacobian says", [row(*claim) for claim in _claims(records).items()], note)


def _answers(records: list[Measurement], sampler: str) -> Table:
    of = [m for m in records if m.at.get("sampler") == sampler]

    def row(quantity: str, statement: str) -> Row:
        def answer(t_star: int) -> str:
            at = {"t_star": t_star, "claim": statement}
            return f"{_word(get(of, f'{quantity}_outcome', **at))}: {bracketed(of, quantity, 2, **at)}"

        return {"claim": statement} | {f"t* = {t_star}": answer(t_star) for t_star in distinct(of, "t_star")}

    note = f"With 95 % bootstrap intervals over images, n = {select(of, 'preserved')[0].n}."
    return Table(f"Answers for {SAMPLER_NAMES[sampler]}", [row(*claim) for claim in _claims(of).items()], note)


def _left(records: list[Measurement]) -> Table:
    def row(cell: dict) -> Row:
        of = lambda digits=3, **at: number(find(records, "left", **cell, **at), digits)
        return {
            "sampler": SAMPLER_NAMES[cell["sampler"]],
            "t*": str(cell["t_star"]),
            "random": of(direction="random"),
            "on (data)": of(direction="on", tangent="data"),
            "off (data)": of(direction="off", tangent="data"),
            "on (denoiser)": of(direction="on", tangent="denoiser"),
            "off (denoiser)": of(direction="off", tangent="denoiser"),
            "adversarial": of(direction="adversarial"),
            "its sign": of(direction="adversarial_sign"),
            "bare gradient": of(direction="bare"),
            "its sign (bare)": of(direction="bare_sign"),
        }

    note = f"Root mean square over directions. {errors_over(select(records, 'left'))}"
    return Table("What is left of a perturbation, by direction", [row(cell) for cell, _ in cells(records)], note)


def _shares(records: list[Measurement]) -> Table:
    def row(cell: dict) -> Row:
        of = lambda quantity, **at: number(find(records, quantity, **cell, **at), 1)
        return {
            "sampler": SAMPLER_NAMES[cell["sampler"]],
            "t*": str(cell["t_star"]),
            **{f"{name}, {tangent} (%)": of("share", direction=direction, tangent=tangent)
               for direction, name in (("adversarial", "adversarial"), ("adversarial_sign", "its sign"),
                                       ("bare", "bare gradient"))
               for tangent in ("data", "denoiser")},
            "adversarial, in the directions compressed least (%)": of("share_least", direction="adversarial"),
            "data's tangent space in them (%)": of("overlap_least", tangent="data"),
            "denoiser's in them (%)": of("overlap_least", tangent="denoiser"),
        }

    m = get(records, "dimension").value
    note = (
        f"By chance {get(records, 'chance').value:.1f} %. Compressed least: the {m:g} right singular vectors of J with "
        f"the largest singular values. {errors_over(select(records, 'share'))}"
    )
    return Table("Share of squared norm inside the tangent spaces", [row(cell) for cell, _ in cells(records)], note)


def _spectra(records: list[Measurement]) -> Table:
    def row(cell: dict) -> Row:
        of = lambda quantity, digits=1: number(find(records, quantity, **cell), digits)
        return {
            "sampler": SAMPLER_NAMES[cell["sampler"]],
            "t*": str(cell["t_star"]),
            "largest singular value": of("largest_singular_value", 2),
            "effective rank (participation)": of("participation_ratio"),
            "effective rank (entropy)": of("entropy_rank"),
            "antisymmetric part over J": of("asymmetry", 3),
            "least eigenvalue of the symmetric part": of("most_negative_eigenvalue", 3),
            "clipped pixel values (%)": of("clipped"),
        }

    note = errors_over(select(records, "largest_singular_value"))
    return Table("The Jacobian's spectrum", [row(cell) for cell, _ in cells(records)], note)


def _tangents(records: list[Measurement]) -> Table:
    def row(other: str) -> Row:
        of = lambda quantity, digits: number(get(records, quantity, **{"with": other}), digits)
        return {
            "tangent spaces": SPACES.get(other, f"data's and the denoiser's at t = {other.split('-t')[-1]}"),
            "mean squared cosine (%)": of("overlap", 1),
            "times chance": of("overlap_over_chance", 2),
            "largest cosine": of("largest_cosine", 3),
        }

    found = select(records, "overlap")
    note = f"{errors_over(found)} Two halves of the images say how well local PCA agrees with itself."
    return Table("Principal angles between tangent spaces", [row(m.at["with"]) for m in found], note)
