"""Distances against NumPy and SciPy, closed forms of Gaussians, and repeated sampling."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.linalg import sqrtm

from purimetry.compression import distances
from purimetry.compression.distances import (
    frechet_distance, frechet_distance_extrapolated, jackknife, jackknife_error, kernel_distance,
)

WINDOWS = {(8, 8, 1): 7, (9, 16, 3): 9, (16, 12, 2): 11}


def pair(shape):
    x, noise = np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32)
    return x, np.clip(x + 0.3 * (noise - 0.5), 0, 1)


@pytest.mark.parametrize("shape", list(WINDOWS))
def test_pixel_distances_equal_numpys(shape):
    x, y = pair(shape)
    gap = (x.astype(np.float64) - y).ravel()
    for function, expected in [
        (distances.l2_distance, np.sqrt(gap @ gap)),
        (distances.linf_distance, np.abs(gap).max()),
        (distances.psnr, -10 * np.log10(np.mean(gap**2))),
    ]:
        assert float(jax.jit(function)(x, y)) == pytest.approx(expected, rel=1e-6)  # float32


def ssim_by_hand(x, y, size):
    """Wang et al. 2004, Eqs. 13 to 15, window by window in float64."""
    at = np.arange(size) - size // 2
    weight = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for i in range(x.shape[0] - size + 1):
        for j in range(x.shape[1] - size + 1):
            for c in range(x.shape[2]):
                a, b = (z[i : i + size, j : j + size, c].astype(np.float64) for z in (x, y))
                mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
                of_a, of_b, of_both = ((weight * u).sum() for u in (
                    (a - mean_a) ** 2, (b - mean_b) ** 2, (a - mean_a) * (b - mean_b)))
                values.append((2 * mean_a * mean_b + 0.01**2) * (2 * of_both + 0.03**2)
                              / ((mean_a**2 + mean_b**2 + 0.01**2) * (of_a + of_b + 0.03**2)))
    return np.mean(values)


@pytest.mark.parametrize("shape, size", list(WINDOWS.items()))
def test_ssim_equals_wangs_formula(shape, size):
    x, y = pair(shape)
    ssim = jax.jit(distances.ssim)
    # float32 variances are differences of squares of order 1, beside the constant 0.03^2: 1e-7 / 1e-3.
    assert float(ssim(x, y)) == pytest.approx(ssim_by_hand(x, y, size), abs=1e-4)
    assert float(ssim(x, x)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["l2_distance", "linf_distance", "psnr", "ssim"])
@pytest.mark.parametrize("other", [(8, 8, 3), (4, 8, 8, 1)])
def test_images_of_different_shapes_are_refused(name, other, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users do not run under the tests' type checker
    with pytest.raises(ValueError, match=r"two images \[h, w, c\] of one shape, got \(8, 8, 1\)"):
        getattr(distances, name)(jnp.ones((8, 8, 1)), jnp.ones(other))


def test_cosine_distance_is_accurate_for_small_angles():
    distance = jax.jit(distances.cosine_distance)
    for angle in (1e-4, 1e-2, 1.0, np.pi):
        a, b = np.array([2.0, 0.0]), 3 * np.float32([np.cos(angle), np.sin(angle)])
        assert float(distance(a, b)) == pytest.approx(2 * np.sin(angle / 2) ** 2, rel=1e-3)


def with_moments(mean, root, n=60, seed=0):
    """Features whose sample mean is `mean` and whose sample covariance is root^T root, exactly."""
    white = np.random.default_rng(seed).normal(size=(n, len(mean)))
    white -= white.mean(0)
    white = np.linalg.qr(white)[0] * np.sqrt(n - 1)
    return mean + white @ root


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_frechet_distance_of_commuting_gaussians_is_that_of_their_deviations():
    """(m_a - m_b)^2 + sum (s_a - s_b)^2 when both covariances have the same eigenvectors."""
    axes, spread_a, spread_b = np.linalg.qr(drawn(4, 4))[0], np.array([1.0, 2, 0.1, 0]), np.array([3.0, 2, 0, 0.5])
    mean_a, mean_b = drawn(2, 4, seed=1)
    a, b = (with_moments(m, s[:, None] * axes, n) for m, s, n in ((mean_a, spread_a, 60), (mean_b, spread_b, 30)))
    expected = ((mean_a - mean_b) ** 2).sum() + ((spread_a - spread_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_equals_the_one_with_scipys_matrix_root():
    a, b = drawn(80, 6) @ drawn(6, 6, seed=1), 0.5 + drawn(50, 6, seed=2) @ drawn(6, 6, seed=3)
    of_a, of_b = np.cov(a.T), np.cov(b.T)
    root = sqrtm(of_a @ of_b)
    assert np.abs(np.imag(root)).max() < 1e-9
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(of_a + of_b - 2 * np.real(root))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_with_fewer_images_than_features_does_not_depend_on_the_embedding():
    """Rows of 4 dimensions, turned into 90: an isometry, so nothing may change although n < d."""
    a, b = drawn(40, 4), 1 + 2 * drawn(25, 4, seed=1)
    isometry = np.linalg.qr(drawn(90, 4, seed=2))[0].T
    assert frechet_distance(a @ isometry, b @ isometry) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_distance_is_biased_upward_and_the_extrapolation_is_not():
    """Two samples of one Gaussian, whose distance is 0: by standard errors over 200 repetitions."""
    samples = [drawn(2, 100, 4, seed=seed) for seed in range(200)]
    plain, extrapolated = (np.array([f(*pair) for pair in samples])
                           for f in (frechet_distance, partial(frechet_distance_extrapolated, subsets=4)))
    error = lambda values: values.std(ddof=1) / np.sqrt(len(values))
    assert plain.mean() > 20 * error(plain)
    assert abs(extrapolated.mean()) < 4 * error(extrapolated)


def test_extrapolation_keeps_images_and_their_purified_versions_together():
    """Moved by one vector: the covariances of every subset stay equal, so each distance is the shift's."""
    a = drawn(50, 3)
    assert frechet_distance_extrapolated(a, a + [0.0, 3, 4]) == pytest.approx(25, rel=1e-9)


def test_kernel_distance_is_that_of_the_cubic_features():
    """Its square is |E phi(a) - E phi(b)|^2 with phi the monomials of (x, 1) up to degree 3; n is large."""
    a, b = drawn(4000, 2), 0.7 * drawn(4000, 2, seed=1) + [0.5, -0.2]

    def lifted(x):
        one = np.concatenate([x / np.sqrt(2), np.ones((len(x), 1))], 1)
        return np.einsum("ni,nj,nk->nijk", one, one, one).reshape(len(x), -1)

    expected = ((lifted(a).mean(0) - lifted(b).mean(0)) ** 2).sum()
    # What is left is the diagonal of the means, E k(x, x) / n of both sets: 16 / 4000.
    assert kernel_distance(a, b) == pytest.approx(expected, abs=0.02)
    assert kernel_distance(a[:50], b) == pytest.approx(kernel_distance(b, a[:50]), rel=1e-12)


def test_kernel_distance_is_unbiased_where_there_are_fewer_images_than_features():
    """Over 300 pairs of 10 images of 20 features: 0 for one distribution, the same as of many images for two."""
    error = lambda values: np.std(values, ddof=1) / np.sqrt(len(values))
    pairs = [(drawn(10, 20, seed=seed), drawn(10, 20, seed=1000 + seed)) for seed in range(300)]
    same, other = [kernel_distance(a, b) for a, b in pairs], [kernel_distance(a, 1.5 * b) for a, b in pairs]
    assert abs(np.mean(same)) < 4 * error(same)
    many = kernel_distance(drawn(3000, 20, seed=1), 1.5 * drawn(3000, 20, seed=2))
    assert abs(np.mean(other) - many) < 4 * error(other) + 0.02  # 3000 images know the distance to 0.005
    paired = [kernel_distance(a, 1.5 * a) for a, _ in pairs]
    assert abs(np.mean(paired) - many) < 4 * error(paired) + 0.02


def test_jackknife_removes_a_bias_of_order_one_over_n():
    values = drawn(30)
    found = jackknife(np.var, values)
    assert found.value - found.bias == pytest.approx(np.var(values, ddof=1), rel=1e-12)
    assert jackknife(np.mean, values).bias == pytest.approx(0, abs=1e-12)


def test_jackknife_error_of_a_mean_is_its_standard_error():
    values = drawn(40)
    assert jackknife_error(np.mean, values) == pytest.approx(values.std(ddof=1) / np.sqrt(40), rel=1e-12)
    means = values.reshape(8, 5).mean(0)  # 5 groups of every fifth value
    assert jackknife_error(np.mean, values, groups=5) == pytest.approx(means.std(ddof=1) / np.sqrt(5), rel=1e-12)


def test_jackknife_error_of_the_frechet_distance_is_its_spread_over_repetitions():
    """Paired samples: the root mean square of 40 jackknife errors against the deviation of 400 repetitions."""
    def sample(seed):
        a = drawn(150, 3, seed=seed)
        return a, 1 + 1.5 * a + 0.3 * drawn(150, 3, seed=1000 + seed)

    spread = np.std([frechet_distance(*sample(seed)) for seed in range(400)], ddof=1)
    errors = [jackknife_error(frechet_distance, *sample(seed), groups=30) for seed in range(40)]
    # A deviation of 400 is known to 3.5 %, a mean square of 40 errors of 29 degrees of freedom to 3 %: 4 of both.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.18)


@pytest.mark.parametrize("a, b, message", [
    (np.ones((1, 3)), np.ones((9, 3)), r"features \[n, d\] of at least 2 images, got shape \(1, 3\)"),
    (np.ones(5), np.ones((9, 3)), r"got shape \(5,\)"),
    (np.ones((9, 3)), np.ones((8, 2)), r"one dimension d, got \(9, 3\) and \(8, 2\)"),
    (np.ones((9, 3)), np.array([[1.0, 2, 3], [np.nan, 0, 0]]), "those of image 1 are not"),
])
def test_features_that_cannot_be_compared_are_refused(a, b, message):
    for function in (frechet_distance, frechet_distance_extrapolated, kernel_distance):
        with pytest.raises(ValueError, match=message):
            function(a, b)


@pytest.mark.parametrize("n, subsets", [(7, 8), (20, 1)])
def test_extrapolation_needs_subsets_that_differ(n, subsets):
    with pytest.raises(ValueError, match="at least 2 subsets of at least 8 images"):
        frechet_distance_extrapolated(drawn(n, 2), drawn(20, 2), subsets)


@pytest.mark.parametrize("rows, groups", [([np.ones(4), np.ones(5)], None), ([np.ones(1)], None), ([], None),
                                          ([np.ones(4)], 5), ([np.ones(4)], 1)])
def test_jackknife_refuses_what_it_cannot_leave_out(rows, groups):
    with pytest.raises(ValueError, match="arrays of one length n >= 2"):
        jackknife_error(lambda *rows: 0.0, *rows, groups=groups)
