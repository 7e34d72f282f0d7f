"""How long a run will take, said before it starts.

An experiment that takes long has a function `passes`, which says through what an image has to go in it. One shard of
images is timed in the classifier and in one purifier, forward and with a gradient, and the rest is multiplication.
"""

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

import jax
import numpy as np

from ..compression.batches import over_images, shard_size
from ..compression.losses import margin
from .pieces import Passes
from .progress import in_words
from .workbench import BARE, Cell, Workbench


REPEATS = 3
"""Timings of which the shortest counts, as the machine may be doing something else."""


class Speed(NamedTuple):
    """Seconds of one image: in the classifier, and more for each step of the purifier; at t* steps, timed on n images.

    forward: of an evaluation. gradient: of an evaluation and its gradient.
    """

    forward: tuple[float, float]
    gradient: tuple[float, float]
    t_star: int
    n: int

    def seconds(self, passes: Passes) -> float:
        """What the passes of an image take."""
        of = lambda parts: parts[0] + passes.t_star * parts[1]
        return passes.forward * of(self.forward) + passes.gradient * of(self.gradient)


def forecast(bench: Workbench, names: Sequence[str], processes: int) -> str:
    """What is known of how long the experiments will take, in words; those with records are finished.

    An upper bound but for compilation, since images that are broken early leave an attack.
    """
    modules = {name: import_module(f".{name}", __package__) for name in names
               if not (bench.folder.path / name / "records.jsonl").exists()}
    known = [name for name, module in modules.items() if hasattr(module, "passes")]
    if not known:
        return "forecast: nothing that takes long is left" if not modules else f"no forecast of {', '.join(modules)}"
    speed = measure(bench)
    padded = -(-len(bench.images) // speed.n) * speed.n
    found = {name: padded * sum(map(speed.seconds, modules[name].passes(bench))) / processes for name in known}
    parts = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in found.items())
    unknown = [name for name in modules if name not in known]
    milliseconds = ", ".join(f"{1000 * bare:.3g} + {1000 * step:.3g} t* ms {name}" for name, (bare, step) in
                             {"forward": speed.forward, "with a gradient": speed.gradient}.items())
    return (
        f"forecast: at most {in_words(sum(found.values()))} on {processes} process{'es' * (processes > 1)}, without "
        f"compilation{''.join(f', {name}' for name in unknown)} ({parts}; an image takes {milliseconds}, as timed on "
        f"{speed.n} images at t* = {speed.t_star}; those that an attack breaks early leave it)"
    )


def measure(bench: Workbench) -> Speed:
    """Time one shard in the bare classifier and in the purifier of the fewest steps, after compilation."""
    cell = min(bench.cells, key=lambda cell: cell.t_star or np.inf)
    n = min(shard_size(bench.images), len(bench.images))
    timed = lambda function, cell: _seconds(function, bench, cell, n) / n
    found = {}
    for function in (_margin, jax.grad(_margin, argnums=2)):
        bare = timed(function, BARE)
        found[function] = bare, max(timed(function, cell) - bare, 0) / max(cell.t_star, 1)
    return Speed(*found.values(), cell.t_star, n)


def _seconds(function: Callable, bench: Workbench, cell: Cell, n: int) -> float:
    rows = bench.images[:n], bench.labels[:n], bench.keys()[:n]
    run = lambda: over_images(function, (bench.classifier, bench.purifier(cell)), *rows, size=n)
    run()  # compiles
    return min(_timed(run) for _ in range(REPEATS))


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _margin(classifier, purifier, x, label, key):
    return margin(classifier(purifier(x, key)), label)
