"""The numbers of docs/paper.md are those of the records that come with Purimetry."""

import re
from pathlib import Path

import numpy as np
import pytest
from purimetry.compression.records import read_records

ROOT = Path(__file__).parents[1]
ROWS = dict(re.findall(r"^\| `(?!run`)(\w+)` \| (.*) \|$", (ROOT / "docs/paper.md").read_text("utf8"), re.MULTILINE))
SAMPLERS = ("ddpm", "reverse", "ddim")


def values(experiment: str, quantity: str, **at) -> np.ndarray:
    """Values of an experiment's records of a quantity that have these coordinates among theirs."""
    found = [m.value for m in read_records(ROOT / "records/digits_paper", experiment)
             if m.quantity == quantity and at.items() <= m.at.items()]
    assert found, (experiment, quantity, at)
    return np.array(found)


def value(experiment: str, quantity: str, **at) -> float:
    (only,) = values(experiment, quantity, **at)
    return float(only)


def span(found, form: str = ".1f") -> str:
    """The least and the largest, as the page says them."""
    return f"{min(found):{form}} to {max(found):{form}}"


def distances():
    near = [value("distances", "crossing", norm="l2", sampler="ddpm", state="end", t_star=t) for t in (1, 5, 15)]
    yield "{:.2f} (t* = 1), {:.2f} (t* = 5) and {:.2f} (t* = 15)".format(*near)
    pgd = {norm: [value("distances", "distance", input="PGD", eps=0.2, norm=norm, sampler="ddpm", state=state)
                  for state in ("input", "output")] for norm in ("l2", "linf")}
    yield "closer in l2 ({:.2f} to {:.2f})".format(*pgd["l2"])
    yield "away in l_inf ({:.2f} to {:.2f})".format(*pgd["linf"])


def distribution():
    ranks = [value("distribution", "spearman", over="all", eps=0.2, attack="converged", predictor=name)
             for name in ("frechet", "kernel", "rate")]
    yield "Fréchet {:.2f}, kernel {:.2f}, rate {:.2f} at ε = 0.2".format(*ranks).replace("-", "−")


def randomness():
    yield "SNR {:.2f} (DDPM), {:.2f} (DDIM), {:.2f} (reverse-only)".format(
        *(value("randomness", "snr", sampler=name) for name in ("ddpm", "ddim", "reverse")))
    yield "from {:.3f} to {:.3f}".format(*(value("randomness", "radius", sampler="ddpm", set=name)
                                           for name in ("initial", "fixed_randomness")))


def randomness_evaluation():
    left = lambda t, gradient, k, attack, test: value(
        "randomness_evaluation", "robust_accuracy", t_star=t, gradient=gradient, k=k, xi_attack=attack, xi_test=test)
    of = ((1, "fixed", "same"), (1, "fixed", "other"), (15, "fresh", "other"))
    at = {t: [left(t, "full", *how) for how in of] for t in (5, 15)}
    yield "leaves {:.0f} %, its inputs under other xi {:.0f} %, PGD-EOT {:.0f} %".format(*at[15])
    yield "t* = 5 ({:.0f}, {:.0f}, {:.0f} %)".format(*at[5])
    more = [left(5, "bpda", *how) - left(5, "full", *how) for how in (*of, (1, "fresh", "other"))]
    yield f"BPDA leaves {span(more, '.0f')} points more"


def rates_timesteps():
    fell = (value("rates_timesteps", "rate", sampler="reverse", t_star=t) for t in (20, 70))
    yield "from {:.2f} to {:.2f}".format(*fell)


def anchors():
    clean = value("anchors", "median", sampler="none")
    medians = np.concatenate([values("anchors", "median", sampler=name) for name in SAMPLERS])
    yield f"medians within {100 * np.abs(medians / clean - 1).max():.0f} %"
    assert all(values("anchors", f"{test}_p_adjusted").min() > 0.05 for test in ("log_rank", "kolmogorov_smirnov"))
    yield f"rank correlations of {span(values('anchors', 'spearman', t_star=15), '.2f')} at t* = 15"


def diffusion_steps():
    on, off = (values("diffusion_steps", f"rate_{name}") for name in ("on", "off"))
    assert (on > off).all()
    taken = 100 * (1 - values("diffusion_steps", "rate_on", sampler="ddpm"))
    yield f"a step of DDPM takes {span(taken, '.0f')} %"
    last = (value("diffusion_steps", f"rate_{name}", sampler="ddpm", t=1) for name in ("all", "first_order"))
    yield "{:.2f} too low in the last step".format(next(last) - next(last))
    yield f"leaves {value('diffusion_steps', 'forward_cumulative', sampler='ddpm', t=10):.3f}, not"


def manifold():
    assert (values("manifold", "selective") < 1).all() and len(values("manifold", "selective")) == 15
    kept = [values("manifold", "preserved", t_star=t) for t in (1, 2, 5, 10, 15)]
    assert kept[0].min() >= 0.9 > np.concatenate(kept[1:]).max()
    left = {name: span(values("manifold", "left", direction=name)) for name in ("adversarial", "random")}
    yield f"{left['adversarial']} of it is left, of a random one {left['random']}"
    share = values("manifold", "share_over_chance", direction="adversarial", tangent="data")
    yield f"{span(share)} times as much on the manifold as chance"


def gaussian_field():
    assert abs(value("gaussian_field", "rate_off", reading="stable")) < 1
    yield f"(rate {value('gaussian_field', 'rate_off', reading='printed'):.0f} off the manifold)"


def exact_theory():
    mean = lambda quantity, budget, name: values("exact_theory", quantity, budget=budget, classifier=name).mean()
    missed = {name: [mean("robust_paper_anchor", b, name) - mean("robust_attacked", b, name) for b in (1, 2, 4)]
              for name in ("random", "manifold")}
    yield f"within {np.abs(missed['random']).max():.0f} points for a random classifier"
    yield f"{span(missed['manifold'], '.0f')} too high for one that sees the manifold only"
    mixture = (mean(name, 2, "nearest_mean") for name in ("robust_paper_anchor", "robust_attacked"))
    yield "({:.0f} % predicted, {:.0f} % left)".format(*mixture)


def hypotheses():
    said = {1: "supported", 0: "undecided", -1: "contradicted"}
    whole = lambda claim, eps, of="effect": next(iter(values("hypotheses", of, claim=claim, eps=eps)))
    outcome = lambda claim, eps: said[int(whole(claim, eps, "effect_outcome"))]
    first, second = (outcome("attraction", eps) for eps in (0.1, 0.2))
    yield f"(A) attraction to the clean image is {first} at ε = 0.1 and {second} at 0.2"
    assert outcome("alignment", 0.1) == outcome("alignment", 0.2) == "supported"
    yield "(B) alignment of distributions is supported"
    yield (f"{outcome('lawful', 0.1)} at 0.1 (rank correlation {whole('lawful', 0.1):.2f}, samplers "
           f"{whole('one_curve', 0.1):.0f} points apart").replace("-0", "−0")
    yield f"{outcome('lawful', 0.2)} at 0.2 ({whole('lawful', 0.2):.2f})".replace("-0", "−0")
    assert outcome("classifier_alone", 0.1) == outcome("classifier_alone", 0.2)
    yield "is {} ({:.0f} and {:.0f} points too high)".format(
        outcome("classifier_alone", 0.1), *(whole("classifier_alone", eps) for eps in (0.1, 0.2)))


SAID = {of.__name__: of for of in (
    distances, distribution, randomness, randomness_evaluation, rates_timesteps, anchors, diffusion_steps, manifold,
    gaussian_field, exact_theory, hypotheses,
)}


def test_every_row_with_numbers_is_held_against_records():
    assert set(ROWS) == {*SAID, "examples"}  # of which there are pictures


@pytest.mark.parametrize("name", SAID)
def test_a_row_says_what_the_records_say(name):
    for phrase in SAID[name]():
        assert phrase in ROWS[name]
