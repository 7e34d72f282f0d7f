"""A run on several processes: each computes pieces of work into the run's folder, with one thread of its own.

XLA on CPU uses little more than one core for programs of this size, so a process a core is nearly as many times as
fast. One thread each also makes results independent of the number of cores and of processes, bit for bit.
"""

import gc
import itertools
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module

from . import hosts, progress
from .configuration import Configuration
from .interrupt import delayed
from .pieces import Group, Piece, groups, share


class Workers:
    """Processes that work for one configuration; `count` 1 is none, for then this one does everything itself."""

    def __init__(self, configuration: Configuration, count: int):
        self.count, self.executor = count, None
        self._running: dict[Future, Group] = {}
        self._done: dict[Group, Future] = {}
        if count > 1:
            context = multiprocessing.get_context("spawn")  # a fork would copy JAX's locks without its threads
            self.bars = progress.Queue() if progress.shown() else None
            self.executor = ProcessPoolExecutor(count, context, _begin, (configuration, self.bars))

    def compute(
        self, experiment: str, pieces: Sequence[Piece], later: Iterable[tuple[str, Sequence[Piece]]] = ()
    ) -> None:
        """Compute this host's share of an experiment's pieces, and say how it gets on.

        later: experiments to come, in order. A process for which nothing is left begins with pieces of these, where
            what they need is done; not on several hosts, which do not know of each other's. Processes may still be
            at such pieces when this returns.

        Raises what a failing one raised, of a later experiment when that is computed.
        """
        mine = share(pieces, hosts.index(), hosts.count())
        if self.executor is None:
            for number in mine if hosts.count() > 1 else []:
                pieces[number].compute()
            return
        if not mine:
            return
        left, start = self._groups(experiment, pieces, mine), time.monotonic()
        planned, rest = [[*left]], iter(later if hosts.count() == 1 else ())
        whole, early = sum(group.cost for group in left), [group for group in left if group in self._done]
        before = sum(group.cost for group in early) / whole
        with _explained(self.count), progress.collected(self.bars), progress.bar(experiment) as show:
            while True:
                for group in [group for group in left if group in self._done]:
                    self._done[group].result()
                    left.remove(group)
                    part = 1 - sum(group.cost for group in left) / whole
                    show(part)
                    if group not in early:
                        progress.say(experiment, part, time.monotonic() - start, before)
                if not left:
                    return
                self._start(planned, rest)
                for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                    self._done[self._running.pop(future)] = future

    def _groups(self, experiment: str, pieces: Sequence[Piece], numbers: Sequence[int]) -> list[Group]:
        together = groups([pieces[number] for number in numbers], self.count)
        return [Group.of(experiment, pieces, (numbers[i] for i in group)) for group in together]

    def _start(self, planned: list[list[Group]], rest: Iterable[tuple[str, Sequence[Piece]]]) -> None:
        """Give every process that has none a group that may start.

        Rather one of programs that no other process is compiling, as long as there is one: each compiles for itself.
        """
        while len(self._running) < self.count:
            ready = self._ready(planned, rest)
            if (first := next(ready, None)) is None:
                return
            alone = (g for g in itertools.chain([first], ready) if not any(map(g.shares, self._running.values())))
            group = next(alone, first)
            self._running[self.executor.submit(_compute, group.experiment, group.numbers)] = group

    def _ready(self, planned: list[list[Group]], rest: Iterable[tuple[str, Sequence[Piece]]]) -> Iterator[Group]:
        """Groups that may start, those of the first experiments first.

        planned: groups of the experiments so far, to which those of `rest` are added as they are looked at.
        """
        unfinished: list[Group] = []
        for number in itertools.count():
            if number == len(planned):
                if (coming := next(rest, None)) is None:
                    return
                planned.append(self._groups(*coming, range(len(coming[1]))))
            left = [group for group in planned[number] if group not in self._done]
            yield from (g for g in left if g not in self._running.values() and g.may_start(unfinished))
            if any(group.needs is None for group in planned[number]):
                return  # they do not say what they leave behind, so whatever comes after waits for all of them
            unfinished += left

    def stop(self) -> None:
        """End all processes now; what they were computing is lost, finished shards are kept."""
        if self.executor is not None:
            for process in multiprocessing.active_children():
                process.terminate()
            self.executor.shutdown(cancel_futures=True)


@contextmanager
def _explained(count: int):
    try:
        yield
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process ended before its work, perhaps for want of memory; run the same command again, finished "
            f"shards are kept, with --workers {max(1, count // 2)}, or with fewer images in a compiled call, down to "
            "--batch 1"
        ) from error


@contextmanager
def workers(configuration: Configuration):
    """The processes of a run, ended with it whatever happens."""
    found = Workers(configuration, configuration.workers or _default())
    try:
        yield found
    finally:
        with delayed():  # half stopped they leave semaphores behind, of which Python complains after our last word
            found.stop()


def _default() -> int:
    """One process a core on a CPU, one in all where there is an accelerator, whose memory it takes."""
    import jax

    return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1


_bench = None
"""A worker process's own workbench."""

_compiled: tuple[str, frozenset[Hashable]] | None = None
"""Of which experiment and programs it has compiled code."""


def reproducible() -> None:
    """Let this process, and those it starts, compute the same bits on any machine of a kind; before JAX is imported.

    More threads than one change the order of sums. Accelerators multiply float32 with 10 bits unless told otherwise.
    LLVM's second level compiles in two thirds of the time of the third, and programs of this kind are as fast and give
    the same bits (on digits; CIFAR-10's differ in the seventh digit). What XLA_FLAGS says already counts more.
    """
    os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=2 {os.environ.get('XLA_FLAGS', '')}"
    os.environ.update(dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"


def seldom_collect() -> None:
    """Let Python look for garbage seldom: what tracing makes lives on, and to go through it takes a twentieth of it."""
    gc.set_threshold(50_000)


def is_reproducible() -> bool:
    """Whether this process has one thread, as those of `reproducible` have; sums are in another order otherwise."""
    return os.environ.get("NPROC") == "1"


def _begin(configuration: Configuration, bars) -> None:
    """Make a worker."""
    global _bench
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends us
    seldom_collect()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress.send_to(bars)
    warnings.showwarning = progress.warn
    from .workbench import Workbench

    _bench = Workbench(configuration)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _compute(experiment: str, numbers: Sequence[int]) -> None:
    global _compiled
    import jax

    from ..compression.batches import calls_of

    pieces = import_module(f".{experiment}", __package__).pieces(_bench)
    needed = experiment, frozenset(pieces[number].program for number in numbers)
    if needed != _compiled:
        jax.clear_caches()  # keeping the programs of all groups takes gigabytes
        _compiled = needed
    with calls_of(_bench.configuration.batch):
        for number in numbers:
            pieces[number].compute()
