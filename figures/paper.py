"""What the compression paper reports for CIFAR-10 (l_inf budget 8/255, 1000-step schedule), to stand beside ours."""

from typing import NamedTuple

CITATION = (
    '"Diffusion models improve adversarial robustness by compressing image space", '
    "anonymous authors, under double-blind review; Sec. 5, Tables 2, 3, 5 and 6"
)
SETTING = "CIFAR-10, eps 8/255"
STEPS = 1000
"""Steps of the paper's schedule, in which its t is counted."""


class Cell(NamedTuple):
    """Table 2: expected compression rate and robust accuracy (%) under PGD with fixed randomness."""

    rate: float
    robust: float


TABLE_2 = {
    "ddpm": {
        10: Cell(0.552, 0.1),
        20: Cell(0.420, 1.0),
        50: Cell(0.299, 8.6),
        100: Cell(0.231, 23.7),
        150: Cell(0.201, 35.3),
    },
    "reverse": {
        10: Cell(0.461, 0.6),
        20: Cell(0.355, 3.5),
        50: Cell(0.248, 18.5),
        100: Cell(0.195, 34.9),
        150: Cell(0.177, 43.0),
    },
    "ddim": {
        10: Cell(0.641, 0.1),
        20: Cell(0.499, 0.4),
        50: Cell(0.364, 2.2),
        100: Cell(0.281, 10.9),
        150: Cell(0.241, 15.6),
    },
}


class Prediction(NamedTuple):
    """Tables 3 and 4, t = 100: accuracies in %, rate with its standard deviation over images."""

    clean: float
    rate: float
    rate_spread: float
    survival_clean: float
    survival_anchor: float
    robust: float | None


TABLE_3_T = 100
TABLE_3 = {
    "ddpm": Prediction(85.5, 0.231, 0.046, 27.8, 26.0, 23.7),
    "reverse": Prediction(87.2, 0.195, 0.046, 45.3, 40.9, 34.9),
    "ddim": Prediction(87.5, 0.281, 0.048, 10.2, 10.6, 10.9),
}


class Rate(NamedTuple):
    """A rate and its standard deviation over images."""

    mean: float
    spread: float


IMAGENET = "ImageNet, eps 4/255"
"""Setting of Table 4, on 200 images of the validation set with RobustBench's ResNet-50."""

TABLE_4 = {
    "ddpm": Prediction(73.6, 0.147, 0.070, 46.1, 42.2, None),
    "sde": Prediction(75.4, 0.165, 0.059, 40.1, 38.0, None),
    "dpm": Prediction(59.8, 0.337, 0.015, 1.0, 0.5, None),
}
"""Also at t = 100, predictions only: there was no full-gradient attack on ImageNet (footnote 1)."""


class Predictions(NamedTuple):
    """A table of predictions, by the samplers' names."""

    number: int
    setting: str
    cells: dict[str, Prediction]


def predictions(dataset: str) -> Predictions:
    """The table beside which a run's predictions stand: Table 4 for images of one's own, which may be ImageNet's.

    >>> predictions("cifar10").number, predictions("val").number
    (3, 4)
    """
    if dataset in ("digits", "cifar10", "cifar100"):
        return Predictions(3, SETTING, TABLE_3)
    return Predictions(4, IMAGENET, TABLE_4)


TABLE_5 = {
    0.25: Rate(0.230, 0.047),
    0.5: Rate(0.230, 0.046),
    1.0: Rate(0.231, 0.046),
    2.0: Rate(0.239, 0.049),
    4.0: Rate(0.268, 0.057),
}
"""DDPM at t = 100, by perturbation size relative to the budget."""

TABLE_6 = {0: Rate(0.2306, 0.0457), 123: Rate(0.2309, 0.0481), 295: Rate(0.2312, 0.0481)}
"""DDPM at t = 100, by random seed."""
