"""Functions as pytrees, so that compiled programs take them as arguments."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
from jax.tree_util import Partial


def as_pytree(function: Callable) -> Callable:
    """The function itself if it is a pytree (a `Network`, a purifier made here), else as one, compared by identity."""
    return Partial(function) if jax.tree_util.all_leaves([function]) else function


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # arrays have no hash, by which `jax.jit` knows a function
class Made:
    """What is made of a network by a formula with tables, such as a schedule's, that are no weights of it."""

    formula: Callable = field(metadata={"static": True})
    network: Callable
    tables: tuple = ()

    def __call__(self, *inputs):
        return self.formula(self.network, *self.tables, *inputs)
