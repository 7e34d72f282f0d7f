"""The Square attack (Andriushchenko et al. 2020): random search without gradients."""

import math
from types import ModuleType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..checks import check_norm
from ..types import Budget, Image, Key
from . import l2, linf
from .iterative import VALUE, Iterative

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after each of which the share p of the image that a square covers is halved, of HORIZON in all."""

HORIZON = 10_000


def square(
    eps: Budget, *, queries: int = 5000, restarts: int = 1, share: float = 0.8, horizon: int = HORIZON,
    norm: ModuleType = linf,
) -> Iterative:
    """Square attack: propose a random square of changed pixels, keep it if the objective rises (use the margin).

    queries: proposals of each restart. share: p of the first squares.
    horizon: number of queries over which p falls to share / 512; AutoAttack leaves it at 10,000 for its 5,000.
    norm: `linf` or `l2`.

    Squares lie anywhere inside the image, as in Algorithm 2 of the paper (the
    authors' code never reaches the last row and column).

    >>> import jax, jax.numpy as jnp, purimetry as pm
    >>> from functools import partial
    >>> loss = pm.defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0))
    >>> attack = jax.jit(partial(square(0.25, queries=20), loss))
    >>> result = attack(jnp.array([[[0.75], [0.25]]]), jax.random.key(0))
    >>> result.x.tolist(), int(result.gradients)
    ([[[0.5], [0.5]]], 0)
    """
    check_norm(norm)
    first, propose = {linf: (_stripes, _linf_square), l2: (_tiles, _l2_square)}[norm]

    def start(x, key, restart):
        begin, later = jax.random.split(key)
        iterate = first(x, eps, begin)
        return iterate, (jax.random.bits(later), iterate, jnp.finfo(x.dtype).min)

    def move(x, candidate, gradient, objective, memory, k):
        seed, best, value = memory
        better = objective.ascent > value
        best, value = jnp.where(better, candidate, best), jnp.where(better, objective.ascent, value)
        side = _sides(x.shape, share, norm)[jnp.searchsorted(jnp.array(HALVINGS), k * HORIZON // horizon)]
        return propose(x, best, eps, side, jax.random.fold_in(jax.random.key(seed), k)), (seed, best, value)

    return Iterative(start, move, queries, restarts, eps, norm, query=VALUE)


def _sides(shape, share, norm):
    """Side of the square in each phase of the schedule; for l2 odd and at least 3, where the image allows it."""
    height, width, _ = shape
    sides = []
    for phase in range(len(HALVINGS) + 1):
        side = round(math.sqrt(share / 2**phase * height * width))
        side = max(side, 1) if norm is linf else max(side, 3) // 2 * 2 + 1
        sides.append(min(side, height, width))
    return jnp.array(sides)


def _signs(uniform: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(uniform < 0.5, -1.0, 1.0)


def _corner(uniform: Float[Array, "2"], shape: tuple[int, ...], side: Int[Array, ""]) -> Int[Array, "2"]:
    """Row and column of the first pixel of a square that lies inside the image, all equally likely."""
    return jnp.floor(uniform * (jnp.array(shape[:2]) - side + 1)).astype(jnp.int32)


def _within(shape, corner, side) -> tuple[Int[Array, "h w"], Int[Array, "h w"], Bool[Array, "h w 1"]]:
    """Each pixel's row and column in the square, and whether it is inside."""
    row, column = jnp.indices(shape[:2]) - corner[:, None, None]
    return row, column, _inside(row, column, side)[..., None]


def _inside(row, column, side):
    return (row >= 0) & (row < side) & (column >= 0) & (column < side)


def _stripes(x: Image, eps: Budget, key: Key) -> Image:
    """The first candidate in l_inf: columns of one colour."""
    return jnp.clip(x + eps * _signs(jax.random.uniform(key, (1, *x.shape[1:]))), 0, 1)


def _linf_square(x: Image, best: Image, eps: Budget, side: Int[Array, ""], key: Key) -> Image:
    """The best candidate with all of a square at the edge of the budget, each channel with a sign of its own."""
    uniform = jax.random.uniform(key, (2 + x.shape[2],))
    _, _, inside = _within(x.shape, _corner(uniform[:2], x.shape, side), side)
    return jnp.clip(jnp.where(inside, x + eps * _signs(uniform[2:]), best), 0, 1)


def _bump(row: Int[Array, "h w"], column: Int[Array, "h w"], side: Int[Array, ""]) -> Float[Array, "h w"]:
    """The two opposite bumps of a square of unit l2 norm, one above the other, at its rows and columns; 0 elsewhere.

    Each is a pyramid of steps 1/1, 1/4, 1/9, ... in the distance to its centre (Sec. 4.3 of the paper).
    """
    half = side // 2
    top = _inside(row, column, side) & (row < half)
    bottom = _inside(row, column, side) & (row >= half)
    delta = _pyramid(row, column, half, side, top) - _pyramid(row - half, column, side - half, side, bottom)
    return delta / jnp.maximum(jnp.linalg.norm(delta), 1e-12)


def _pyramid(row, column, height, width, inside):
    """A rectangle's pyramid of unit norm: of the steps 1/k^2 those whose rectangle reaches the pixel."""
    steps = jnp.concatenate([jnp.zeros(1), jnp.cumsum(1 / jnp.arange(1.0, max(row.shape) // 2 + 2) ** 2)])
    distance = jnp.maximum(jnp.abs(row - height // 2), jnp.abs(column - width // 2))
    outermost = jnp.maximum(height // 2, width // 2) + 1
    delta = jnp.where(inside, steps[outermost] - steps[jnp.where(inside, distance, 0)], 0)
    return delta / jnp.maximum(jnp.linalg.norm(delta), 1e-12)


def _tiles(x: Image, eps: Budget, key: Key) -> Image:
    """The first candidate in l2: five bumps a side, each channel with signs of its own."""
    height, width, channels = x.shape
    side = max(height // 5, 1)
    margin = (height - 5 * side) // 2 if height >= 5 else 0
    rows, columns = (height - margin) // side, (width - margin) // side
    uniform = jax.random.uniform(key, (rows, columns, 1 + channels))
    flips, signs = uniform[..., 0] < 0.5, _signs(uniform[..., 1:])
    row, column = jnp.indices((height, width)) - margin
    tile = row // side, column // side
    inside = (row >= 0) & (column >= 0) & (tile[0] < rows) & (tile[1] < columns)
    one = _bump(*jnp.indices((side, side)), jnp.int32(side))
    bump = jnp.where(flips[tile], one[column % side, row % side], one[row % side, column % side])
    delta = jnp.where(inside[..., None], bump[..., None] * signs[tile], 0)
    return jnp.clip(x + eps * l2.steepest(delta), 0, 1)


def _l2_square(x: Image, best: Image, eps: Budget, side: Int[Array, ""], key: Key) -> Image:
    """The best candidate with the mass of two squares and what is left of the budget moved to the first of them."""
    uniform = jax.random.uniform(key, (5 + x.shape[2],))
    row, column, inside = _within(x.shape, _corner(uniform[:2], x.shape, side), side)
    _, _, emptied = _within(x.shape, _corner(uniform[2:4], x.shape, side), side)
    delta = best - x
    norm = lambda a: jnp.sqrt((a**2).sum((0, 1)))  # of each channel
    turned = uniform[4] < 0.5
    bump = _bump(jnp.where(turned, column, row), jnp.where(turned, row, column), side)
    old = jnp.where(inside, delta, 0)
    new = bump[..., None] * _signs(uniform[5:]) + old / (1e-12 + norm(old))
    new = jnp.where(inside, new, 0)
    left = jnp.maximum(jnp.asarray(eps, x.dtype) ** 2 - (delta**2).sum(), 0) / x.shape[2]
    new = new / (1e-12 + norm(new)) * jnp.sqrt(left + norm(jnp.where(inside | emptied, delta, 0)) ** 2)
    delta = jnp.where(inside, new, jnp.where(emptied, 0, delta))
    return jnp.clip(x + eps * l2.steepest(delta), 0, 1)
