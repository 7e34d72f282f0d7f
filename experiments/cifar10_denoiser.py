"""CIFAR-10's published noise predictor: how it is trained with PyTorch, into a folder in diffusers' format.

A small UNet (3.6 M parameters) on the linear schedule of 1000 steps; four of five training times lie below t = 250, as
purification needs no others. bfloat16 with channels last, for the reason that `cifar10_classifier` gives. A training
that was interrupted resumes at the last state that was saved.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import UNet2DModel
from torch.nn import functional as F

from ..compression import schedules
from ..compression.data.dataset import Dataset

SETTINGS = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (64, 96, 128),
    "down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3, "norm_num_groups": 16,
    "attention_head_dim": None,
}
"""Of the UNet2DModel; without attention but in the middle."""

TRAINED_UNTIL = 250
"""The step t of 1000 below which four of five training times lie."""

SAVED = 100
"""Steps between saved states."""


class Recipe(NamedTuple):
    """What determines the training besides data; AdamW with a cosine decay, and a moving average of the weights."""

    steps: int = 5236
    batch: int = 64
    rate: float = 4e-4
    average: float = 0.9995
    seed: int = 0


RECIPE = Recipe()
"""The published weights'."""

def train(
    dataset: Dataset, recipe: Recipe, checkpoint: Path, on_step: Callable[[float, str], None] = lambda done, say: None,
    settings: dict = SETTINGS,
) -> UNet2DModel:
    """The trained noise predictor, with its averaged weights.

    checkpoint: file of the state from which an interrupted training resumes.
    on_step: told the fraction done and the loss of each step. settings: of the network.
    """
    torch.manual_seed(recipe.seed)
    images = torch.from_numpy(2 * np.asarray(dataset.train_images) - 1).permute(0, 3, 1, 2)
    model = UNet2DModel(**settings).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), recipe.rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for part in (model, optimiser, decay):
            part.load_state_dict(state[type(part).__name__])
        average, first = state["average"], state["step"]
    signal = torch.from_numpy(np.sqrt(schedules.linear().alpha_bar[1:])).float()
    for step in range(first, recipe.steps):
        x_t, t, noise = _noisy(images, signal, recipe, step)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(x_t, t).sample
        loss = F.mse_loss(predicted.float(), noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - recipe.average)
        if (step + 1) % SAVED == 0:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            parts = {type(part).__name__: part.state_dict() for part in (model, optimiser, decay)}
            torch.save({**parts, "average": average, "step": step + 1}, checkpoint)
        on_step((step + 1) / recipe.steps, f"loss {loss.item():.4f}")
    model.load_state_dict(average)
    return model.eval()


def _noisy(images: torch.Tensor, signal: torch.Tensor, recipe: Recipe, step: int):
    """The batch of a step, which depends on nothing but it and the seed: x_t, t = 0..999 and the noise in x_t."""
    generator = torch.Generator().manual_seed(1_000_003 * recipe.seed + step)
    draw = lambda high: torch.randint(high, (recipe.batch,), generator=generator)
    x = images[draw(len(images))]
    x = torch.where((draw(2) == 1)[:, None, None, None], x.flip(3), x)
    t = torch.where(draw(5) == 0, draw(len(signal)), draw(TRAINED_UNTIL))
    noise, kept = torch.randn(x.shape, generator=generator), signal[t][:, None, None, None]
    x_t = kept * x + (1 - kept**2).sqrt() * noise
    return x_t.contiguous(memory_format=torch.channels_last), t, noise
