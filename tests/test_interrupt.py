"""An interrupt that something drops comes again; where interrupts are not Python's own, they stay as they are."""

import signal
import threading
import time
from contextlib import suppress

import pytest
from purimetry.experiments import command_line, interrupt, workers
from purimetry.experiments.configuration import Configuration


@pytest.fixture
def handled(monkeypatch):
    """Python's own handler, also where tests run in the background, and little patience."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(interrupt, "AGAIN", 0.05)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_is_dropped_comes_until_it_is_heard(handled, monkeypatch):
    with pytest.raises(KeyboardInterrupt), interrupt.insistent():
        for again in range(2):
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT) if not again else time.sleep(60)
                pytest.fail("no interrupt came")
        monkeypatch.setattr(interrupt, "AGAIN", 60)  # after the next, so that a slow machine ends in time
        time.sleep(60)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    time.sleep(0.1)  # in which none comes any more


def test_what_ends_in_time_is_not_interrupted_again(handled, monkeypatch):
    monkeypatch.setattr(interrupt, "AGAIN", 60)  # in time on any machine
    before = set(threading.enumerate())
    with interrupt.insistent():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        (waiting,) = set(threading.enumerate()) - before
    waiting.join(30)  # what would interrupt again gives up now
    assert not waiting.is_alive()


def test_ignored_interrupts_stay_ignored(handled):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt.insistent():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_thread_has_no_handler_to_change(handled):
    failed = []

    def run():
        try:
            with interrupt.insistent():
                assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed


def test_a_command_whose_interrupt_is_dropped_ends(handled, monkeypatch):
    def drops(command):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(interrupt, "AGAIN", 60)  # after the next, so that a slow machine ends in time
        time.sleep(60)

    monkeypatch.setattr(command_line, "_execute", drops)
    with pytest.raises(KeyboardInterrupt):
        command_line.main(["list"])


def test_processes_are_stopped_whole_although_an_interrupt_comes(handled, monkeypatch):
    """Half stopped ones leave semaphores, of which Python complains after the last word of an interrupted command."""
    stopped = []

    def stop(self):
        signal.raise_signal(signal.SIGINT)
        stopped.append(self)

    monkeypatch.setattr(workers.Workers, "stop", stop)
    with pytest.raises(KeyboardInterrupt), workers.workers(Configuration(workers=1)) as processes:
        pass
    assert stopped == [processes] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
