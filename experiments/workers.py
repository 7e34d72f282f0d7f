"""A run on several processes: each computes pieces of work into the run's folder, with one thread of its own.

XLA on CPU uses little more than one core for programs of this size, so a process a core is nearly as many times as
fast. One thread each also makes results independent of the number of cores and of processes, bit for bit.
"""

import multiprocessing
import os
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from . import hosts, progress
from .configuration import Configuration


class Piece(NamedTuple):
    """Independent work that leaves shards (or weights) behind.

    program: pieces of one program share compiled code, so they go to one process where there are enough others.
    cost: how long it takes, relative to the experiment's other pieces. compute: its result is dropped.
    """

    program: Hashable
    cost: float
    compute: Callable[[], Any]


class Passes(NamedTuple):
    """How often one image goes through "classifier after purifier" at t*, at most: alone, and with a gradient."""

    t_star: int
    forward: float
    gradient: float


def groups(pieces: Sequence[Piece], workers: int) -> list[list[int]]:
    """Numbers of the pieces that go to a process together, the dearest group first.

    >>> pieces = [Piece("a", 1, print), Piece("b", 3, print), Piece("a", 1, print)]
    >>> groups(pieces, workers=2), groups(pieces, workers=3)
    ([[1], [0, 2]], [[1], [0], [2]])
    """
    together = defaultdict(list)
    for number, piece in enumerate(pieces):
        together[piece.program].append(number)
    found = list(together.values())
    if len(found) < workers:
        found = [[number] for number in range(len(pieces))]
    return sorted(found, key=lambda group: -sum(pieces[number].cost for number in group))


def share(pieces: Sequence[Piece], host: int, count: int) -> list[int]:
    """Numbers of the pieces that one of `count` hosts computes: each group goes to the one with least to do by then.

    >>> pieces = [Piece("a", 1, print), Piece("b", 3, print), Piece("a", 1, print)]
    >>> share(pieces, 0, 2), share(pieces, 1, 2), share(pieces, 0, 1)
    ([1], [0, 2], [0, 1, 2])
    """
    costs, shares = [0.0] * count, [[] for _ in range(count)]
    for group in groups(pieces, count):
        least = costs.index(min(costs))
        costs[least] += sum(pieces[number].cost for number in group)
        shares[least] += group
    return sorted(shares[host])


class Workers:
    """Processes that work for one configuration; `count` 1 is none, for then this one does everything itself."""

    def __init__(self, configuration: Configuration, count: int):
        self.count, self.executor = count, None
        if count > 1:
            context = multiprocessing.get_context("spawn")  # a fork would copy JAX's locks without its threads
            self.bars = context.SimpleQueue() if progress.shown() else None
            self.executor = ProcessPoolExecutor(count, context, _begin, (configuration, self.bars))

    def compute(self, experiment: str, pieces: Sequence[Piece]) -> None:
        """Compute this host's share of an experiment's pieces, and say how it gets on.

        Raises what the first failing one raised.
        """
        mine = share(pieces, hosts.index(), hosts.count())
        if self.executor is None:
            for number in mine if hosts.count() > 1 else []:
                pieces[number].compute()
            return
        if not mine:
            return
        together = [[mine[i] for i in group] for group in groups([pieces[number] for number in mine], self.count)]
        whole, done, start = sum(pieces[number].cost for number in mine), 0.0, time.monotonic()
        with progress.collected(self.bars), progress.bar(experiment) as show:
            futures = {self.executor.submit(_compute, experiment, group): sum(pieces[n].cost for n in group)
                       for group in together}
            for future in as_completed(futures):
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise OSError(
                        "a worker process ended before its work, perhaps for want of memory; run the same command "
                        f"again, finished shards are kept, with --workers {max(1, self.count // 2)}"
                    ) from error
                done += futures[future]
                show(done / whole)
                progress.say(experiment, done / whole, time.monotonic() - start)

    def stop(self) -> None:
        """End all processes now; what they were computing is lost, finished shards are kept."""
        if self.executor is not None:
            for process in multiprocessing.active_children():
                process.terminate()
            self.executor.shutdown(cancel_futures=True)


@contextmanager
def workers(configuration: Configuration):
    """The processes of a run, ended with it whatever happens."""
    found = Workers(configuration, configuration.workers or _default())
    try:
        yield found
    finally:
        found.stop()


def _default() -> int:
    """One process a core on a CPU, one in all where there is an accelerator, whose memory it takes."""
    import jax

    return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1


_bench = None
"""A worker process's own workbench."""


def reproducible() -> None:
    """Let this process, and those it starts, compute the same bits on any machine of a kind; before JAX is imported.

    More threads than one change the order of sums. Accelerators multiply float32 with 10 bits unless told otherwise.
    """
    os.environ.update(dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"


def _begin(configuration: Configuration, bars) -> None:
    """Make a worker."""
    global _bench
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress.send_to(bars)
    warnings.showwarning = progress.warn
    from .workbench import Workbench

    _bench = Workbench(configuration)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _compute(experiment: str, numbers: list[int]) -> None:
    import jax

    from ..compression.batches import calls_of

    pieces = import_module(f".{experiment}", __package__).pieces(_bench)
    with calls_of(_bench.configuration.batch):
        for number in numbers:
            pieces[number].compute()
    jax.clear_caches()  # the next group has programs of its own; keeping all of them takes gigabytes
