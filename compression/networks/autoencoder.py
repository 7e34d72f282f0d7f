"""Convolutional autoencoders whose latent is noisy (alp Eqs. 1, 2): with one noise for all images, or a VAE's."""

from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..types import Image
from .convolution import Convolution, depth_to_space, space_to_depth
from .normalisation import GroupNorm

VERSION = 1
"""Raise it when a change makes old weights mean another function."""

PACE = 10.0
"""How much faster than a weight a learned log sigma moves. Adam moves each weight by at most about the learning rate a
step, which would not take sigma from 2 to 0.2 within a short training."""

Latent = Float[Array, "rows columns latent"]


class Posterior(NamedTuple):
    """z ~ N(mean, sigma^2), independently in every place and channel of the latent; sigma broadcasts to the mean."""

    mean: Latent
    sigma: Float[Array, "*any"]


class Residual(nnx.Module):
    """x + conv(silu(norm(x))), so that an image's brightness passes the normalisation by."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm, self.conv = GroupNorm(width, rngs=rngs), Convolution(width, width, rngs=rngs)

    def __call__(self, x):
        return x + self.conv(nnx.silu(self.norm(x)))


class Encoder(nnx.Module):
    """Pixels [h, w, c] in [0, 1] to [h / 2^levels, w / 2^levels, c_out]; the change to [-1, 1] is inside."""

    def __init__(self, c_image: int, channels: tuple[int, ...], c_out: int, blocks: int, *, rngs: nnx.Rngs):
        self.inward = Convolution(c_image, channels[0], rngs=rngs)
        self.levels = nnx.List(nnx.List(Residual(width, rngs) for _ in range(blocks)) for width in channels)
        self.shrink = nnx.List(nnx.Linear(4 * a, b, rngs=rngs) for a, b in pairwise((*channels, c_out)))

    def __call__(self, x: Image) -> Latent:
        x = self.inward(2 * x - 1)
        for blocks, shrink in zip(self.levels, self.shrink, strict=True):
            for block in blocks:
                x = block(x)
            x = shrink(space_to_depth(x))
        return x


class Decoder(nnx.Module):
    """The encoder's mirror: a latent to pixels around [0, 1], not clipped."""

    def __init__(self, c_image: int, channels: tuple[int, ...], latent: int, blocks: int, *, rngs: nnx.Rngs):
        widths = (latent, *reversed(channels))
        self.grow = nnx.List(nnx.Linear(a, 4 * b, rngs=rngs) for a, b in pairwise(widths))
        self.levels = nnx.List(nnx.List(Residual(width, rngs) for _ in range(blocks)) for width in widths[1:])
        self.norm = GroupNorm(channels[0], rngs=rngs)
        self.outward = Convolution(channels[0], c_image, rngs=rngs)

    def __call__(self, z: Latent) -> Image:
        for grow, blocks in zip(self.grow, self.levels, strict=True):
            z = depth_to_space(grow(z))
            for block in blocks:
                z = block(z)
        return (self.outward(nnx.silu(self.norm(z))) + 1) / 2


class Autoencoder(nnx.Module):
    """ALP's network: encoder, decoder and a sigma that is the same for all images (alp Sec. Methodology A).

    shape: of the image, [h, w, c]; sides divisible by the stride 2^levels, a level for each of `channels`.
    latent: channels of the latent [h / stride, w / stride, latent]; the document has 64, and 512 for a "wide" one.
    sigma: standard deviation of the noise in the latent, one number or one a channel, >= 0; where learned, its start.
    learned: whether training changes sigma, which then is > 0.
    channels: width of each level. blocks: residual blocks a level, in encoder and decoder.

    Called with an image it gives D(E(x)), not clipped. `purifiers.autoencoder.alp` makes the purifier of it.

    >>> import jax
    >>> network = Autoencoder((8, 8, 1), latent=64, sigma=0.5, channels=(4, 8), rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((8, 8, 1))).shape, network.encode(jnp.zeros((8, 8, 1))).mean.shape
    ((8, 8, 1), (2, 2, 64))
    """

    def __init__(
        self, shape: tuple[int, int, int], latent: int = 64, sigma: float | tuple[float, ...] = 0.5,
        learned: bool = True, channels: tuple[int, ...] = (16, 32, 64), blocks: int = 1, *, rngs: nnx.Rngs,
    ):
        _check_sizes(shape, latent, channels, blocks)
        check_sigma(sigma, latent)
        if learned and np.min(sigma) <= 0:
            raise ValueError(f"a learned sigma starts above 0, got {sigma}; start at 0.5, or set learned=False")
        self.encoder = Encoder(shape[-1], channels, latent, blocks, rngs=rngs)
        self.decoder = Decoder(shape[-1], channels, latent, blocks, rngs=rngs)
        self.log_sigma = nnx.Param(jnp.log(jnp.asarray(sigma, jnp.float32)) / PACE) if learned else None
        self.fixed_sigma = None if learned else sigma

    @property
    def sigma(self) -> Float[Array, "*latent"]:
        """Standard deviation of the noise: one number, or one a channel."""
        if self.log_sigma is None:
            return jnp.asarray(self.fixed_sigma, jnp.float32)
        return jnp.exp(PACE * self.log_sigma[...])

    def encode(self, x: Image) -> Posterior:
        """E(x), and sigma."""
        mean = self.encoder(x)
        return Posterior(mean, self.sigma.astype(mean.dtype))

    def decode(self, z: Latent) -> Image:
        """D(z), around [0, 1]."""
        return self.decoder(z)

    def __call__(self, x: Image) -> Image:
        return self.decode(self.encode(x).mean)


class Variational(nnx.Module):
    """A variational autoencoder (Kingma and Welling 2014): sigma is the encoder's, anew for every image and place.

    Arguments and methods as of `Autoencoder`; the encoder gives mean and log variance, `latent` channels each.

    >>> posterior = Variational((8, 8, 1), latent=3, channels=(4,), rngs=nnx.Rngs(0)).encode(jnp.zeros((8, 8, 1)))
    >>> posterior.mean.shape, posterior.sigma.shape
    ((4, 4, 3), (4, 4, 3))
    """

    def __init__(
        self, shape: tuple[int, int, int], latent: int = 64, channels: tuple[int, ...] = (16, 32, 64),
        blocks: int = 1, *, rngs: nnx.Rngs,
    ):
        _check_sizes(shape, latent, channels, blocks)
        self.encoder = Encoder(shape[-1], channels, 2 * latent, blocks, rngs=rngs)
        self.decoder = Decoder(shape[-1], channels, latent, blocks, rngs=rngs)

    def encode(self, x: Image) -> Posterior:
        """Mean and standard deviation of z given x."""
        mean, log_variance = jnp.split(self.encoder(x), 2, -1)
        return Posterior(mean, jnp.exp(log_variance / 2))

    def decode(self, z: Latent) -> Image:
        """D(z), around [0, 1]."""
        return self.decoder(z)

    def __call__(self, x: Image) -> Image:
        return self.decode(self.encode(x).mean)


def check_sigma(sigma, latent: int | None = None) -> None:
    """Raise unless sigma is finite, >= 0, and one number or one for each of the latent's channels."""
    values = np.asarray(sigma)
    if values.ndim > 1 or (latent is not None and values.ndim == 1 and values.shape != (latent,)):
        raise ValueError(f"sigma is one number or one a channel, shape ({latent or 'latent'},), got shape "
                         f"{values.shape}; average it over images and places")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"sigma is a standard deviation, finite and >= 0, got {sigma}")


def _check_sizes(shape, latent, channels, blocks) -> None:
    if latent < 1 or blocks < 0 or not channels or min(channels) < 1:
        raise ValueError(f"an autoencoder needs latent >= 1, blocks >= 0 and a width >= 1 for each of at least one "
                         f"level, got latent = {latent}, blocks = {blocks}, channels = {channels}")
    stride = 2 ** len(channels)
    if shape[0] % stride or shape[1] % stride:
        raise ValueError(f"image sides must be divisible by {stride}, got {shape}; use fewer levels (channels)")
