"""What the paper reports of distances to the clean image: Tables 1 (SSIM), S7, S8 and S9, relabelled where they err."""

from typing import NamedTuple


class Change(NamedTuple):
    """A mean before and after purification."""

    before: float
    after: float


class Pair(NamedTuple):
    """Table 1: changes in l2 and l_inf distance (pixels) and in SSIM."""

    l2: Change
    linf: Change
    ssim: Change


TABLE_1 = {
    "ddpm": Pair(Change(1.077, 3.641), Change(0.031, 0.316), Change(0.965, 0.796)),
    "reverse": Pair(Change(1.149, 3.078), Change(0.031, 0.270), Change(0.965, 0.837)),
    "ddim": Pair(Change(1.080, 2.810), Change(0.031, 0.242), Change(0.964, 0.869)),
}
"""CIFAR-10, PGD with eps 8/255, t = 100."""


class Path(NamedTuple):
    """Mean distance (pixels) of the input, after the forward process, and at the end, each with the paper's +-."""

    input: tuple[float, float]
    noised: tuple[float, float]
    end: tuple[float, float]


TABLE_S8 = {
    "BPDA": Path((1.027, 0.023), (8.976, 0.118), (3.606, 0.607)),
    "BPDA-EOT": Path((1.072, 0.046), (8.992, 0.116), (3.607, 0.615)),
    "PGD": Path((1.077, 0.040), (8.980, 0.118), (3.646, 0.614)),
    "PGD-EOT": Path((1.188, 0.072), (8.999, 0.115), (3.695, 0.617)),
    "uniform 8/255": Path((1.004, 0.009), (8.979, 0.113), (3.598, 0.618)),
    "uniform 32/255": Path((4.015, 0.034), (9.699, 0.124), (3.823, 0.640)),
    "uniform 64/255": Path((8.030, 0.065), (11.715, 0.145), (5.258, 0.714)),
    "uniform 128/255": Path((16.051, 0.129), (17.622, 0.184), (9.307, 0.581)),
}
"""l2 on CIFAR-10, DDPM, t = 100. The rows printed as 16/255 and 32/255 are 32/255 and 64/255 by their initial l_inf."""

TABLE_S9 = {
    "BPDA": Path((0.031, 0.000), (0.601, 0.051), (0.313, 0.053)),
    "BPDA-EOT": Path((0.031, 0.000), (0.603, 0.051), (0.316, 0.053)),
    "PGD": Path((0.031, 0.000), (0.606, 0.050), (0.317, 0.055)),
    "PGD-EOT": Path((0.031, 0.000), (0.606, 0.050), (0.319, 0.053)),
    "uniform 8/255": Path((0.031, 0.000), (0.605, 0.050), (0.314, 0.052)),
    "uniform 32/255": Path((0.125, 0.000), (0.647, 0.054), (0.330, 0.055)),
    "uniform 64/255": Path((0.251, 0.000), (0.735, 0.052), (0.425, 0.059)),
    "uniform 128/255": Path((0.502, 0.000), (0.941, 0.057), (0.623, 0.054)),
}
"""l_inf, the same."""

TABLE_S7 = {
    "l2": {"BPDA": Path((3.537, 0.079), (61.116, 0.738), (17.712, 4.851)),
           "BPDA-EOT": Path((3.772, 0.139), (61.078, 0.762), (17.694, 4.838))},
    "linf": {"BPDA": Path((0.016, 0.000), (0.832, 0.059), (0.422, 0.077)),
             "BPDA-EOT": Path((0.016, 0.000), (0.839, 0.060), (0.418, 0.084))},
}
"""ImageNet, Guided, t = 150, eps 4/255."""

CROSSING = {"l2": "30/255", "linf": "> 128/255"}
"""Sizes of uniform noise from which distances shrink: linear between Table S8's 8/255 (+2.594) and 32/255 (-0.192)."""
