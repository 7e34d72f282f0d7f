"""How fast we are, against the same networks with the same weights in PyTorch, measured in the same run.

Command: purimetry benchmarks (needs the `peers` extra; `make test` installs it)
Time: about 3 minutes on 2 idle cores of an AMD EPYC; a busy machine says nothing, for threads wait for each other.
Expect: on 200 digits we are faster than PyTorch in float32, most for minimum perturbations (by a half or more), but for
the gradient, which is level or up to 16 % faster (it computes what lies between convolutions twice) and holds a third
of the memory; its bfloat16 is slower, by much where the processor has no such arithmetic.

Ours is what `over_images` does with a device a core. PyTorch has as many threads, and runs eagerly in float32, in its
default layout, channels-last, and in bfloat16 (which gives up precision). Before anything is timed, the networks'
outputs and the whole purification must agree to 1e-4. Every number is the median over repeats in which ours and the
peers take turns, so that a busy machine slows both.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from ..compression import randomness, samplers, schedules
from ..compression.batches import over_images
from ..compression.data.digits import digits
from ..compression.losses import margin
from ..compression.networks.convnet import ConvNet
from ..compression.networks.convolution import convolve
from ..compression.networks.pure import Network, pure
from ..compression.networks.unet import UNet
from ..compression.purifiers.diffusion import diffusion
from . import torch_twins as twins

TOLERANCE = 1e-4
LAYOUTS = ("PyTorch", "PyTorch channels-last", "PyTorch bfloat16")


@dataclass(frozen=True)
class Setting:
    """The sizes of one benchmark."""

    channels: tuple[int, ...] = (16, 32)
    """Width of each level of both networks."""
    t_star: int = 10
    """Purification steps, of the linear schedule respaced to 100."""
    images: int = 200
    """Digits in each measurement."""
    batch: int = 50
    """Digits that a device of ours is given in one compiled call."""
    eps: float = 0.1
    """Size of the rate's perturbations, and the limit of the search for minimum ones, in pixel units."""
    search_steps: int = 50
    """Gradients of the search for minimum perturbations."""
    convolved: int = 128
    """Images of the ten convolutions, 8x8x32 each."""
    repeats: int = 7
    """Paired repeats."""


def run(setting: Setting = Setting()) -> list[dict]:
    """Time everything: rows of name, ours_seconds, peer, peer_seconds and ratio, above 1 where we are faster."""
    case = Case(setting)
    case.check()
    tasks = {
        "purification": (case.purification, case.purification_torch),
        "attack gradient": (case.attack_gradient, case.attack_gradient_torch),
        "rates": (case.rates, case.rates_torch),
        "minimum perturbations": (case.search, case.search_torch),
    }
    rows = []
    for name, (ours, theirs) in tasks.items():
        peers = {peer: partial(theirs, peer) for peer in LAYOUTS}
        rows += _race(f"{name}, {setting.images} images", ours, peers, setting.repeats)
    return rows + _convolutions(setting)


def memory(setting: Setting = Setting()) -> list[dict]:
    """What one attack gradient of all images holds: rows of name, ours_mib, peer, peer_mib and ratio.

    Ours is all that the compiled program allocates for itself, PyTorch's only what autograd saves for its backward
    pass, so the comparison favours PyTorch.
    """
    case = Case(setting)
    gradients = jax.jit(jax.vmap(_attack_gradient, (None, None, 0, 0, 0)))
    compiled = gradients.lower(case.purifier, case.classifier, case.x, case.keys, case.labels).compile()
    ours = compiled.memory_analysis().temp_size_in_bytes / 2**20
    rows = []
    for peer in LAYOUTS:
        _, _, x = case.torch[peer]
        theirs = twins.saved_bytes(case.defended_margin(peer), x) / 2**20
        rows.append({"name": f"attack gradient, {setting.images} images", "ours_mib": ours, "peer": peer,
                     "peer_mib": theirs, "ratio": theirs / ours})
    return rows


def main(setting: Setting = Setting()) -> None:
    """Print both tables. RuntimeError where JAX has begun with fewer devices."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    for row in run(setting):
        print(f"{row['name']:58s}ours {1e3 * row['ours_seconds']:8.1f} ms   {row['peer']:22s}"
              f"{1e3 * row['peer_seconds']:8.1f} ms   ratio {row['ratio']:5.2f}", flush=True)
    for row in memory(setting):
        print(f"memory of {row['name']:48s}ours {row['ours_mib']:8.1f} MiB  {row['peer']:22s}"
              f"{row['peer_mib']:8.1f} MiB  ratio {row['ratio']:5.2f}")


class Case:
    """Both networks with weights that are not near zero, their twins in each layout, and the digits."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.x = digits().test_images[: setting.images]
        self.keys = randomness.configurations(0, np.arange(setting.images))
        self.unet = _shaken(partial(UNet, 1, setting.channels), 0)
        self.classifier = _shaken(partial(ConvNet, self.x.shape[1:], 10, setting.channels), 2)
        self.labels = _vmapped(self.classifier, self.x).argmax(1)  # so that no image is misclassified to begin with
        self.steps = samplers.ddpm(schedules.respaced(schedules.linear(), 100), setting.t_star)
        self.purifier = diffusion(self.unet, self.steps)
        self.coefficients = {name: np.asarray(c).tolist() for name, c in self.steps._asdict().items()}
        self.labels_torch = torch.tensor(np.asarray(self.labels, np.int64))
        self.torch = {peer: self._twins(peer) for peer in LAYOUTS}

    def _twins(self, peer: str):
        layout = torch.contiguous_format if peer == "PyTorch" else torch.channels_last
        dtype = torch.bfloat16 if "bfloat16" in peer else torch.float32
        networks = (twin(nnx.merge(ours.graph, ours.state)).requires_grad_(False)
                    for twin, ours in ((twins.UNet, self.unet), (twins.ConvNet, self.classifier)))
        unet, classifier = (network.to(dtype=dtype, memory_format=layout) for network in networks)
        return unet, classifier, twins.tensor_images(self.x).to(dtype=dtype, memory_format=layout)

    def check(self) -> None:
        """Raise unless networks and purification agree with their twins to 1e-4."""
        unet, classifier, x = self.torch["PyTorch"]
        noises = iter(map(twins.tensor_images, twins.noises(self.setting.t_star, self.x, self.keys)))
        t = self.coefficients["time"][0]
        with torch.no_grad():
            pairs = {
                "noise predictor": (_vmapped(self.unet, self.x, jnp.float32(t)), _channels_last(unet(x, t))),
                "classifier": (_vmapped(self.classifier, self.x), classifier(x).numpy()),
                "purification": (self.purification(), _channels_last(
                    twins.purify(unet, self.coefficients, x, lambda _: next(noises)))),
            }
        for name, (ours, theirs) in pairs.items():
            error = float(np.abs(np.asarray(ours) - theirs).max())
            if error > TOLERANCE:
                raise AssertionError(f"{name}: ours and PyTorch's differ by {error:.1e}, expected {TOLERANCE:.0e}; "
                                     "times of different functions say nothing")

    def over(self, function: Callable, shared: tuple, *rows):
        return over_images(function, shared, *rows, size=self.setting.batch)

    def purification(self):
        return self.over(_purification, (self.purifier,), self.x, self.keys)

    def purification_torch(self, peer: str):
        unet, _, x = self.torch[peer]
        with torch.no_grad():
            return twins.purify(unet, self.coefficients, x)

    def attack_gradient(self):
        return self.over(_attack_gradient, (self.purifier, self.classifier), self.x, self.keys, self.labels)

    def defended_margin(self, peer: str) -> Callable:
        unet, classifier, _ = self.torch[peer]
        return lambda x: twins.margin(classifier(twins.purify(unet, self.coefficients, x)), self.labels_torch)

    def attack_gradient_torch(self, peer: str):
        return twins.input_gradient(self.defended_margin(peer), self.torch[peer][2])

    def rates(self):
        return self.over(_rate, (self.purifier, self.setting.eps), self.x, self.keys)

    def rates_torch(self, peer: str):
        """Anchor and perturbed image in one batch; PyTorch repeats the noise by drawing half of it."""
        unet, _, x = self.torch[peer]
        eta = self.setting.eps * (2 * torch.rand_like(x) - 1)
        same = lambda both: torch.randn_like(both[: len(x)]).repeat(2, 1, 1, 1)
        with torch.no_grad():
            anchor, moved = twins.purify(unet, self.coefficients, torch.cat([x, x + eta]), same).chunk(2)
        return (moved - anchor).flatten(1).norm(dim=1) / eta.flatten(1).norm(dim=1)

    def search(self):
        search = partial(_first_broken, self.setting.search_steps)
        return self.over(search, (self.classifier, self.setting.eps), self.x, self.labels)

    def search_torch(self, peer: str):
        _, classifier, x = self.torch[peer]
        broken, steps = torch.full((len(x),), -1), self.setting.search_steps
        for k in range(steps):
            gradient, value = twins.input_gradient(lambda x: twins.margin(classifier(x), self.labels_torch), x)
            broken = torch.where((broken < 0) & (value >= 0), k, broken)
            x = (x + self.setting.eps / steps * gradient.sign()).clamp(0, 1)
        return broken


def _purification(purifier, x, key):
    return purifier(x, key)


def _attack_gradient(purifier, classifier, x, key, label):
    return jax.grad(lambda x: margin(classifier(purifier(x, key)), label))(x)


def _rate(purifier, eps, x, key):
    eta = jax.random.uniform(randomness.step_key(key, randomness.PROBE, 0), x.shape, x.dtype, -eps, eps)
    anchor, moved = jax.vmap(purifier, (0, None))(jnp.stack([x, x + eta]), key)
    return jnp.linalg.norm(moved - anchor) / jnp.linalg.norm(eta)


def _first_broken(steps, classifier, eps, x, label):
    """Walk up the margin in equal signed steps; the first step at which the image is misclassified, -1 for none."""

    def step(state, k):
        x, broken = state
        value, gradient = jax.value_and_grad(lambda x: margin(classifier(x), label))(x)
        broken = jnp.where((broken < 0) & (value >= 0), k, broken)
        return (jnp.clip(x + eps / steps * jnp.sign(gradient), 0, 1), broken), None

    return jax.lax.scan(step, (x, jnp.int32(-1)), jnp.arange(steps))[0][1]


@jax.jit
def _vmapped(network, x, *shared):
    return jax.vmap(lambda x: network(x, *shared))(x)


def _convolutions(setting: Setting) -> list[dict]:
    """Why `compression/networks/convolution.py` exists: ten convolutions in a scan, and their gradient."""
    x = jax.random.normal(jax.random.key(0), (setting.convolved, 8, 8, 32))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 32, 32)) / 17
    each = partial(jax.vmap, in_axes=(0, None))
    ours = partial(_scan_gradient, each(convolve))
    peers = {"lax": partial(_scan_gradient, each(_lax_convolution)), "native batch": partial(_scan_gradient, convolve)}
    race = {peer: partial(function, x, kernel) for peer, function in peers.items()}
    return _race("gradient of ten convolutions in a scan, vmap of one image", partial(ours, x, kernel), race,
                 setting.repeats)


def _lax_convolution(x, kernel):
    return jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


@partial(jax.jit, static_argnums=0)
def _scan_gradient(convolution, x, kernel):
    step = jax.checkpoint(lambda x, _: (jnp.tanh(convolution(x, kernel)), None))
    return jax.grad(lambda x: jnp.sum(jax.lax.scan(step, x, length=10)[0] ** 2))(x)


@partial(jax.jit, static_argnums=(0, 1))
def _shaken(build: Callable[..., nnx.Module], seed: int) -> Network:
    """Our networks start near zero, where any two agree; noise on every weight makes the comparison count."""
    leaves, tree = jax.tree.flatten(pure(build(rngs=nnx.Rngs(seed))))
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def _channels_last(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


def _race(name: str, ours: Callable, peers: dict[str, Callable], repeats: int) -> list[dict]:
    """Median seconds of ours and of each peer over repeats in which they take turns, after one call to warm up."""
    runners = {"ours": ours, **peers}
    seconds = {runner: [] for runner in runners}
    for repeat in range(repeats + 1):
        for runner, function in runners.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            if repeat > 0:
                seconds[runner].append(time.perf_counter() - start)
    mine = statistics.median(seconds["ours"])
    return [
        {"name": name, "ours_seconds": mine, "peer": peer, "peer_seconds": statistics.median(seconds[peer]),
         "ratio": statistics.median(theirs / ours for theirs, ours in zip(seconds[peer], seconds["ours"], strict=True))}
        for peer in peers
    ]
