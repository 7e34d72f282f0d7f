"""A run on several processes: each computes pieces of work into the run's folder, with one thread of its own.

XLA on CPU uses little more than one core for programs of this size, so a process a core is nearly as many times as
fast. One thread each also makes results independent of the number of cores and of processes, bit for bit.
"""

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module

from . import hosts, progress
from .configuration import Configuration
from .pieces import Piece, groups, share


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
    LLVM's second level compiles in two thirds of the time of the third, and programs of this kind are as fast and give
    the same bits (on digits; CIFAR-10's differ in the seventh digit). What XLA_FLAGS says already counts more.
    """
    os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=2 {os.environ.get('XLA_FLAGS', '')}"
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
