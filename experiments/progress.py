"""Progress bars with time left; silent when the output is not a terminal."""

import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_queue = None
"""In a worker process: where its bars go, to be shown by the main one."""

_progress = None
"""The display that collects all bars at the moment, if there is one."""


def shown() -> bool:
    """Whether bars are shown at all."""
    return sys.stderr.isatty()


def warn(message, *_) -> None:
    """Say a warning in one line; a replacement of `warnings.showwarning`."""
    print(f"warning: {message}", file=sys.stderr)


SAID = 60
"""Seconds of work after which its progress is said where no bars are shown."""


def say(what: str, done: float, seconds: float, before: float = 0.0) -> None:
    """Say how much of a long piece of work is done, and what is left at this pace; `before` was done at its start."""
    if seconds >= SAID and before < done < 1 and not shown():
        left = (1 - done) / (done - before) * seconds
        print(f"{what}: {100 * done:.0f} % done in {in_words(seconds)}, about {in_words(left)} left", flush=True)


def in_words(seconds: float) -> str:
    """A duration to two units.

    >>> in_words(31.4), in_words(125), in_words(8000)
    ('31 s', '2 min', '2 h 13 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


@contextmanager
def bar(description: str) -> Iterator[Callable[..., None]]:
    """Yield a function that takes the fraction done (0 to 1) and an optional remark."""
    if _queue is not None:
        try:
            yield lambda done, remark="": _queue.put((description, done, remark))
        finally:
            _queue.put((description, None, ""))
    elif _progress is not None:
        with _task(_progress, description) as show:
            yield show
    elif shown():
        with _display() as display, _task(display, description) as show:
            yield show
    else:
        yield lambda done, remark="": None


class Queue:
    """From many processes to one. Without a lock, since short messages are written whole: nothing of it has to be
    undone when a process ends at once, and none that is ended while it writes keeps the others waiting.
    """

    def __init__(self):
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)

    def put(self, message) -> None:
        self._writer.send(message)

    def get(self):
        return self._reader.recv()


def send_to(queue: Queue | None) -> None:
    """Send this process's bars to a queue, or show none if it is None."""
    global _queue
    _queue = queue if queue is not None else _Nowhere()


@contextmanager
def collected(queue: Queue | None) -> Iterator[None]:
    """Show the bars that come from other processes by a queue, and this process's own, in one display."""
    global _progress
    if queue is None:
        yield
        return
    with _display() as _progress:
        thread = threading.Thread(target=_collect, args=(_progress, queue), daemon=True)
        thread.start()
        try:
            yield
        finally:
            queue.put(None)
            thread.join(1)
            _progress = None


def _collect(progress, queue: Queue) -> None:
    tasks = {}
    while (message := queue.get()) is not None:
        description, done, remark = message
        if description not in tasks:
            tasks[description] = progress.add_task(description, total=1.0, remark="")
        if done is None:
            progress.remove_task(tasks.pop(description))
        else:
            progress.update(tasks[description], completed=done, remark=remark)
    for task in tasks.values():  # of work that goes on, and has its bar in the next display
        progress.remove_task(task)


def _display():
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[remark]}"))
    return Progress(*columns, console=Console(stderr=True))


@contextmanager
def _task(progress, description: str) -> Iterator[Callable[..., None]]:
    task = progress.add_task(description, total=1.0, remark="")
    yield lambda done, remark="": progress.update(task, completed=done, remark=remark)


class _Nowhere:
    def put(self, message) -> None:
        pass
