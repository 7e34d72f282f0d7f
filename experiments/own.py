"""Functions of one's own that a run measures, each named by FILE.py:NAME: the file is run, and NAME taken from it."""

import hashlib
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ..compression.callables import as_pytree
from ..compression.networks.precision import in_precision
from ..compression.records import digest
from .architectures import Given

TORCH = "; code in PyTorch goes through pm.torch_purifier, pm.torch_classifier or pm.torch_denoiser"


class Own(NamedTuple):
    """A function of a user's file: its name, itself, where it is from, and the file as it was run."""

    name: str
    function: Callable
    path: Path
    source: bytes

    def sha256(self, *inputs) -> str:
        """Of the file, of what the function and its gradient do in JAX, and of the arrays, such as weights, in them.

        inputs: what it is called with, or anything of those shapes; nothing is computed. What leaves JAX, as weights
        and code in PyTorch, is not seen. Raises ValueError, which says where, if it cannot be traced.
        """
        apply = lambda *given: self.function(*given)
        try:
            traces = [jax.make_jaxpr(apply)(*inputs)]
        except Exception as error:
            doing = f"calling {self.name} with {len(inputs)} array{'s' * (len(inputs) > 1)} of JAX"
            raise _told(doing, self.path, error, TORCH if "torch" in sys.modules else "") from error
        try:
            traces.append(jax.make_jaxpr(_pulled(apply))(*inputs))
        except Exception:
            pass  # without a gradient it has rates, and an attack says so
        texts = [re.sub("0x[0-9a-f]+", "", str(trace)).encode() for trace in traces]
        told = {f"text {number}": np.frombuffer(text, np.uint8) for number, text in enumerate([self.source, *texts])}
        arrays = (array for trace in traces for array in _arrays(trace))
        return digest({**told, **{str(number): array for number, array in enumerate(arrays)}})


@contextmanager
def named(told: str) -> Iterator[None]:
    """Let what a check finds say in which of the functions it did."""
    try:
        yield
    except (ValueError, TypeError, FloatingPointError) as error:
        raise type(error)(f"{told}: {error}") from error


def is_own(given: str) -> bool:
    """Whether an option names a function of a file.

    >>> is_own("mine.py:blur"), is_own("resnet20:weights.pt")
    (True, False)
    """
    return given.rpartition(":")[0].endswith(".py")


def given(option: str, told: str, *inputs) -> Given:
    """The function that an option names, as a network that was read; `own` and `Own.sha256` say what may be wrong."""
    found = own(option, told)
    return Given(f"{found.path.name}:{found.name}", as_pytree(found.function), found.sha256(*inputs), sides=None)


def own(option: str, given: str) -> Own:
    """The function that FILE.py:NAME names; ValueError, which names the option, if there is none."""
    file, _, name = given.rpartition(":")
    path = Path(file)
    if not is_own(given) or not name.isidentifier():
        raise ValueError(f"{option} {given}: expected FILE.py:NAME, a file of Python and a function in it")
    if not path.is_file():
        raise ValueError(f"{option} {given}: there is no file {path}")
    source = path.read_bytes()
    module = _module(path.resolve(), source)
    if not hasattr(module, name):
        raise ValueError(f"{option} {given}: {path} has no {name}; it has {', '.join(_functions(module)) or 'none'}")
    function = getattr(module, name)
    if "torch" in sys.modules and isinstance(function, sys.modules["torch"].nn.Module):
        raise ValueError(f"{option} {given}: {name} is a module of PyTorch{TORCH}")
    if not callable(function) or isinstance(function, type):
        raise ValueError(f"{option} {given}: {name} is {_kind(function)}, expected a function or another callable; a "
                         "network with its weights, for example")
    return Own(name, function, path.resolve(), source)


def check_precision(option: str, given: Given, precision: str) -> None:
    """Raise unless the network of noisy images that an option names has weights to round, where the run rounds them."""
    if precision == "float32":
        return
    rounded = jax.tree.leaves(in_precision(given.network, precision))
    if not any(leaf.dtype == jax.numpy.dtype(precision) for leaf in rounded):
        raise ValueError(f"--precision {precision} rounds weights, and {option} {given.architecture} shows none; give "
                         "a network of pm.pure, round inside the function, or leave the option out")


@cache
def _module(path: Path, source: bytes) -> ModuleType:
    """The file as a module, run once; what lies beside it can be imported from it.

    What it draws at random while it is run, as weights that are not loaded, is the same in every process.
    """
    mark = hashlib.sha256(str(path).encode() + source).hexdigest()[:8]
    spec = spec_from_file_location(f"purimetry_own_{mark}", path)
    module = module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[spec.name] = module
    try:
        _seed(b"torch" in source)
        exec(compile(source, path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise _told("running it", path, error) from error
    return module


def _seed(of_torch: bool) -> None:
    random.seed(0)
    np.random.seed(0)
    if of_torch:
        import torch

        torch.manual_seed(0)


def _told(doing: str, path: Path, error: Exception, hint: str = "") -> ValueError:
    """What the user's code raised, with the line of the file at which it did."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return ValueError(f"{where}: {doing} failed with {type(error).__name__}: {error}{hint}")


def _functions(module: ModuleType) -> list[str]:
    """Callables that the file itself may have been asked for."""
    return [name for name, value in vars(module).items()
            if callable(value) and not isinstance(value, type) and not name.startswith("_")]


def _kind(value) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


def _pulled(apply: Callable) -> Callable:
    """A function with its gradient in the first argument, which is the image."""

    def both(x, *more):
        value, pull = jax.vjp(lambda x: apply(x, *more), x)
        return value, pull(jax.numpy.ones_like(value))

    return both


def _arrays(traced) -> Iterator[np.ndarray]:
    """The arrays that a traced function takes along, those of functions within it as well."""
    inner = getattr(traced, "jaxpr", traced)
    operands = [*inner.outvars, *(operand for equation in inner.eqns for operand in equation.invars)]
    literals = (operand.val for operand in operands if isinstance(operand, Literal))
    for array in (*getattr(traced, "consts", ()), *literals):
        is_key = jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key)
        yield np.asarray(jax.random.key_data(array) if is_key else array)
    for equation in inner.eqns:
        for part in jax.tree.leaves(equation.params, is_leaf=_is_traced):
            if _is_traced(part):
                yield from _arrays(part)


def _is_traced(value) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)
