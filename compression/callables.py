"""Functions as pytrees, so that compiled programs take them as arguments."""

from collections.abc import Callable

import jax
from jax.tree_util import Partial


def as_pytree(function: Callable) -> Callable:
    """The function itself if it is a pytree (a `Network`, a purifier made here), else as one, compared by identity."""
    return Partial(function) if jax.tree_util.all_leaves([function]) else function
