"""Linear autoencoders of Gaussian images in closed form: PCA, and what noise in the latent makes of it.

Without noise the best rank k is the projection on the k principal directions (Baldi and Hornik 1989): gain 1 there
and 0 elsewhere, so isotropic perturbations are compressed to sqrt(k / d) in root mean square.

With noise sigma xi in the latent and the objective E |x - D(z)|^2 / (2 s^2) + KL(N(E(x), sigma^2) || N(0, 1))
(`compression.training.autoencoders`, in units of its weight), directions separate. With r_i = sqrt(lambda_i) / s:

- for given sigma_i, direction i is kept if r_i > sigma_i, with gain 1 - sigma_i / r_i, else it is dropped;
- what is left to minimise is convex: the sum over i of r_i sigma_i - 1/2 - log sigma_i of those that are kept and
  (r_i^2 + sigma_i^2 - 1) / 2 - log sigma_i of those that are not;
- one sigma a channel: sigma_i = min(1 / r_i, 1), and the gain is 1 - s^2 / lambda_i, as in probabilistic PCA;
- one sigma for all: the root of sum sigma max(r_i, sigma) = k. If all are kept it is **s over the mean of their
  standard deviations** sqrt(lambda_i), the rate is k log(1 / sigma) nats and direction i's error s^2 r_i sigma, which
  is s^2 on average over the k, and more where images vary more. Sigma goes to 0 with s in proportion, and
  reconstruction alone is the limit s -> 0.

Images are in the diffusion's range [-1, 1], where s is twice `pixel_noise`; gains and rates are the same in pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ..compression.types import Image
from .gaussian import AffineMap, Gaussian


class LinearAutoencoder(NamedTuple):
    """z_i = encoder_i v_i . (x - mu) + sigma_i xi_i and D(z) = mu + sum decoder_i z_i v_i, v_i principal directions.

    encoder, decoder, sigma: [k], in order of falling variance.
    """

    data: Gaussian
    encoder: Float[np.ndarray, "k"]
    decoder: Float[np.ndarray, "k"]
    sigma: Float[np.ndarray, "k"]

    @property
    def purification(self) -> AffineMap:
        """x -> D(z) in the range [-1, 1], with its spectrum: rates, their means, and the variances of Eq. 7."""
        gains, noise = (_all(self.data, kept) for kept in (self.encoder * self.decoder,
                                                           (self.decoder * self.sigma) ** 2))
        mean, vectors = self.data.mean.reshape(-1), self.data.directions
        offset = mean - vectors @ (gains * (vectors.T @ mean))
        return AffineMap(gains, vectors, offset, noise)

    @property
    def squared_error(self) -> float:
        """E |x - D(z)|^2 over images and noise, summed over pixels, in the range [-1, 1]."""
        purification = self.purification
        return float(((1 - purification.gains) ** 2 * self.data.variances + purification.noise).sum())

    @property
    def rate(self) -> float:
        """E KL(N(E(x), sigma^2) || N(0, 1)) in nats; infinite without noise."""
        power = self.encoder**2 * principal_variances(self.data, len(self.sigma)) + self.sigma**2
        with np.errstate(divide="ignore"):
            return float((power - 1 - 2 * np.log(self.sigma)).sum() / 2)

    @property
    def encode(self) -> Callable[[Image], Float[Array, "1 1 k"]]:
        """E of pixels in [0, 1], a pytree for `purifiers.autoencoder.autoencoder`."""
        return Partial(_encode, self.data.mean, self.encoder * _principal(self.data, len(self.encoder)))

    @property
    def decode(self) -> Callable[[Float[Array, "1 1 k"]], Image]:
        """D to pixels, not clipped."""
        return Partial(_decode, self.data.mean, self.decoder * _principal(self.data, len(self.decoder)))


def pca(data: Gaussian, k: int) -> LinearAutoencoder:
    """The best rank-k reconstruction, without noise: the projection on the k principal directions.

    >>> from .gaussian import gaussian
    >>> found = pca(gaussian(np.zeros((1, 4, 1)), np.diag([4.0, 3.0, 2.0, 1.0])), 1)
    >>> found.purification.spectrum.rms_rate, found.squared_error  # sqrt(1 / 4); 3 + 2 + 1
    (0.5, 6.0)
    """
    _check(data, k)
    return LinearAutoencoder(data, np.ones(k), np.ones(k), np.zeros(k))


def noisy(data: Gaussian, k: int, pixel_noise: float, sigma: float | np.ndarray | None = None) -> LinearAutoencoder:
    """The optimum with noise of given sigma in the latent; of the learned sigma if it is None.

    sigma: > 0, one number or one for each of the k principal directions in order of falling variance.
    pixel_noise: s > 0 of the objective, in pixel units.

    >>> from .gaussian import gaussian
    >>> found = noisy(gaussian(np.zeros((1, 2, 1)), np.diag([4.0, 1.0])), 2, pixel_noise=0.1)
    >>> found.sigma.round(4).tolist()  # 0.2 / 1.5
    [0.1333, 0.1333]
    """
    ratio = _ratio(data, k, pixel_noise)
    sigma = np.broadcast_to(learned_sigma(data, k, pixel_noise) if sigma is None else sigma, k).astype(np.float64)
    if not (sigma > 0).all():
        raise ValueError(f"the objective's rate needs sigma > 0, got {sigma.min():g}; without noise take `pca`")
    s, kept = 2 * pixel_noise, np.maximum(ratio / sigma - 1, 0)
    return LinearAutoencoder(data, np.sqrt(kept) / (s * (kept + 1)), s * np.sqrt(kept), sigma)


def learned_sigma(data: Gaussian, k: int, pixel_noise: float) -> float:
    """The optimal sigma that all k channels share: the root of sum sigma max(r_i, sigma) = k.

    >>> from .gaussian import gaussian
    >>> round(learned_sigma(gaussian(np.zeros((1, 2, 1)), np.diag([4.0, 1.0])), 2, pixel_noise=0.1), 4)
    0.1333
    """
    ratio = _ratio(data, k, pixel_noise)
    kept = np.array([r * np.maximum(ratio, r).sum() > k for r in ratio])  # the left side at r, for it grows with sigma
    total = ratio[kept].sum()
    return float(2 * k / (total + np.sqrt(total**2 + 4 * k * (~kept).sum())))


def learned_sigmas(data: Gaussian, k: int, pixel_noise: float) -> Float[np.ndarray, "k"]:
    """The optimal sigma of each of the k channels, min(s / sqrt(lambda_i), 1); 1 is a channel that tells nothing."""
    return 1 / np.maximum(_ratio(data, k, pixel_noise), 1)


def principal_variances(data: Gaussian, k: int) -> Float[np.ndarray, "k"]:
    """The k largest variances, falling."""
    return data.variances[np.argsort(-data.variances)[:k]]


def _ratio(data, k, pixel_noise):
    _check(data, k)
    if not pixel_noise > 0:
        raise ValueError(f"pixel_noise is a standard deviation in pixel units > 0, got {pixel_noise}; at 0 take `pca`")
    return np.sqrt(principal_variances(data, k)) / (2 * pixel_noise)


def _check(data, k):
    if not 1 <= k <= len(data.variances):
        raise ValueError(f"a latent of 1..{len(data.variances)} channels has an optimum here, got k = {k}")


def _principal(data, k):
    return data.directions[:, np.argsort(-data.variances)[:k]]


def _all(data, kept):
    """Values of the k principal directions as values of all, 0 elsewhere."""
    values = np.zeros(len(data.variances))
    values[np.argsort(-data.variances)[: len(kept)]] = kept
    return values


def _encode(mean, vectors, x):
    mean, vectors = (jnp.asarray(value, x.dtype) for value in (mean, vectors))
    return ((2 * x - 1 - mean).reshape(-1) @ vectors).reshape(1, 1, -1)


def _decode(mean, vectors, z):
    mean, vectors = (jnp.asarray(value, z.dtype) for value in (mean, vectors))
    return (mean + (vectors @ z.reshape(-1)).reshape(mean.shape) + 1) / 2
