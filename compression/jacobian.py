"""The Jacobian of f_xi at an image: exactly where the dimension allows, by matrix-free estimators elsewhere.

The one module that touches matfree, which renames things between minor versions.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from matfree import decomp, stochtrace

from .batches import over_draws
from .checks import check_image
from .decompositions import eigenvalues, eigh, svd
from .randomness import PROBE, step_key
from .rates import Estimate, root
from .types import Image, Key, Purifier, Scalar


def jacobian(purifier: Purifier, x: Image, key: Key) -> Float[Array, "d d"]:
    """J of f_xi at x, rows are outputs; d forward-mode products, so no trajectory is stored.

    >>> import jax, jax.numpy as jnp
    >>> jacobian(lambda x, key: 3 * x, jnp.ones((1, 2, 1)), jax.random.key(0)).tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """
    check_image(x)
    return jax.jacfwd(lambda flat: purifier(flat.reshape(x.shape), key).ravel())(x.ravel())


def rms_rate(jacobian: Float[Array, "d d"]) -> Scalar:
    """Root-mean-square compression rate ||J||_F / sqrt(d) over isotropic perturbations.

    By Jensen it bounds the expected rate from above; the gap is O(1 / effective rank) (App. A.2, read with
    E[eta eta^T] = I).
    """
    return jnp.linalg.norm(jacobian) / jacobian.shape[1] ** 0.5


def rms_rate_hutchinson(purifier: Purifier, x: Image, key: Key, *, draws: int = 16) -> Estimate:
    """The same rate from `draws` >= 2 Jacobian-vector products with random signs (Hutchinson's estimator).

    ||J||_F^2 = E ||J v||^2; the standard error of its root is carried over to first order.
    """
    if draws < 2:
        raise ValueError(f"a standard error needs at least 2 draws, got {draws}; raise draws")
    square, signs = stochtrace.monte_carlo_frobeniusnorm_squared(), stochtrace.sampler_signs(x, num=draws)
    product = partial(push, purifier, x, key)
    squares = over_draws(partial(square, product), signs(step_key(key, PROBE, 1)), x)  # matfree's own: all at once
    mean, sem = squares.mean(), squares.std() / jnp.sqrt(draws)
    unbiased = sem * jnp.sqrt(draws / (draws - 1))
    return root(Estimate(mean / x.size, unbiased / x.size))


def push(purifier: Purifier, x: Image, key: Key, v: Image) -> Image:
    """J v: what a small perturbation v of x becomes; one Jacobian-vector product.

    >>> push(lambda x, key: x**2, jnp.full((1, 1, 1), 3.0), jax.random.key(0), jnp.ones((1, 1, 1))).item()
    6.0
    """
    check_image(x)
    return jax.jvp(lambda x: purifier(x, key), (x,), (v,))[1]


def retained(purifier: Purifier, x: Image, key: Key, v: Image) -> Scalar:
    """||J v|| / ||v||: the share of a small perturbation that survives, the limit of Eq. 9 for ever smaller ones.

    v: any direction; `manifold.isotropic` or `inside` for a random one, `gradients.gradient` for J^T g, the
    adversarial one, or an attack's x_adv - x.

    >>> x = jnp.full((1, 1, 1), 3.0)
    >>> retained(lambda x, key: x**2, x, jax.random.key(0), x).item()
    6.0
    """
    return jnp.linalg.norm(push(purifier, x, key, v)) / jnp.linalg.norm(v)


class Singular(NamedTuple):
    """The k largest singular values of a Jacobian, descending, with J right_i = value_i left_i.

    residual: ||J^T left_i - value_i right_i||; a true singular value lies within it of each value.
    """

    values: Float[Array, "k"]
    right: Float[Array, "k height width channel"]
    left: Float[Array, "k height width channel"]
    residual: Float[Array, "k"]


def largest_singular_values(purifier: Purifier, x: Image, key: Key, *, k: int, iterations: int) -> Singular:
    """The rates of the k directions that f_xi compresses least, by Golub-Kahan bidiagonalisation.

    iterations: dimension of the Krylov space, k <= iterations <= d; each costs a product with J and one with J^T.
        Two or three times k is enough where the spectrum decays; look at `residual`.

    >>> scale = jnp.array([3.0, 1.0, 0.5]).reshape(1, 3, 1)
    >>> found = largest_singular_values(lambda x, key: scale * x, scale, jax.random.key(0), k=2, iterations=3)
    >>> [round(float(value), 3) for value in found.values]
    [3.0, 1.0]
    """
    check_image(x)
    _check_krylov(k, iterations, x.size)
    product = lambda v: push(purifier, x, key, v)
    (lefts, rights), bidiagonal, *_ = decomp.bidiag(iterations)(*_krylov(product, x, key))
    u, values, v = svd(bidiagonal)
    left, right = ((rows @ basis)[:k].reshape(k, *x.shape) for rows, basis in ((u.T, lefts), (v, rights)))
    values = values[:k]
    back = over_draws(jax.linear_transpose(product, x), left, x)[0]
    off = back - values[:, None, None, None] * right
    return Singular(values, right, left, jnp.linalg.norm(off.reshape(k, -1), axis=1))


def largest_eigenvectors(
    product: Callable[[Image], Image], x: Image, key: Key, *, k: int, iterations: int
) -> tuple[Float[Array, "k"], Float[Array, "k height width channel"]]:
    """The k largest eigenvalues of a symmetric matrix given by its products, and eigenvectors, by Lanczos' method.

    iterations: products, k <= iterations <= d. x: an image of the shape of the vectors.

    >>> scale = jnp.array([3.0, 1.0, -5.0]).reshape(1, 3, 1)
    >>> values, _ = largest_eigenvectors(lambda v: scale * v, scale, jax.random.key(0), k=2, iterations=3)
    >>> [round(float(value), 3) for value in values]
    [3.0, 1.0]
    """
    _check_krylov(k, iterations, x.size)
    basis, tridiagonal, *_ = decomp.tridiag_sym(iterations)(*_krylov(product, x, key))
    values, vectors = eigh(tridiagonal)
    return values[::-1][:k], (vectors.T @ basis)[::-1][:k].reshape(k, *x.shape)


def symmetric_spectrum(jacobian: Float[Array, "d d"]) -> Float[Array, "d"]:
    """Eigenvalues of (J + J^T) / 2, ascending: what "eigendirections" mean where J is not symmetric (App. A.3).

    >>> symmetric_spectrum(jnp.array([[2.0, 5.0], [-5.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    return eigenvalues((jacobian + jacobian.T) / 2)


def participation_ratio(singular_values: Float[Array, "k"]) -> Scalar:
    """(sum s^2)^2 / sum s^4: how many directions share the energy ||J||_F^2, one of two effective ranks.

    >>> float(participation_ratio(jnp.array([2.0, 2.0, 0.0])))
    2.0
    """
    energy = singular_values**2
    return energy.sum() ** 2 / (energy**2).sum()


def entropy_rank(singular_values: Float[Array, "k"]) -> Scalar:
    """exp(-sum p log p) with p = s^2 / sum s^2: the other effective rank, at least the participation ratio.

    Roy and Vetterli (2007) take p = s / sum s, which is larger still; squares make both ranks ones of the energy.

    >>> round(float(entropy_rank(jnp.array([2.0, 2.0, 0.0]))), 4)
    2.0
    """
    share = singular_values**2 / (singular_values**2).sum()
    return jnp.exp(-jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0).sum())


def _krylov(product, x, key):
    """The product, of flat vectors, and a random start, from which the Krylov space never ends before it should.

    In that of a matrix with few distinct values a next vector would be 0 / 0. A random diagonal of 1e-6 separates
    them, and moves no singular value or eigenvalue by more.
    """
    start, diagonal = jax.random.normal(step_key(key, PROBE, 2), (2, *x.shape), x.dtype)
    separated = lambda v: product(v) + 1e-6 * jnp.clip(diagonal, -1, 1) * v
    return lambda v: separated(v.reshape(x.shape)).ravel(), start.ravel()


def _check_krylov(k, iterations, d):
    if not 1 <= k <= iterations <= d:
        raise ValueError(f"expected 1 <= k <= iterations <= d, got k {k}, iterations {iterations} and d {d}")
