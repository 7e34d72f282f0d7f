"""The strict environment of every test."""

import gc
import os
import sys
from functools import cache
from importlib.metadata import version

import pytest
from jaxtyping import install_import_hook

# Shapes and types of every call are checked under pytest only: beartype would slow users' compilation.
# (Rank promotion is allowed: networks add a vector of channels to an image everywhere.)
install_import_hook(["purimetry.compression", "purimetry.theory"], "beartype.beartype")

# A test's programs are compiled once and run a few times, so compiling them well would take most of the suite's time.
# Later JAX knows no second flag: an unknown one ends the process.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}"

# Where each operation was written is not asked of programs that are run a few times; it takes long to look up.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

# Figures are drawn to files; no test may need a display.
os.environ["MPLBACKEND"] = "agg"


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled programs between processes and runs, in pytest's own cache unless that is switched off.

    JAX keys them by program, compiler and machine; those that compile in less than half a second are not kept.
    It writes an entry in place, so one that another process has not finished is compiled again.
    """
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry:UserWarning")
    if hasattr(config, "cache"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process works through one alone at the end.

    xdist would put those of the fewest tests last, which may be the longest; `make test` tells it not to.
    """
    longest = ("test_experiments.py", "test_resume.py", "test_structure.py", "test_attacks.py")
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


def pytest_collection_finish() -> None:
    """Look for garbage as seldom as runs do, and not among what was imported."""
    from purimetry.experiments.workers import seldom_collect

    gc.freeze()
    seldom_collect()


@pytest.fixture(scope="module", autouse=True)
def forget():
    """A file's programs are its own: all of them together take gigabytes, and more memory maps than Linux grants."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="module", autouse=True)
def one_context():
    """JAX makes a compiler context for every program, which takes longer than a small program; one serves a file."""
    from jax._src.interpreters import mlir

    with pytest.MonkeyPatch.context() as patch:
        if hasattr(mlir, "make_ir_context"):  # JAX's own, which another version may not have
            patch.setattr(mlir, "make_ir_context", cache(mlir.make_ir_context))
        yield


@pytest.fixture
def real_cifar10():
    """The real CIFAR-10, which is too large to come with the code."""
    from purimetry.compression.data.cifar import cifar10

    if not os.environ.get("PURIMETRY_DATA"):
        pytest.skip("PURIMETRY_DATA does not name a folder with CIFAR-10; `purimetry data cifar10` gets it")
    return cifar10()


@pytest.fixture
def one_torch_thread():
    """For programs that are too small to be shared between threads."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
