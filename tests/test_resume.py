"""A run that is killed, several times and at any moment, ends with the bytes of one that was not."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

TRAINED = (
    "run", "training", "--images", "4", "--batch", "4",
    "--classifier-steps", "10", "--denoiser-steps", "130", "--classifier-channels", "8", "--denoiser-channels", "8",
)
"""A run of what is trained; the denoiser longer than to its first saved state."""

MEASURED = (
    "run", "prediction", "--images", "4", "--samplers", "ddim", "--t-stars", "2", "--eps", "0.1", "--seeds", "0",
    "--draws", "2", "--attack-steps", "2", "--attack-restarts", "2", "--paper-steps", "4", "--bootstrap", "10",
    "--batch", "4",
)
"""A run of what is measured, of functions that compile in no time."""

FUNCTIONS = """
import jax.numpy as jnp
import numpy as np

WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)), jnp.float32)


def classifier(x):
    return x.ravel() @ WEIGHTS


def denoiser(x_t, t):
    return jnp.tanh(x_t) + t / 1000


def velocity(y, t):
    return jnp.sin(y) + t / 1000
"""


def start(run: tuple[str, ...], folder: Path, cache: Path, workers: int = 1, before: str = "", **streams
          ) -> subprocess.Popen:
    """A run in a process group of its own, that hears an interrupt even where the tests run in the background.

    Its compiled programs are for other runs of the test only, as a kill may leave half of one.
    """
    script = (f"import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); {before}\n"
              "from purimetry.experiments.command_line import console; sys.exit(console())")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **streams}
    options = ["--out", str(folder), "--cache", str(cache), "--workers", str(workers)]
    told = {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs"),
            "TERM": "xterm", "COLUMNS": "80"}  # bars are shown whole, also where the tests have no terminal
    return subprocess.Popen([sys.executable, "-c", script, *run, *options], text=True, start_new_session=True,
                            env=os.environ | told, **streams)


def wait_for(process: subprocess.Popen, condition) -> None:
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode} before it could be killed: {process.stdout.read()}")
        time.sleep(0.01)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


def files(folder: Path) -> dict[str, bytes]:
    """Everything a run leaves but what tells of time."""
    found = (p for pattern in ("*/records.jsonl", "*/shards/*", "run.json") for p in folder.glob(pattern))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def kill(process: subprocess.Popen, moment) -> None:
    wait_for(process, moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.read()  # ends when the last worker has gone
    process.stdout.close()


def assert_same(killed: Path, undisturbed: Path, count: int) -> None:
    ours, theirs = files(killed), files(undisturbed)
    assert ours.keys() == theirs.keys() and len(ours) == count
    assert all(ours[name] == theirs[name] for name in ours)


def test_a_killed_training_ends_with_the_same_bytes(tmp_path):
    """Of which weights the records carry the SHA-256."""
    out, cache = tmp_path / "killed", tmp_path / "killed-cache"
    kill(start(TRAINED, out, cache, workers=2), lambda: list(cache.glob("denoiser-*-training.safetensors")))
    finish(start(TRAINED, out, cache))
    assert not list(cache.glob("*-training.safetensors"))
    finish(start(TRAINED, tmp_path / "undisturbed", tmp_path / "other-cache"))
    assert_same(out, tmp_path / "undisturbed", count=3)


def test_killed_measurements_end_with_the_same_bytes(tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    run = (*MEASURED, *(part for name in ("classifier", "denoiser")
                        for part in (f"--{name}", f"{tmp_path / 'functions.py'}:{name}")))
    out, cache = tmp_path / "killed", tmp_path / "cache"
    shards = lambda: len(list(out.glob("*/shards/*.npz")))
    for workers, moment in ((2, lambda: shards() >= 1), (1, lambda: shards() >= 3),
                            (2, lambda: list(out.glob("prediction/shards/*.npz")))):
        kill(start(run, out, cache, workers), moment)
    assert not (out / "prediction/records.jsonl").exists()
    finish(start(run, out, cache))
    finish(start(run, tmp_path / "undisturbed", cache))
    assert_same(out, tmp_path / "undisturbed", count=8)


def test_interrupt_says_how_to_go_on(tmp_path):
    """Also where freeing what JAX holds would crash, as it may once an interrupt was raised within it."""
    crash = "import atexit, os; atexit.register(os.abort)"
    process = start(TRAINED, tmp_path / "out", tmp_path / "cache", before=crash)
    wait_for(process, lambda: list((tmp_path / "cache").glob("classifier-*")))
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 130
    assert "the same command resumes" in output


def test_nothing_is_said_after_an_interrupt_of_workers_with_bars(tmp_path):
    screen, terminal = os.openpty()
    with os.fdopen(screen, "rb", buffering=0) as screen:
        process = start(TRAINED, tmp_path / "out", tmp_path / "cache", workers=2, stdout=terminal, stderr=terminal)
        os.close(terminal)
        shown = b""
        while b"train denoiser" not in shown:
            shown += screen.read(10_000)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # says that no process has the terminal any more, nor will say anything
            while True:
                shown += screen.read(10_000)
    assert process.wait() == 130
    assert shown.decode().splitlines()[-1].endswith("the same command resumes where it stopped")
