"""An interrupt that is always heard, and leaves nothing half stopped."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 2
"""Seconds in which an interrupt ends what was running, or comes again."""


@contextmanager
def insistent() -> Iterator[None]:
    """Within, Ctrl-C raises KeyboardInterrupt again until the block has ended.

    Python drops an exception that is raised in a callback of the garbage collector, of which JAX has one, and with it
    the only interrupt. Where interrupts are ignored or handled otherwise, they stay so.
    """
    here = threading.current_thread() is threading.main_thread()  # the only one that may handle signals
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    ended, ending = threading.Event(), threading.Lock()

    def insist(again: float) -> None:
        ended.wait(again)
        with ending:
            if not ended.is_set():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def interrupted(number, frame) -> None:
        threading.Thread(target=insist, args=(AGAIN,), daemon=True).start()
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGINT, interrupted)
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one that was on its way is heard already
        with ending:
            ended.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def delayed() -> Iterator[None]:
    """Within, Ctrl-C waits until the block has ended, for what would be left half done."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not here or not callable(before):  # ignored, or not Python's
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)
