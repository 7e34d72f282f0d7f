"""CIFAR-10's published noise predictor: the network, what it learns from, and its recipe.

A small UNet (3.6 M parameters) on the linear schedule of 1000 steps; four of five training times lie below t = 250, as
purification needs no others.
"""

import numpy as np
import torch

from ..compression import schedules
from ..compression.weights import ddpm_unet
from .cifar10_unet import Draw, Recipe

SETTINGS = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (64, 96, 128),
    "down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3, "norm_num_groups": 16,
    "attention_head_dim": None,
}
"""Of the UNet2DModel; without attention but in the middle."""

PROCESS, PREDICTS, READ = "linear schedule 1e-4..0.02, T = 1000", "noise", ddpm_unet
"""What it is made for, what it learns to say, and what reads it."""

TRAINED_UNTIL = 250
"""The step t of 1000 below which four of five training times lie."""

RECIPE = Recipe(steps=5236, batch=64, rate=4e-4, average=0.9995)
"""The published weights'."""

SIGNAL = torch.from_numpy(np.sqrt(schedules.linear().alpha_bar[1:])).float()
"""sqrt(alpha_bar) of the times 0..999 that the network is told."""


def example(images: torch.Tensor, draw: Draw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t, t = 0..999 and the noise in x_t."""
    x = draw.images(images)
    t = torch.where(draw.below(5) == 0, draw.below(len(SIGNAL)), draw.below(TRAINED_UNTIL))
    noise, kept = draw.noise(x), SIGNAL[t][:, None, None, None]
    return kept * x + (1 - kept**2).sqrt() * noise, t, noise
