"""The Jacobian of f_xi at an image: exactly where the dimension allows, by matrix-free estimators elsewhere.

The one module that touches matfree, which renames things between minor versions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from matfree import stochtrace

from .randomness import PROBE, step_key
from .rates import Estimate
from .types import Image, Key, Purifier, Scalar


def jacobian(purifier: Purifier, x: Image, key: Key) -> Float[Array, "d d"]:
    """J of f_xi at x, rows are outputs; d forward-mode products, so no trajectory is stored.

    >>> import jax, jax.numpy as jnp
    >>> jacobian(lambda x, key: 3 * x, jnp.ones((1, 2, 1)), jax.random.key(0)).tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """
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
    product = lambda v: jax.jvp(lambda x: purifier(x, key), (x,), (v,))[1]
    estimate = stochtrace.estimator_monte_carlo_mean_and_sem(
        stochtrace.monte_carlo_frobeniusnorm_squared(), sampler=stochtrace.sampler_signs(x, num=draws)
    )
    mean, sem = estimate(product, step_key(key, PROBE, 1))
    rate = jnp.sqrt(mean / x.size)
    unbiased = sem * jnp.sqrt(draws / (draws - 1))  # matfree divides by n where the sample variance has n - 1
    return Estimate(rate, unbiased / (2 * rate * x.size))
