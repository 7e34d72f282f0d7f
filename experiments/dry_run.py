"""A dry run of the paper's Table 4: its whole way at a small size, with random weights and generated images.

Table 4 is of 200 ImageNet images, ResNet-50 and guided diffusion at t = 100, budget 4/255, by DDPM, VP-SDE and DPM-20.
None of these comes with Purimetry. With files of one's own, COMMAND computes it; the dry run does the same with a
guided UNet of two levels and a ResNet of one bottleneck a level, whose weights are drawn, on images of 32 pixels, so
that its numbers say that everything runs, and nothing else.
"""

import csv
from functools import partial
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from ..compression.networks import guided_unet, resnet
from ..compression.networks.from_torch import shapes_of
from .configuration import Configuration

COMMAND = (
    "With ImageNet and published weights: purimetry reproduce --dataset VALIDATION_FOLDER --samplers ddpm sde dpm "
    "--classifier resnet50:resnet50.pth --denoiser guided:256x256_diffusion_uncond.pt"
)
NOTE = "Dry run: random weights and generated images. Its numbers mean nothing but that everything runs."
EXPERIMENTS = ("rates", "minimum_perturbation", "robust_accuracy", "prediction")
"""What Table 4 takes."""

IMAGES, SIDE, CLASSES = 6, 32, 5
CLASSIFIER = partial(resnet.ImageNetResNet, resnet.Bottleneck, (8, 16, 16, 32), (1, 1, 1, 1), resnet.IMAGENET, CLASSES)
DENOISER = partial(guided_unet.GuidedUNet, channels=32, multiples=(1, 1), blocks=1, attention_at=(2,), head=32)


def prepared(folder: Path) -> Configuration:
    """The dry run's configuration, after its images and weights were written into the folder.

    Labels are the classifier's own answers, so that there is an accuracy to lose.
    """
    folder, generator = Path(folder), np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    files = {"classifier": folder / "resnet.safetensors", "denoiser": folder / "guided.safetensors"}
    arrays = {"classifier": random_weights(CLASSIFIER, generator), "denoiser": random_weights(DENOISER, generator)}
    images = generated(generator)
    network = resnet.bottleneck_resnet(arrays["classifier"], CLASSES)
    logits = np.asarray(jax.jit(jax.vmap(network))(images.astype(np.float32) / 255))
    arrays["classifier"]["fc.bias"] -= logits.mean(0)  # or all images would be of one class
    _write(folder / "images", images, (logits - logits.mean(0)).argmax(1))
    for name, file in files.items():
        save_file(arrays[name], file)
    return Configuration(
        out=folder / "run", dataset=str(folder / "images"), image_size=SIDE, images=IMAGES, note=NOTE,
        classifier=f"bottleneck-resnet:{files['classifier']}", denoiser=f"guided:{files['denoiser']}",
        samplers=("ddpm", "sde", "dpm"), respaced=20, t_stars=(2,), seeds=(0,), draws=2, eps_factors=(1.0,),
        attack_steps=4, attack_restarts=2, paper_steps=8, bootstrap=20,
    )


def random_weights(build, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """A state dict of PyTorch for `build`, drawn so that a layer neither grows nor shrinks what passes it."""
    found = {}
    for name, shape in shapes_of(build).items():
        if len(shape) > 1:
            array = generator.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        else:
            array = np.ones(shape) if name.endswith(("weight", "running_var")) else np.zeros(shape)
        found[name] = array.astype(np.float32)
    return found


def generated(generator: np.random.Generator) -> np.ndarray:
    """Colour gradients with a disc each, [IMAGES, SIDE, SIDE, 3] bytes."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    images = []
    for _ in range(IMAGES):
        slope, colour, (y, x) = (generator.uniform(size=size) for size in ((2, 3), 3, 2))
        image = (rows[..., None] * slope[0] + columns[..., None] * slope[1]) / 2
        image[np.hypot(rows - y, columns - x) < 0.25] = colour
        images.append(np.round(255 * image))
    return np.array(images, np.uint8)


def _write(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    from PIL import Image

    with open(folder / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label"])
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(folder / f"{number}.png")
            table.writerow([f"{number}.png", label])
