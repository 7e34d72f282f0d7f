"""Trained networks of a run: built once, cached by a hash of everything that determines them, resumable."""

import time
import warnings
from pathlib import Path

import jax.numpy as jnp
from flax import nnx

from ..compression import schedules
from ..compression.data.dataset import Dataset
from ..compression.networks import convnet, unet
from ..compression.networks.pure import Network, pure
from ..compression.records import RecordError
from ..compression.training import losses, loop, robust
from ..compression.weights import fingerprint, load_tree, save_tree
from .configuration import Training, default_cache
from .progress import bar

CHECKPOINT = 250
"""Steps between saved training states."""


def trained(
    dataset: Dataset, training: Training | None = None, cache: Path | None = None
) -> tuple[Network, Network]:
    """The run's classifier and noise predictor for a data set, from the cache or trained now (about 100 s)."""
    training, cache = training or Training(), cache or default_cache()
    return classifier(training, dataset, cache)[0], denoiser(training, dataset, cache)[0]


def classifier(training: Training, dataset: Dataset, cache: Path) -> tuple[Network, str]:
    """The trained classifier and its weights' SHA-256."""

    recipe = loop.Recipe(steps=training.classifier_steps)
    build, determinants = _convnet(training, dataset)
    return _trained("classifier", build, determinants, losses.classification, recipe, training.seed, dataset, cache)


def robust_classifier(training: Training, dataset: Dataset, cache: Path) -> tuple[Network, str]:
    """The same network trained by TRADES against `training.robust_eps`, and its weights' SHA-256."""
    recipe = loop.Recipe(steps=training.robust_steps)
    build, determinants = _convnet(training, dataset)
    determinants += ("trades", robust.VERSION, training.robust_eps, training.robust_beta)
    loss = robust.trades(training.robust_eps, beta=training.robust_beta)
    return _trained("robust-classifier", build, determinants, loss, recipe, training.seed, dataset, cache)


def _convnet(training: Training, dataset: Dataset):
    """How the classifier is built, and what determines its architecture."""

    def build() -> nnx.Module:
        rngs = nnx.Rngs(training.seed)
        return convnet.ConvNet(dataset.shape, dataset.classes, training.classifier_channels, rngs=rngs)

    return build, ("convnet", convnet.VERSION, training.classifier_channels, dataset.classes)


def denoiser(training: Training, dataset: Dataset, cache: Path) -> tuple[Network, str]:
    """The trained noise predictor (linear schedule, T = 1000) and its weights' SHA-256."""

    def build() -> nnx.Module:
        return unet.UNet(dataset.shape[-1], training.denoiser_channels, rngs=nnx.Rngs(training.seed))

    recipe = loop.Recipe(steps=training.denoiser_steps)
    determinants = ("unet", unet.VERSION, training.denoiser_channels, "linear-1000")
    loss = losses.noise_prediction(schedules.linear())
    return _trained("denoiser", build, determinants, loss, recipe, training.seed, dataset, cache)


def velocity(training: Training, dataset: Dataset, cache: Path) -> tuple[Network, str]:
    """The trained velocity of rectified flow, as large and trained as long as the noise predictor, and its SHA-256."""

    def build() -> nnx.Module:
        return unet.UNet(dataset.shape[-1], training.denoiser_channels, rngs=nnx.Rngs(training.seed))

    recipe = loop.Recipe(steps=training.denoiser_steps)
    determinants = ("unet", unet.VERSION, training.denoiser_channels, "rectified-flow")
    return _trained("velocity", build, determinants, losses.flow_matching, recipe, training.seed, dataset, cache)


def _trained(name, build, determinants, loss, recipe, seed, dataset, cache) -> tuple[Network, str]:
    mark = fingerprint(determinants, recipe.__dict__, losses.VERSION, seed, dataset.fingerprint)
    finished, unfinished = (Path(cache) / f"{name}-{mark}{end}.safetensors" for end in ("", "-training"))
    network = pure(nnx.eval_shape(build))  # without weights: initialising them takes seconds
    found = _load(finished, network.state)
    if found is not None:
        return network.with_state(found[0]), found[1]
    network = pure(build())
    state = _load(unfinished, loop.start(network, recipe))
    began, first = time.perf_counter(), 0 if state is None else int(state[0].step)
    with bar(f"train {name}") as show:

        def on_step(state: loop.TrainState, value: float) -> None:
            step = int(state.step)
            if step % CHECKPOINT == 0:
                save_tree(unfinished, state)
            rate = (step - first) / (time.perf_counter() - began)
            show(step / recipe.steps, f"loss {value:.4f}  {rate:.0f} steps/s")

        images, labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
        network = loop.fit(network, loss, images, labels, recipe, seed, state and state[0], on_step)
    sha = save_tree(finished, network.state)
    unfinished.unlink(missing_ok=True)
    return network, sha


def _load(path: Path, like):
    if not path.exists():
        return None
    try:
        return load_tree(path, like)
    except RecordError as error:
        warnings.warn(f"{error}: building it again", stacklevel=3)
        return None
