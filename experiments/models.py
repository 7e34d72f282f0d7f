"""Trained networks of a run: built once, cached by a hash of everything that determines them, resumable."""

import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from ..compression import schedules
from ..compression.data.dataset import Bytes, Dataset
from ..compression.networks import autoencoder as autoencoders
from ..compression.networks import convnet, unet
from ..compression.networks.pure import Network, pure
from ..compression.records import RecordError
from ..compression.training import autoencoders as autoencoder_losses
from ..compression.training import losses, loop, robust
from ..compression.weights import fingerprint, load_tree, save_tree
from .configuration import Training, default_cache
from .progress import bar
from .workers import is_reproducible

CHECKPOINT = 100
"""Steps between saved training states."""

SCRIPTS = "scripts"
"""Folder in the cache of what processes of many threads have trained: no run takes it, for it has other last digits."""


@dataclass(frozen=True)
class Bottleneck:
    """What determines a trained autoencoder beside the data and the seed. The defaults are the digits' ALP.

    latent, sigma, learned, channels, blocks: of `networks.autoencoder`; a `Variational` has no sigma of its own.
    pixel_noise: of `training.autoencoders.distortion_rate`, in pixel units; 0 is reconstruction alone.
    steps, batch, learning_rate: of the training; a smaller rate leaves sigma further from where it settles.
    """

    latent: int = 64
    sigma: float | tuple[float, ...] = 0.5
    learned: bool = True
    channels: tuple[int, ...] = (16, 32, 64)
    blocks: int = 1
    pixel_noise: float = 0.05
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 6e-3

    def __post_init__(self):
        if self.pixel_noise and np.min(self.sigma) <= 0:
            raise ValueError(f"without noise (sigma = {self.sigma}) the rate is infinite: pixel_noise weighs it by "
                             f"{self.pixel_noise}; set it to 0, for reconstruction alone")


def trained(
    dataset: Dataset, training: Training | None = None, cache: Path | None = None
) -> tuple[Network, Network]:
    """A small classifier and noise predictor (linear schedule) of a data set, from the cache or trained now.

    training: 1500 and 4000 steps unless told, on the digits 100 s. A run on the same data takes the same, but for
        CIFAR-10, of which it takes larger ones that come with Purimetry: `published` reads those.
    cache: folder of trained weights, the runs' own unless told. What a run has trained is taken; what is trained here,
        on many threads, is kept apart from it.

    Raises ValueError for a data set without training images.
    """
    if not len(dataset.train_images):
        raise ValueError(f"{dataset.name} has no images to train on; give networks of your own")
    training, cache = training or Training(), cache or default_cache()
    return classifier(training, dataset, cache)[0], denoiser(training, dataset, cache)[0]


def classifier(training: Training, dataset: Dataset, cache: Path) -> tuple[Network, str]:
    """The trained classifier and its weights' SHA-256."""

    recipe = loop.Recipe(steps=training.classifier_steps)
    build, determinants = _convnet(training, dataset)
    return _trained("classifier", build, determinants, losses.classification, recipe, training.seed, dataset, cache)


def robust_classifier(training: Training, dataset: Dataset, cache: Path) -> tuple[Network, str]:
    """The same network trained by TRADES against `training.robust_eps`, and its weights' SHA-256.

    ValueError where that budget is not told; `Configuration.resolved` takes the data set's.
    """
    if training.robust_eps is None:
        raise ValueError("robust_eps is None; give the budget of adversarial training, such as 8 / 255, or take "
                         "Configuration.resolved().training")
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


def autoencoder(
    training: Training, dataset: Dataset, cache: Path, bottleneck: Bottleneck = Bottleneck()
) -> tuple[Network, str]:
    """The trained `networks.autoencoder.Autoencoder` and its weights' SHA-256; `training` only gives the seed."""
    return _autoencoder(training, dataset, cache, bottleneck)[:2]


def sigma_path(
    training: Training, dataset: Dataset, cache: Path, bottleneck: Bottleneck = Bottleneck()
) -> Float[np.ndarray, "steps *latent"]:
    """A learned sigma after each step of the training of `autoencoder`: of the weights, not of their average."""
    path = _autoencoder(training, dataset, cache, bottleneck)[2]
    if path is None:
        raise ValueError(f"sigma is held at {bottleneck.sigma} and has no path; set learned=True")
    return path


def _autoencoder(training, dataset, cache, bottleneck):

    def build() -> nnx.Module:
        rngs = nnx.Rngs(training.seed)
        return autoencoders.Autoencoder(
            dataset.shape, bottleneck.latent, bottleneck.sigma, bottleneck.learned, bottleneck.channels,
            bottleneck.blocks, rngs=rngs,
        )

    watch = (lambda weights: weights["log_sigma"][...]) if bottleneck.learned else None
    network, sha, logs = _trained_autoencoder(
        "autoencoder", build, asdict(bottleneck), bottleneck, training.seed, dataset, cache, watch)
    return network, sha, logs if logs is None else np.exp(autoencoders.PACE * logs)


def variational(
    training: Training, dataset: Dataset, cache: Path, bottleneck: Bottleneck = Bottleneck()
) -> tuple[Network, str]:
    """The trained `networks.autoencoder.Variational` and its weights' SHA-256; sigma and `learned` have no say."""

    def build() -> nnx.Module:
        rngs = nnx.Rngs(training.seed)
        return autoencoders.Variational(
            dataset.shape, bottleneck.latent, bottleneck.channels, bottleneck.blocks, rngs=rngs
        )

    own = {name: value for name, value in asdict(bottleneck).items() if name not in ("sigma", "learned")}
    return _trained_autoencoder("variational", build, own, bottleneck, training.seed, dataset, cache)[:2]


def _trained_autoencoder(name, build, determinants, bottleneck, seed, dataset, cache, watch=None):
    versions = name, autoencoders.VERSION, autoencoder_losses.VERSION
    loss = autoencoder_losses.reconstruction
    if bottleneck.pixel_noise:
        loss = autoencoder_losses.distortion_rate(bottleneck.pixel_noise)
    recipe = loop.Recipe(bottleneck.steps, bottleneck.batch, bottleneck.learning_rate)
    return _watched(name, build, (*versions, determinants), loss, recipe, seed, dataset, cache, watch)


def _trained(*what) -> tuple[Network, str]:
    return _watched(*what)[:2]


def _watched(name, build, determinants, loss, recipe, seed, dataset, cache, watch=None):
    """The network, its SHA-256, and what `watch` says of its weights after each step, None where nothing is asked."""
    mark = fingerprint(determinants, recipe.__dict__, losses.VERSION, seed, dataset.fingerprint)
    cache = Path(cache)
    if not (cache / f"{name}-{mark}.safetensors").exists() and not is_reproducible():
        cache /= SCRIPTS
    finished, unfinished, watched = (
        cache / f"{name}-{mark}{end}.safetensors" for end in ("", "-training", "-watched"))
    network = pure(nnx.eval_shape(build))  # without weights: initialising them takes seconds
    found, seen, whole = _load(finished, network.state), None, True
    if watch is not None:
        one = jax.eval_shape(watch, network.state)
        seen = np.zeros((recipe.steps, *one.shape), one.dtype)
        if whole := (kept := _load(watched, seen)) is not None:
            seen = np.array(kept[0])
    if found is not None and whole:
        return network.with_state(found[0]), found[1], seen
    network = pure(build())
    state = _load(unfinished, loop.start(network, recipe)) if whole else None
    began, first = time.perf_counter(), 0 if state is None else int(state[0].step)
    with bar(f"train {name}") as show:

        def on_step(state: loop.TrainState, value: float) -> None:
            step = int(state.step)
            if watch is not None:
                seen[step - 1] = watch(state.weights)
            if step % CHECKPOINT == 0:
                if watch is not None:
                    save_tree(watched, seen)
                save_tree(unfinished, state)
            rate = (step - first) / (time.perf_counter() - began)
            show(step / recipe.steps, f"loss {value:.4f}  {rate:.0f} steps/s")

        images, labels = jnp.asarray(_stored(dataset.train_images)), jnp.asarray(dataset.train_labels)
        network = loop.fit(network, loss, images, labels, recipe, seed, state and state[0], on_step)
    if watch is not None:
        save_tree(watched, seen)
    sha = save_tree(finished, network.state)
    unfinished.unlink(missing_ok=True)
    return network, sha, seen


def _stored(images):
    """Bytes as they are, a quarter of their pixels' memory: `loop.fit` makes pixels of a batch at a time."""
    return images.identity if isinstance(images, Bytes) else images


def _load(path: Path, like):
    if not path.exists():
        return None
    try:
        return load_tree(path, like)
    except RecordError as error:
        warnings.warn(f"{error}: building it again", stacklevel=3)
        return None
