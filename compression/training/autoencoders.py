"""Training losses of autoencoders with a noisy latent: reconstruction alone, and what keeps sigma from collapsing.

Reconstruction alone has no optimal sigma: the less noise, the better (sigma -> 0), and the same is reached by scaling
E up and D down at any sigma. The document trains sigma without saying by what. We add a rate: the nats that z tells
about x to one who expects z ~ N(0, 1),

    R(x) = KL(N(E(x), sigma^2) || N(0, 1)) = sum (E(x)^2 + sigma^2 - 1 - log sigma^2) / 2,

so that the latent is a Gaussian channel of unit power, in which sigma means something. Distortion + 2 s^2 rate is,
up to a factor and a constant, the negative evidence bound (ELBO) of a decoder that is right up to a standard
deviation s per pixel, so it is the VAE's objective too: ALP is a VAE whose posterior has one sigma for all images.

For linear E and D and Gaussian images its optimum is known: s over the mean standard deviation of the k principal
directions (`theory.linear_autoencoder`), and is reached from any start.
"""

from functools import cache

import jax.numpy as jnp

from ..networks.autoencoder import Posterior
from ..networks.pure import Network
from ..purifiers.autoencoder import draw
from ..types import Image, Key, Label, Scalar
from .loop import ImageLoss

VERSION = 1
"""Raise it when a change makes the same recipe train another network."""


def reconstruction(network: Network, x: Image, label: Label, key: Key) -> Scalar:
    """Mean squared error per pixel of D(E(x) + sigma xi), not clipped; drives a learned sigma to 0."""
    module = network.module
    return jnp.mean((module.decode(draw(module.encode(x), key)) - x) ** 2)


@cache
def distortion_rate(pixel_noise: float) -> ImageLoss:
    """mean (x - D(z))^2 + 2 s^2 R(x) / d, the objective of ALP and of a VAE.

    pixel_noise: s > 0, in pixel units: the error that counts as half a nat per pixel. The larger, the more noise and
        compression; at 0 it would be `reconstruction`. Equal ones are one function, so that trainings share programs.

    >>> import jax
    >>> from flax import nnx
    >>> import purimetry as pm
    >>> network = pm.pure(pm.Autoencoder((8, 8, 1), channels=(4,), rngs=nnx.Rngs(0)))
    >>> x, label, key = jnp.zeros((8, 8, 1)), jnp.int32(0), jax.random.key(0)
    >>> bool(distortion_rate(0.1)(network, x, label, key) > reconstruction(network, x, label, key))
    True
    """
    if not 0 < pixel_noise <= 1:
        raise ValueError(f"pixel_noise is a standard deviation in pixel units in (0, 1], got {pixel_noise}; 0.05 is "
                         "an error of 26 dB, and without a rate take `reconstruction`")

    def loss(network: Network, x: Image, label: Label, key: Key) -> Scalar:
        module = network.module
        posterior = module.encode(x)
        distortion = jnp.mean((module.decode(draw(posterior, key)) - x) ** 2)
        return distortion + 2 * pixel_noise**2 * rate(posterior) / x.size

    return loss


def rate(posterior: Posterior) -> Scalar:
    """KL(N(mean, sigma^2) || N(0, 1)) in nats, summed over the latent; infinite where sigma is 0.

    >>> float(rate(Posterior(jnp.ones((1, 1, 2)), jnp.ones(()))))
    1.0
    """
    mean, sigma = posterior.mean, jnp.broadcast_to(posterior.sigma, posterior.mean.shape)
    return jnp.sum(mean**2 + sigma**2 - 1 - 2 * jnp.log(sigma)) / 2
