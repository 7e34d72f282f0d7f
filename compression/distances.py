"""Distances between images, and between sets of features of images (compression_paper Sec. 3, App. E.1, E.3)."""

from collections.abc import Callable
from typing import NamedTuple

import dm_pix
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .types import Image, Scalar


def l2_distance(x: Image, y: Image) -> Scalar:
    """||x - y||_2 over all pixels and channels, in pixel units (Fig. 1c, Table S8).

    >>> float(l2_distance(jnp.zeros((2, 2, 1)), jnp.full((2, 2, 1), 0.5)))
    1.0
    """
    return jnp.linalg.norm(_difference(x, y).ravel())


def linf_distance(x: Image, y: Image) -> Scalar:
    """The largest |x - y| of any pixel and channel, in pixel units (Table S9).

    >>> float(linf_distance(jnp.zeros((2, 2, 1)), jnp.full((2, 2, 1), 0.5)))
    0.5
    """
    return jnp.abs(_difference(x, y)).max()


def psnr(x: Image, y: Image) -> Scalar:
    """Peak signal-to-noise ratio -10 log10 mean (x - y)^2 in dB, the peak being 1; inf for equal images.

    >>> round(float(psnr(jnp.zeros((2, 2, 1)), jnp.full((2, 2, 1), 0.1))), 3)
    20.0
    """
    _difference(x, y)
    return dm_pix.psnr(x, y)


def ssim(x: Image, y: Image) -> Scalar:
    """Structural similarity (Wang et al. 2004), at most 1; with several channels their mean (Table 1).

    Gaussian window of 11x11 pixels with sigma 1.5, kept inside the image. On images with a side below 11 the
    window has the largest odd size that fits, 7x7 on 8x8 digits, so values of such images compare only with
    values of images of the same size.

    >>> x = jnp.linspace(0, 1, 64).reshape(8, 8, 1)
    >>> round(float(ssim(x, x)), 4), bool(ssim(x, 1 - x) < 0)
    (1.0, True)
    """
    _difference(x, y)
    side = min(*x.shape[:2], 11)
    return dm_pix.ssim(x, y, filter_size=side - 1 + side % 2)


def cosine_distance(a: Float[Array, "d"], b: Float[Array, "d"]) -> Scalar:
    """1 - cos(a, b) of two feature vectors, in [0, 2] (Table S11); not a number if one of them is 0.

    Computed as half the squared distance of the unit vectors, which does not cancel where a is close to b.

    >>> float(cosine_distance(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])))
    1.0
    """
    difference = a / jnp.linalg.norm(a) - b / jnp.linalg.norm(b)
    return difference @ difference / 2


def frechet_distance(a, b) -> float:
    """Squared Fréchet distance of two sets of features, each seen as a Gaussian (Heusel et al. 2017; App. E.3).

        |m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr (S_a S_b)^(1/2)

    a: [n, d] and b: [m, d], features of n, m >= 2 images; n may be smaller than d. In float64.

    With centred features A and B (divided by the roots of n - 1 and m - 1) S_a = A^T A and S_b = B^T B, so the last
    trace is the sum of the singular values of A B^T: no matrix root is taken and nothing imaginary arises.

    The estimate is biased upward, by about a constant / n: compare only values at equal n, d and features, and see
    `frechet_distance_extrapolated`. For a standard error see `jackknife_error`.

    >>> a = np.array([[0.0], [2.0]])
    >>> round(frechet_distance(a, 3 * a + 1), 6)  # means 1 and 4, standard deviations sqrt(2) and 3 sqrt(2)
    17.0
    """
    a, b = _features(a), _features(b)
    _same_dimension(a, b)
    moved = a.mean(0) - b.mean(0)
    a, b = (np.linalg.qr((f - f.mean(0)) / np.sqrt(len(f) - 1), mode="r") for f in (a, b))
    return float(max(moved @ moved + (a**2).sum() + (b**2).sum() - 2 * np.linalg.norm(a @ b.T, "nuc"), 0.0))


def frechet_distance_extrapolated(a, b, subsets: int = 8, seed: int = 0) -> float:
    """The Fréchet distance extrapolated to infinitely many images (FID_infinity, Chong and Forsyth 2020).

    A line in 1/n through the distances of `subsets` >= 2 random subsets, from all images (at least 8) to a quarter,
    taken at 1/n = 0. The bias is linear in 1/n only where the subsets hold many more images than there are features.
    Sets of one length give the same rows to a subset, so that images and their purified versions stay together.
    """
    a, b = _features(a), _features(b)
    if subsets < 2 or min(len(a), len(b)) < 8:
        raise ValueError(f"expected at least 2 subsets of at least 8 images, got {subsets} of {len(a)} and {len(b)}")
    shrinkage = np.linspace(1, 4, subsets)
    subset = lambda f, i: f[np.random.default_rng([seed, i]).permutation(len(f))[: round(len(f) / shrinkage[i])]]
    distances = [frechet_distance(subset(a, i), subset(b, i)) for i in range(subsets)]
    return float(np.polyfit(shrinkage, distances, 1)[1])


def kernel_distance(a, b) -> float:
    """Squared distance of two sets of features in the space of a cubic kernel (KID, Binkowski et al. 2018); unbiased.

        mean k(a, a') + mean k(b, b') - 2 mean k(a, b),  k(x, y) = (x . y / d + 1)^3

    a: [n, d] and b: [m, d], features of n, m >= 2 images. The means leave out an image with itself, and, in sets of
    one length, with the same row of the other set, which may be the same image purified. So the estimate is right on
    average for any n, also where n < d and the Fréchet distance is mostly bias; it may be negative. In float64.

    >>> a = np.array([[0.0], [0.0]])
    >>> kernel_distance(a, a + 1), kernel_distance(a, a)  # 1 + 2^3 - 2
    (7.0, 0.0)
    """
    a, b = _features(a), _features(b)
    _same_dimension(a, b)
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    others = lambda k: (k.sum() - np.trace(k)) / (k.size - len(k)) if len(k) == len(k.T) else k.mean()
    return float(others(kernel(a, a)) + others(kernel(b, b)) - 2 * others(kernel(a, b)))


class Jackknife(NamedTuple):
    """A statistic of images, its standard error, and how much of it is bias (of order 1/n, and none of a mean)."""

    value: float
    error: float
    bias: float


def jackknife(statistic: Callable[..., float], *rows, groups: int | None = None) -> Jackknife:
    """The delete-a-group jackknife of a statistic of images (Quenouille 1956, Tukey 1958).

    rows: arrays with one row an image, n >= 2 each. The same rows are left out of all of them, so features of an
        image before and after purification stay together; for sets that are independent, take one at a time, with
        the others held fixed, and add the squares.
    groups: how many groups of images are left out in turn; all n one by one without it.

    The error of a mean is std / sqrt(n) exactly. For a Fréchet distance it serves better than `statistics.bootstrap`,
    whose repeated images shrink the covariances' rank and add to the bias; it needs many more images than features,
    and a distance well above its bias, where it is not at its minimum.

    >>> found = jackknife(np.var, np.array([1.0, 2.0, 3.0, 4.0]))
    >>> found.value, round(found.value - found.bias, 6)  # that of ddof=1
    (1.25, 1.666667)
    """
    lengths = {len(row) for row in rows}
    n = min(lengths, default=0)
    groups = groups or n
    if len(lengths) != 1 or not 2 <= groups <= n:
        raise ValueError(f"expected arrays of one length n >= 2 and 2..n groups, got lengths {sorted(lengths)} and "
                         f"groups {groups}; take independent sets one at a time")
    group, rows = np.arange(n) % groups, [np.asarray(row) for row in rows]
    values = np.array([statistic(*(row[group != left_out] for row in rows)) for left_out in range(groups)])
    value = float(statistic(*rows))
    return Jackknife(value, float(np.sqrt((groups - 1) * values.var())), float((groups - 1) * (values.mean() - value)))


def jackknife_error(statistic: Callable[..., float], *rows, groups: int | None = None) -> float:
    """Standard error of a statistic of images by the `jackknife`.

    >>> round(jackknife_error(np.mean, np.array([1.0, 2.0, 3.0, 4.0])), 4)
    0.6455
    """
    return jackknife(statistic, *rows, groups=groups).error


def _difference(x, y):
    if x.ndim != 3 or x.shape != y.shape:
        raise ValueError(f"expected two images [h, w, c] of one shape, got {x.shape} and {y.shape}; use vmap for many")
    return x - y


def _same_dimension(a, b):
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"expected features of one dimension d, got {a.shape} and {b.shape}; use the same network")


def _features(features) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"expected features [n, d] of at least 2 images, got shape {features.shape}")
    bad = ~np.isfinite(features).all(1)
    if bad.any():
        raise ValueError(f"features must be finite, those of image {int(bad.argmax())} are not; remove or repair it")
    return features
