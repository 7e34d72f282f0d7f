"""What the paper reports of evaluations with randomness fixed or not: Tables S2 to S5 (40 steps, EOT with 15 draws)."""

from typing import NamedTuple


class Accuracy(NamedTuple):
    """An accuracy in %, with the standard deviation over three seeds where the paper gives one."""

    mean: float
    spread: float | None = None


class Setting(NamedTuple):
    """Where a group of the paper's numbers comes from."""

    name: str
    gradient: str


CIFAR = Setting("CIFAR-10, DDPM, t = 100, eps 8/255", "full")
IMAGENET = Setting("ImageNet, Guided, t = 150, eps 4/255", "bpda")

CLEAN = {
    CIFAR: {"same": Accuracy(85.8, 0.4), "other": Accuracy(86.0, 0.8)},
    IMAGENET: {"same": Accuracy(68.5, 0.8), "other": Accuracy(67.2, 2.4)},
}
"""Tables S2 and S3, by whether randomness is fixed ("same")."""

ROBUST = {
    CIFAR: {
        ("fixed", 1, "same"): Accuracy(23.7, 0.7),
        ("fixed", 1, "other"): Accuracy(77.4, 0.36),
        ("fresh", 1, "other"): Accuracy(71.9, 0.2),
        ("fresh", 15, "other"): Accuracy(59.3),
    },
    IMAGENET: {
        ("fixed", 1, "same"): Accuracy(29.5, 0.4),
        ("fixed", 1, "other"): Accuracy(66.3, 2.32),
        ("fresh", 1, "other"): Accuracy(63.7, 1.2),
        ("fresh", 15, "other"): Accuracy(59.0),
    },
}
"""Tables S2 to S4, by (xi_attack, draws in a gradient, xi_test)."""

TABLE_S5 = {1: Accuracy(0.0818, 0.0709), 15: Accuracy(0.1682, 0.0976)}
"""Correlation of an attack with draws in a gradient with PGD under one fixed xi, and its standard deviation."""
