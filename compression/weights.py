"""Trees of arrays (weights, training states) as safetensors files, checked when they are read; published networks."""

import hashlib
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .networks import ddpm_unet as unet
from .networks.pure import Network
from .records import RecordError, digest, write_atomic

DIFFUSERS = "diffusion_pytorch_model.safetensors"
"""The file of weights in a folder in diffusers' format."""


NESTED = ("state_dict", "model_state_dict", "model", "net", "ema")
"""Under what a training checkpoint holds its network's state dict."""

PARALLEL = "module."
"""What `DataParallel` puts before every name."""


def save_tree(path: Path, tree: Any) -> str:
    """Write the leaves of a pytree, in order, atomically and with their SHA-256; return it."""
    leaves = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    sha = digest(leaves)
    write_atomic(Path(path), save(leaves, metadata={"sha256": sha}))
    return sha


def load_tree(path: Path, like: Any) -> tuple[Any, str]:
    """Read a pytree of the structure, shapes and dtypes of `like`, and its SHA-256.

    Raises RecordError if the file is truncated or damaged, or holds another structure.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            stored = {name: file.get_tensor(name) for name in sorted(file.keys())}
            expected = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{path} is truncated or damaged ({error}); it can be rebuilt") from error
    if digest(stored) != expected:
        raise RecordError(f"{path} is damaged: it does not match its checksum; it can be rebuilt")
    leaves, structure = jax.tree.flatten(like)
    signature = lambda arrays: [(np.shape(a), np.dtype(a.dtype)) for a in arrays]
    if signature(stored.values()) != signature(leaves):
        raise RecordError(f"{path} holds {len(stored)} arrays of another architecture; it can be rebuilt")
    # `jnp.asarray` would compile a program for every shape.
    return jax.tree.unflatten(structure, jax.device_put(list(stored.values()))), expected


def load_published(path: Path | str) -> dict[str, np.ndarray]:
    """The named arrays of a published checkpoint, floating ones as float32 whatever their precision.

    path: a `.safetensors` file, or a state dict of PyTorch (`.pth`, `.pt`, `.bin`). The latter needs torch, whose
        weights-only reader builds tensors and nothing else, so no code of the file is run.

    A training checkpoint may hold the state dict under one of NESTED; the rest of it (epoch, optimiser) is not used.
    The prefix of a model that was saved in parallel, `module.`, is dropped where all names have it.

    Raises RecordError if the file is damaged or holds anything but named tensors that NumPy has a counterpart of,
    ImportError without torch.
    """
    path = Path(path)
    if not path.is_file():
        raise RecordError(f"there is no file {path}; download the published weights and give their path")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: _array(path, name, lambda: file.get_tensor(name)) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise RecordError(f"{path} is truncated or damaged ({error}); download it again") from error
    elif path.suffix in (".pth", ".pt", ".bin"):
        arrays = _load_torch(path)
    else:
        raise RecordError(f"expected a file .safetensors, .pth, .pt or .bin, got {path}; convert it to safetensors")
    arrays = _unwrapped(arrays)
    floating = lambda array: jax.numpy.issubdtype(array.dtype, np.floating)
    return {name: array.astype(np.float32) if floating(array) else array for name, array in arrays.items()}


def _unwrapped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the prefix of `DataParallel`."""
    if not arrays or not all(name.startswith(PARALLEL) for name in arrays):
        return arrays
    return {name.removeprefix(PARALLEL): array for name, array in arrays.items()}


def _load_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs torch; install torch, or convert the file to .safetensors where torch is "
            "(safetensors.torch.save_file(torch.load(path, weights_only=True), ...))"
        ) from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise RecordError(
            f"{path} is damaged or holds more than tensors, which is never run; download it again, or use .safetensors"
        ) from error
    if isinstance(tensors, dict) and (nested := [name for name in NESTED if isinstance(tensors.get(name), dict)]):
        if len(nested) > 1:
            raise RecordError(f"{path} holds several state dicts, {', '.join(nested)}; save the one that is meant")
        tensors = tensors[nested[0]]
    named = lambda name, tensor: isinstance(name, str) and isinstance(tensor, torch.Tensor)
    if not isinstance(tensors, dict) or not all(map(named, tensors, tensors.values())):
        raise RecordError(f"{path} is not a flat dictionary of named tensors, nor has it one under {', '.join(NESTED)};"
                          " save the model's state_dict() itself")
    numbers = lambda tensor: (tensor.float() if tensor.is_floating_point() else tensor).numpy(force=True)
    return {name: _array(path, name, lambda: numbers(tensor)) for name, tensor in tensors.items()}


def _array(path: Path, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return read()
    except (TypeError, AttributeError, RuntimeError) as error:  # sparse, of a type unknown to NumPy, without content
        raise RecordError(f"{path}: {name} cannot become an array ({error}); save it as a dense tensor of float32, or "
                          "of integers") from error


READ_BY = {"noise": "--denoiser, pm.ddpm_unet", "velocity": "--velocity, pm.velocity_unet"}
"""What a network of noisy images may predict, and where it is taken."""

SCHEDULER = "scheduler_config.json"
"""The file of a scheduler in diffusers' format."""

LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000,
          "trained_betas": None}
"""What diffusers' schedulers say of `schedules.linear()`, by default as well."""


def ddpm_unet(folder: Path | str) -> Network:
    """The noise predictor eps(x_t, t) of a folder in diffusers' format, such as `google/ddpm-cifar10-32`.

    folder: of an unconditional UNet2DModel, with `config.json` and `diffusion_pytorch_model.safetensors` (or `.bin`).

    x_t is in [-1, 1] and t the network's time 0..999, so `diffusion` takes it with a schedule of the same noise:
    `linear()` for Ho et al.'s.
    Raises RecordError for a file that cannot be read, ValueError for settings that are not supported, weights of
    another network, or a card in the folder, or a scheduler as `other_schedule` finds it, that says that the network
    predicts something else than noise. Of another schedule than `linear()` there it warns.
    """
    folder = Path(folder)
    if other := other_schedule(folder):
        warnings.warn(f"the pipeline of {folder} has another schedule than linear(), {other}; sample with the same, by "
                      "pm.linear, pm.cosine or pm.from_betas", stacklevel=2)
    return _unet(folder, "noise")


def velocity_unet(folder: Path | str) -> Network:
    """The velocity of rectified flow of a folder in diffusers' format, as `ddpm_unet` reads a noise predictor.

    It says z - x_0 at (1 - t) x_0 + t z, x_0 in [-1, 1], and is told 999 t, so `flow` takes it. Raises as `ddpm_unet`,
    and ValueError for a card that says noise.
    """
    return _unet(Path(folder), "velocity")


def _unet(folder: Path, expected: str) -> Network:
    path, config, told = folder / DIFFUSERS, _config(folder), card(folder).predicts
    if told not in (None, expected):
        raise ValueError(f"the card in {folder} says that the network predicts {told}, expected {expected}; give it to "
                         f"{READ_BY[told]}")
    return unet.ddpm_unet(config, load_published(path if path.exists() else path.with_suffix(".bin")))


def other_schedule(folder: Path | str) -> dict[str, Any]:
    """What the scheduler of a network's pipeline says otherwise than `linear()`.

    folder: holds `scheduler_config.json` beside `config.json`, or lies beside the pipeline's folder `scheduler`.

    Empty where there is none. RecordError where it does not parse, ValueError where it says that the network predicts
    something else than noise.
    """
    folder, other = Path(folder), {}
    for path in (folder / SCHEDULER, folder.parent / "scheduler" / SCHEDULER):
        told = _scheduler(path) if path.exists() else {}
        if (predicts := told.get("prediction_type", "epsilon")) != "epsilon":
            raise ValueError(f"{path} says that the network predicts {predicts}, expected epsilon, the noise; give a "
                             "copy of the network's folder without it, and what is read to pm.from_v or pm.from_x0")
        other |= {name: told[name] for name, ours in LINEAR.items() if told.get(name, ours) != ours}
    return other


def _scheduler(path: Path) -> dict:
    try:
        told = json.loads(path.read_text())
        if not isinstance(told, dict):
            raise ValueError(f"holds a {type(told).__name__}")
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is not a scheduler's configuration ({error}); download it again, or give a copy of "
                          "the network's folder without it") from error
    return told


def _config(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"expected diffusers' config.json in {folder} ({error}); give the folder of a UNet2DModel, "
                          "of a whole pipeline its subfolder `unet`") from error


class Card(NamedTuple):
    """What a network of noisy images is for, as `card.json` in its folder says.

    trained_until: the last step t of 1000 that its training was about, of a velocity the linear schedule's t of as
        much noise; None is all of the process.
    predicts: noise, or the velocity of rectified flow; None is not told.
    """

    trained_until: int | None = None
    predicts: str | None = None


def card(folder: Path | str) -> Card:
    """The card in a network's folder; what it does not say, or where there is none, is as `Card` has it by default.

    Raises RecordError where the card does not parse or says something else.
    """
    path = Path(folder) / "card.json"
    try:
        told = json.loads(path.read_text()) if path.exists() else {}
        found = Card(**{name: value for name, value in told.items() if name in Card._fields})
        if found.trained_until is not None and (type(found.trained_until) is not int or found.trained_until < 1):
            raise ValueError(f"trained_until is {found.trained_until!r}")
        if found.predicts not in (None, *READ_BY):
            raise ValueError(f"predicts is {found.predicts!r}")
    except (OSError, ValueError, AttributeError) as error:
        raise RecordError(
            f'{path} is not a card ({error}); expected {{"trained_until": 250, "predicts": "noise"}} with a step of '
            f"the schedule and one of {', '.join(READ_BY)}"
        ) from error
    return found


def fingerprint(*determinants: Any) -> str:
    """A short hash of everything that determines a cached result, each printable as JSON.

    >>> fingerprint({"steps": 10}) == fingerprint({"steps": 11})
    False
    """
    return hashlib.sha256(json.dumps(determinants, sort_keys=True, default=str).encode()).hexdigest()[:16]
