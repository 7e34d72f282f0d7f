"""Where a training by PyTorch stands, kept in a file that says what it was made from, so that none resumes another."""

import io
import pickle
from pathlib import Path

import torch

from ..compression.records import RecordError, write_atomic


def save(path: Path, made_from: tuple, state: dict) -> None:
    """Keep a training's state; a process that dies meanwhile leaves the file as it was.

    made_from: all that determines the training, its data's fingerprint too.
    """
    written = io.BytesIO()
    torch.save({**state, "made_from": repr(made_from)}, written)
    write_atomic(path, written.getvalue())


def load(path: Path, made_from: tuple) -> dict:
    """The state that was kept, {} if there is none; RecordError where the file is damaged or another training's."""
    if not path.exists():
        return {}
    try:
        state = torch.load(path, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise RecordError(f"{path} is damaged ({type(error).__name__}); remove it, and the training begins anew"
                          ) from error
    if state.get("made_from") != repr(made_from):
        raise RecordError(f"{path} is of another training, of {state.get('made_from')}; remove it, or choose another "
                          "--out")
    return state
