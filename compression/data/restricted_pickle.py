"""Pickles of plain data, read without running any code of the file's.

A pickle names functions and has them called. Here four names are known, each with a stand-in of ours that makes
numeric arrays or bytes from checked arguments and nothing else. NumPy's own functions would not do: they build
arrays of object pointers from the file's bytes where a file asks for it.

A pickle may also refer to what it made before. A list of one list twice, that list of another twice, and so on, takes
few bytes and longer than anyone waits to walk, to hash or to print, so that only single values may be met again.
"""

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from .dataset import DataError

NUMERIC = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
"""Types of array elements that are admitted."""

PLAIN = (str, bytes, bool, int, float, type(None))
"""Types of single values that are admitted."""

SINGLE = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
          "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "GLOBAL", "STACK_GLOBAL", "REDUCE")
"""Opcodes that make what a pickle may refer to later: strings, names, and what the stand-ins make of them."""


def read_pickle(content: bytes) -> Any:
    """What a pickle holds: arrays of numbers, strings, bytes, numbers, None, and lists, tuples and dicts of them.

    content: of protocol 2, as official data sets are; strings of Python 2 are read as latin-1.

    Raises DataError for a damaged file and for anything else in it, of which nothing is made or run, and for a list,
    tuple or dict that is referred to again.

    >>> read_pickle(pickle.dumps({"labels": [3, 1], "data": np.arange(3)}, protocol=2))
    {'labels': [3, 1], 'data': array([0, 1, 2])}
    >>> read_pickle(b"cos\\nsystem\\n(S'true'\\ntR.")
    Traceback (most recent call last):
    purimetry.compression.data.dataset.DataError: not a pickle of plain data (it names os.system, which is not run)
    """
    try:
        _check_references(content)
        return _plain(_Unpickler(io.BytesIO(content), encoding="latin-1").load())
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise DataError(f"not a pickle of plain data ({error})") from error


def _check_references(content: bytes) -> None:
    """Raise UnpicklingError where anything but a single value is referred to, before any of it is made."""
    last, single = "", {}
    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                single[len(single) if argument is None else argument] = last in SINGLE
                continue
            case "DUP" | "GET" | "BINGET" | "LONG_BINGET" if not single.get(argument):
                raise pickle.UnpicklingError("it refers to a list, tuple or dict again, expected each to be met once")
        last = opcode.name


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        match f"{module}.{name}".replace("numpy._core.", "numpy.core."):
            case "numpy.core.multiarray._reconstruct":
                return _Array
            case "numpy.dtype":
                return _Dtype
            case "numpy.ndarray":
                return None  # _reconstruct is told to make one, and has nothing else to make
            case "_codecs.encode":
                return self._latin1  # bound, because a pickle could change the defaults of a function
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not run")

    def _latin1(self, text: str, encoding: str) -> bytes:
        """Bytes, which Python 3 writes in protocol 2 as text to be encoded."""
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it encodes text as {encoding!r}, expected 'latin1'")
        return text.encode("latin-1")


class _Array:
    """An array in the making: a pickle first makes an empty one and then fills it."""

    def __init__(self, kind: None, shape: tuple, code: Any):
        self.value = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        content = content.encode("latin-1") if isinstance(content, str) else content
        self.value = np.frombuffer(content, dtype.value).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    def __init__(self, name: str, align: Any, copy: Any):
        if name not in NUMERIC:
            raise pickle.UnpicklingError(f"it has an array of {name!r}, expected one of numbers")
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.value = self.value.newbyteorder(state[1])


def _plain(found: Any) -> Any:
    """The same with arrays in the place of what stood for them."""
    match found:
        case dict():
            return {_plain(key): _plain(value) for key, value in found.items()}
        case list() | tuple():
            return type(found)(map(_plain, found))
        case _Array(value=np.ndarray()):
            return found.value
        case _ if isinstance(found, PLAIN):
            return found
    raise pickle.UnpicklingError(f"it holds something of type {type(found).__name__}")
