"""Progress bars with time left; silent when the output is not a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(description: str) -> Iterator[Callable[..., None]]:
    """Yield a function that takes the fraction done (0 to 1) and an optional remark."""
    if not sys.stderr.isatty():
        yield lambda done, remark="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[remark]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=1.0, remark="")
        yield lambda done, remark="": progress.update(task, completed=done, remark=remark)
