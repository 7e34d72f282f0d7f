"""How long a run will take, said before it starts.

An experiment that takes long has a function `passes`, which says through what an image has to go in it. One shard of
images is timed in the classifier, in a diffusion purifier of each network and in each of one's own, forward and with a
gradient, and the rest is multiplication.
"""

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

import jax
import numpy as np

from ..compression.batches import call_size, over_images
from ..compression.losses import margin
from .pieces import Passes
from .progress import in_words
from .robust_accuracy import together
from .workbench import BARE, Cell, Workbench


REPEATS = 3
"""Timings of which the shortest counts, as the machine may be doing something else."""


class Speed(NamedTuple):
    """Seconds of one image, each of an evaluation, and of an evaluation and its gradient.

    bare: of the classifier. step: more for each step of a diffusion purifier, of the dearest network.
    own: more for one's own purifiers.
    t_star: steps at which they were timed, 0 where no diffusion purifier was. n: images in a compiled call, filled up.
    """

    bare: tuple[float, float]
    step: tuple[float, float]
    own: dict[Cell, tuple[float, float]]
    t_star: int
    n: int

    def seconds(self, passes: Passes) -> float:
        """What the passes of an image take."""
        often, own = (passes.forward, passes.gradient), self.own.get(passes.cell, (0.0, 0.0))
        parts = zip(often, self.bare, self.step, own, strict=True)
        return sum(count * (bare + passes.cell.t_star * step + more) for count, bare, step, more in parts)


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
    unknown, reused = [name for name in modules if name not in known], bool(bench.configuration.reuse)
    return (
        f"forecast: at most {in_words(sum(found.values()))} on {processes} process{'es' * (processes > 1)}, without "
        f"compilation{''.join(f', {name}' for name in unknown)} ({parts}; an image takes {_said(speed)}, as timed in "
        f"calls of {speed.n}{f' at t* = {speed.t_star}' if speed.t_star else ''}; "
        f"those that an attack breaks early leave it{', and what --reuse knows is not measured' * reused})"
    )


def _said(speed: Speed) -> str:
    """Milliseconds of an image in words."""
    of = lambda seconds: f"{1000 * seconds:.3g}"
    ways = []
    for way, name in enumerate(("forward", "with a gradient")):
        step = f" + {of(speed.step[way])} t*" if speed.t_star else ""
        own = "".join(f", {of(speed.bare[way] + more[way])} ms in {cell.sampler}" for cell, more in speed.own.items())
        ways.append(f"{of(speed.bare[way])}{step} ms{own} {name}")
    return ", ".join(ways)


def measure(bench: Workbench) -> Speed:
    """Time one shard in the bare classifier, in each network's diffusion purifier of fewest steps and in one's own.

    Compiled before.
    """
    n = together(bench.images) or call_size(bench.images)
    both = lambda cell: np.array([_seconds(function, bench, cell, n) / n for function in
                                  (_margin, jax.grad(_margin, argnums=2))])
    bare = both(BARE)
    more = lambda cell: tuple(np.maximum(both(cell) - bare, 0) / max(cell.t_star, 1))
    grid = sorted((cell for cell in bench.cells if cell.t_star), key=lambda cell: -cell.t_star)
    shortest = {bench.networks.predictor(cell.sampler): cell for cell in grid}.values()
    own = {cell: more(cell) for cell in bench.cells if not cell.t_star}
    step = np.max([(0.0, 0.0), *map(more, shortest)], axis=0)
    return Speed(tuple(bare), tuple(step), own, min((cell.t_star for cell in shortest), default=0), n)


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
