"""How much of a purifier's output is its randomness, and how much its input (compression_paper Sec. 4, App. A.4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .batches import over_draws
from .checks import check_image
from .randomness import redraws
from .rates import uniform_perturbations
from .types import Budget, Image, Key, Purifier, Scalar


class Variances(NamedTuple):
    """The law of total variance (Eq. 20), as unbiased estimates in squared pixels, a mean over pixels (Table S12).

    input: E_xi Var_x f(x | xi). internal: Var_xi E_x f(x | xi), which may come out below 0 where it is all but 0.
    interaction: the part of `input` that is not common to all xi, so that Var_x E_xi f is input - interaction and
        E_x Var_xi f is internal + interaction.
    """

    input: Float[Array, "..."]
    internal: Float[Array, "..."]
    interaction: Float[Array, "..."]

    @property
    def total(self) -> Float[Array, "..."]:
        """Var_{x, xi} f(x | xi), the same by either order of conditioning."""
        return self.input + self.internal

    @property
    def snr(self) -> Float[Array, "..."]:
        """Input over internal variance (Eq. 7); infinite where the latter is no more than the total's rounding.

        An estimate of a ratio says nothing unless `internal` lies several of its standard errors above 0.
        """
        random = self.internal > jnp.finfo(jnp.float32).eps * self.total
        return jnp.where(random, self.input / jnp.where(random, self.internal, 1), jnp.inf)


class Correlations(NamedTuple):
    """Pearson correlations, over pixel values, of purification directions f_xi(x) - x (Fig. 2d, e).

    fixed_input: between configurations at one input, mean over inputs.
    fixed_randomness: between inputs under one configuration, mean over configurations.
    """

    fixed_input: Float[Array, "configurations configurations"]
    fixed_randomness: Float[Array, "inputs inputs"]


class Radii(NamedTuple):
    """l2 distances to the centroid of the images that they stand with (Fig. 2f, Table S13), in pixels.

    initial: of the inputs. fixed_randomness: among the outputs of one configuration. fixed_input: among those of one
    input. vary_both: among all. A centroid of n images lies closer to them than their expectation, so the mean square
    is low by the factor 1 - 1/n; `Variances` are corrected for it.
    """

    initial: Float[Array, "inputs"]
    fixed_randomness: Float[Array, "configurations inputs"]
    fixed_input: Float[Array, "configurations inputs"]
    vary_both: Float[Array, "configurations inputs"]


class Stochasticity(NamedTuple):
    """Everything that Sec. 4 measures at one clean image."""

    variances: Variances
    correlations: Correlations
    radii: Radii


Rows = Float[Array, "inputs d"]
Table = Float[Array, "configurations inputs d"]


def stochasticity(
    purifier: Purifier, x: Image, key: Key, eps: Budget, *, inputs: int = 50, configurations: int = 50
) -> Stochasticity:
    """Purify uniform perturbations of size eps of one image, each under the same configurations (App. E.4: 50 x 50).

    inputs, configurations: at least 2 each. x + eta may leave [0, 1] by at most eps, as in `rates`. All purified
    images are held at once, 30 MB for 50 x 50 of CIFAR-10's, so give `over_images` a small `size`; the purifier itself
    runs on `inputs` images at a time.

    >>> import purimetry as pm
    >>> noisy = lambda x, key: x / 2 + jax.random.normal(key, x.shape) / 10
    >>> found = stochasticity(noisy, jnp.ones((8, 8, 1)), pm.configuration(0, 0), 0.3)
    >>> round(float(found.variances.input), 4), round(float(found.variances.internal), 2)  # 0.3^2 / 3 / 4 and 0.1^2
    (0.0075, 0.01)
    """
    check_image(x)
    if min(inputs, configurations) < 2:
        raise ValueError(f"variances need at least 2 inputs and 2 configurations, got {inputs} and {configurations}")
    noisy = x + uniform_perturbations(x, eps, key, inputs)
    purify = lambda xi: over_draws(lambda x: purifier(x, xi), noisy, x)
    outputs = jax.lax.map(purify, redraws(key, configurations)).reshape(configurations, inputs, -1)
    noisy = noisy.reshape(inputs, -1)
    return Stochasticity(variances(outputs), correlations(noisy, outputs), radii(noisy, outputs))


def variances(outputs: Table) -> Variances:
    """Two-way analysis of variance with random effects, from every pair of a configuration and an input.

    All configurations share their inputs, so the variance of a configuration's mean over n inputs is inflated by
    interaction / n and not by input / n.

    >>> found = variances(jnp.array([[[0.0], [1.0]], [[4.0], [5.0]]]))
    >>> float(found.input), float(found.internal), float(found.interaction)
    (0.5, 8.0, 0.0)
    """
    rows, columns, d = outputs.shape
    square = lambda deviations: (deviations**2).sum() / d
    within = outputs - outputs.mean(1, keepdims=True)
    residual = within - within.mean(0)
    interaction = square(residual) / ((rows - 1) * (columns - 1))
    between = square(outputs.mean(1) - outputs.mean((0, 1))) / (rows - 1)
    return Variances(square(within) / (rows * (columns - 1)), between - interaction / columns, interaction)


def correlations(inputs: Rows, outputs: Table) -> Correlations:
    """Correlations of purification directions; 0 where an image is not moved at all."""
    directions = outputs - inputs
    directions -= directions.mean(-1, keepdims=True)
    lengths = jnp.linalg.norm(directions, axis=-1, keepdims=True)
    units = directions / jnp.maximum(lengths, jnp.finfo(lengths.dtype).tiny)
    return Correlations(jnp.einsum("ijd,kjd->ik", units, units) / units.shape[1],
                        jnp.einsum("ijd,ild->jl", units, units) / units.shape[0])


def mean_over_pairs(matrix: Float[Array, "n n"]) -> Scalar:
    """Mean of a symmetric matrix off its diagonal: a correlation's mean over pairs.

    >>> float(mean_over_pairs(jnp.array([[1.0, 0.25], [0.25, 1.0]])))
    0.25
    """
    n = matrix.shape[0]
    return (matrix.sum() - jnp.trace(matrix)) / (n * (n - 1))


def radii(inputs: Rows, outputs: Table) -> Radii:
    """Distances to the centroids of the inputs, of each configuration, of each input, and of everything."""
    distance = lambda points, axis: jnp.linalg.norm(points - points.mean(axis, keepdims=True), axis=-1)
    return Radii(distance(inputs, 0), distance(outputs, 1), distance(outputs, 0), distance(outputs, (0, 1)))
