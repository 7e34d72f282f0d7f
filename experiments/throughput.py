"""How fast a denoiser of colour images purifies and is attacked on this device, and what time Table 2 takes with it.

Command: purimetry benchmarks --denoiser FOLDER (a UNet2DModel in diffusers' format, as google/ddpm-cifar10-32)
Time: a minute or two on an idle CPU with the options below; on an accelerator take --images 64 --t-stars 10 50.
Expect: a gradient about three times as long as a purification, for it computes every step again and then backwards
(less up to 16 steps, of which it keeps what convolutions gave).

One purification is t* evaluations of the denoiser, one attack step a gradient through all of them. Both are timed in
float32 and with the denoiser in bfloat16, and compared with the device's own rate of matrix products in that precision.
Where diffusers is installed the same network runs in PyTorch, on an accelerator compiled; outputs must agree first.
Time is linear in t* and in images, so Table 2 (3 samplers, t of 1000, 1,000 images, 40 steps each, none left out) is
projected from the largest t* that is timed.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ..compression import randomness, samplers, schedules, weights
from ..compression.losses import margin
from ..compression.networks.precision import in_precision
from ..compression.purifiers.diffusion import diffusion

PRECISIONS = ("float32", "bfloat16")
TABLE_2 = {"samplers": 3, "t_stars": (10, 20, 50, 100, 150), "images": 1000, "steps": 40}
CLASSES, SHAPE, EPS = 10, (32, 32, 3), 8 / 255
REPEATS = 3
TOLERANCE = 1e-4
"""Between ours and PyTorch's predicted noise in float32."""


def run(folder: Path, images: int, t_stars: tuple[int, ...]) -> Iterator[dict]:
    """Time everything: a row for each library, precision, t* and task."""
    x = jax.random.uniform(jax.random.key(0), (images, *SHAPE))
    labels, keys = jnp.zeros(images, jnp.int32), randomness.configurations(0, np.arange(images))
    readout = jax.random.normal(jax.random.key(1), (np.prod(SHAPE), CLASSES))  # a classifier costs little beside it
    for precision in PRECISIONS:
        network = in_precision(weights.ddpm_unet(folder), precision)
        evaluation = _flops(jax.vmap(network, (0, None)), x, jnp.float32(5)) / images
        backward = _flops(jax.vmap(partial(_pulled, network)), x, x) / images
        matrix_rate = matmul_rate(precision)
        for t_star in t_stars:
            purifier = diffusion(network, samplers.ddpm(schedules.linear(), t_star))
            for task, function, inputs, flops in (
                ("purification", _purification, (purifier, x, keys), evaluation),
                ("attack step", _attack_step, (purifier, readout, x, x, keys, labels), evaluation + backward),
            ):
                compiled = function.lower(*inputs).compile()
                seconds = _median(partial(compiled, *inputs))
                memory = compiled.memory_analysis()
                yield {
                    "library": "ours", "precision": precision, "task": task, "t_star": t_star, "images": images,
                    "seconds": seconds, "flops": flops * t_star * images / seconds, "matrix_rate": matrix_rate,
                    "bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes,
                }
    yield from _peers(folder, np.array(x), np.array(readout), max(t_stars))


def table_2_hours(row: dict) -> float:
    """Hours of Table 2's attacks at the speed of one timed attack step."""
    evaluations = TABLE_2["samplers"] * sum(TABLE_2["t_stars"]) * TABLE_2["images"] * TABLE_2["steps"]
    return evaluations * row["seconds"] / (row["images"] * row["t_star"]) / 3600


def main(folder: Path, images: int, t_stars: tuple[int, ...]) -> None:
    """Print the table."""
    print(f"{jax.devices()[0].device_kind}, {images} images in one call, denoiser {folder.name}")
    for row in run(folder, images, t_stars):
        line = (f"{row['task']:13s}{row['library']:18s}{row['precision']:9s} t* {row['t_star']:3d}  "
                f"{row['images'] / row['seconds']:9.2f} images/s")
        if "flops" in row:
            line += (f"  {row['flops'] / 1e9:9,.0f} GFLOP/s, {row['flops'] / row['matrix_rate']:4.0%} of its matrix "
                     f"products  {row['bytes'] / 2**20:8.0f} MiB")
        if row["task"] == "attack step":
            line += f"  Table 2: {table_2_hours(row):8.2f} h"
        print(line, flush=True)


def matmul_rate(precision: str) -> float:
    """Measured operations a second of square matrix products in one precision."""
    n = 1024 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), precision)
    return 2 * n**3 / _median(partial(jax.jit(lambda a, b: a @ b), a, a))


@jax.jit
def _purification(purifier, x, keys):
    return jax.vmap(purifier)(x, keys)


@jax.jit
def _attack_step(purifier, readout, x, start, keys, labels):
    loss = lambda x, key, label: margin(purifier(x, key).reshape(-1) @ readout, label)
    moved = x + EPS / 30 * jnp.sign(jax.vmap(jax.grad(loss))(x, keys, labels))  # the paper's 0.01/0.3 of eps
    return jnp.clip(jnp.clip(moved, start - EPS, start + EPS), 0, 1)


def _pulled(network, x, cotangent):
    return jax.vjp(lambda x: network(x, jnp.float32(5)), x)[1](cotangent)[0]


def _flops(function: Callable, *inputs) -> float:
    """Operations of a program without loops, as XLA counts them before it optimises."""
    return jax.jit(function).lower(*inputs).cost_analysis()["flops"]


def _median(call: Callable) -> float:
    """Seconds of one call, once it is warm."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _peers(folder: Path, x: np.ndarray, readout: np.ndarray, t_star: int) -> Iterator[dict]:
    """The same purification and attack step in PyTorch; none where that or diffusers is not installed."""
    try:
        import torch
        from diffusers import UNet2DModel

        from . import torch_twins as twins
    except ModuleNotFoundError:
        return
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    torch.set_float32_matmul_precision("high")  # as JAX does where it is not told otherwise
    network = UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False).requires_grad_(False).to(device)
    images, readout = twins.tensor_images(x).to(device), torch.tensor(readout, device=device)
    labels = torch.zeros(len(images), dtype=torch.int64, device=device)
    with torch.no_grad():
        theirs = network(2 * images - 1, 5).sample.permute(0, 2, 3, 1).cpu().numpy()
    ours = jax.vmap(weights.ddpm_unet(folder), (0, None))(2 * jnp.asarray(x) - 1, jnp.float32(5))
    error = float(np.abs(np.asarray(ours) - theirs).max())
    if error > TOLERANCE and not cuda:  # an accelerator multiplies float32 with fewer bits
        raise AssertionError(f"ours and PyTorch's noise differ by {error:.1e}, expected {TOLERANCE:.0e}; "
                             "times of different functions say nothing")
    steps = samplers.ddpm(schedules.linear(), t_star)._asdict()
    coefficients = {name: np.asarray(values).tolist() for name, values in steps.items() if name != "memory"}
    for precision in PRECISIONS if cuda else PRECISIONS[:1]:
        dtype = getattr(torch, precision)
        torch.nn.Module.to(network, dtype=dtype, memory_format=torch.channels_last)  # diffusers' own would warn
        called = torch.compile(network) if cuda else network
        predict = lambda x, t: called(x.to(dtype), torch.tensor(t, device=device)).sample.float()
        again = lambda x, t: torch.utils.checkpoint.checkpoint(predict, x, t, use_reentrant=False)  # as ours does

        def purification():
            with torch.no_grad():
                return twins.purify(predict, coefficients, images).cpu()

        def attack_step():
            logits = lambda x: twins.purify(again, coefficients, x).permute(0, 2, 3, 1).flatten(1) @ readout
            gradient, _ = twins.input_gradient(lambda x: twins.margin(logits(x), labels), images)
            return (images + EPS / 30 * gradient.sign()).clamp(0, 1).cpu()

        for task, function in (("purification", purification), ("attack step", attack_step)):
            yield {"library": "PyTorch compiled" if cuda else "PyTorch", "precision": precision, "task": task,
                   "t_star": t_star, "images": len(images), "seconds": _median(function)}
