"""CIFAR-10's published rectified flow: the network, what it learns from, and its recipe.

A UNet half as large as the noise predictor's (1.7 M parameters) that learns the velocity z - x_0 at (1 - t) x_0 + t z
from scratch: no weight of the noise predictor's is in it. Four of five training times have less noise than the linear
schedule's t = 150. float32, for it was trained on a processor without bfloat16.
"""

import torch

from ..compression import schedules
from ..compression.weights import velocity_unet
from . import cifar10_denoiser
from .cifar10_unet import Draw, Recipe

SETTINGS = cifar10_denoiser.SETTINGS | {"block_out_channels": (32, 64, 96)}
"""Of the UNet2DModel."""

PROCESS, PREDICTS, READ = "rectified flow, told 999 t", "velocity", velocity_unet
"""What it is made for, what it learns to say, and what reads it."""

TRAINED_UNTIL = 150
"""The step t of 1000, of the linear schedule, whose noise bounds four of five training times."""

LAST = schedules.rectified_time(schedules.linear().alpha_bar[TRAINED_UNTIL])
"""That bound as a time of the flow, 0.34 of 1."""

RECIPE = Recipe(steps=4000, batch=32, rate=8e-4, average=0.999, precision="float32")
"""The published weights'."""

STEPS = 1 << 20
"""How many times, evenly spaced in [0, 1), are drawn from."""


def example(images: torch.Tensor, draw: Draw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(1 - t) x_0 + t z, 999 t, and z - x_0."""
    x = draw.images(images)
    t = draw.below(STEPS) / STEPS
    t = torch.where(draw.below(5) == 0, t, LAST * t)
    noise, share = draw.noise(x), t[:, None, None, None]
    return (1 - share) * x + share * noise, schedules.CONTINUOUS * t, noise - x
