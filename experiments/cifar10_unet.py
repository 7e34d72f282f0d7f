"""How a UNet2DModel for CIFAR-10 is trained with PyTorch: one output for a noisy image and its time, squared error.

Channels last, for the reason that `cifar10_classifier` gives. A training that was interrupted resumes at the last state
that was saved, with the bits of one that was not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import UNet2DModel
from torch.nn import functional as F

from ..compression.data.dataset import Dataset
from . import checkpoints

ROUNDED = {"bfloat16": True, "float32": False}
"""Precisions, and whether matrix products and convolutions are rounded in them."""

SAVED = 100
"""Steps between saved states."""


class Recipe(NamedTuple):
    """What determines the training besides data; AdamW with a cosine decay, and a moving average of the weights.

    precision: one of ROUNDED.
    """

    steps: int
    batch: int
    rate: float
    average: float
    precision: str = "bfloat16"
    seed: int = 0


class Draw:
    """The random numbers of a step, which depend on nothing but it and the seed."""

    def __init__(self, recipe: Recipe, step: int):
        self.batch, self.generator = recipe.batch, torch.Generator().manual_seed(1_000_003 * recipe.seed + step)

    def below(self, high: int) -> torch.Tensor:
        """An integer an image, uniform in 0..high - 1."""
        return torch.randint(high, (self.batch,), generator=self.generator)

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """A batch of the images, each mirrored or not."""
        x = images[self.below(len(images))]
        return torch.where((self.below(2) == 1)[:, None, None, None], x.flip(3), x)

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        """N(0, 1) of x's shape."""
        return torch.randn(x.shape, generator=self.generator)


Example = Callable[[torch.Tensor, Draw], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""Of all images in [-1, 1]: the batch's noisy images, the times that the network is told, what it is to say."""


def train(
    dataset: Dataset, recipe: Recipe, example: Example, settings: dict, checkpoint: Path,
    on_step: Callable[[float, str], None] = lambda done, say: None,
) -> UNet2DModel:
    """The trained network, with its averaged weights.

    settings: of the network. checkpoint: file of the state from which an interrupted training resumes; RecordError
    where it is another training's. on_step: told the fraction done and the loss of each step.
    """
    torch.manual_seed(recipe.seed)
    images = torch.from_numpy(2 * np.asarray(dataset.train_images) - 1).permute(0, 3, 1, 2)
    model = UNet2DModel(**settings).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), recipe.rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    first, made_from = 0, (recipe, example.__module__, settings, dataset.fingerprint)
    if state := checkpoints.load(checkpoint, made_from):
        for part in (model, optimiser, decay):
            part.load_state_dict(state[type(part).__name__])
        average, first = state["average"], state["step"]
    for step in range(first, recipe.steps):
        x_t, time, wanted = example(images, Draw(recipe, step))
        with torch.autocast("cpu", torch.bfloat16, enabled=ROUNDED[recipe.precision]):
            said = model(x_t.contiguous(memory_format=torch.channels_last), time).sample
        loss = F.mse_loss(said.float(), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - recipe.average)
        if (step + 1) % SAVED == 0:
            parts = {type(part).__name__: part.state_dict() for part in (model, optimiser, decay)}
            checkpoints.save(checkpoint, made_from, {**parts, "average": average, "step": step + 1})
        on_step((step + 1) / recipe.steps, f"loss {loss.item():.4f}")
    model.load_state_dict(average)
    return model.eval()
