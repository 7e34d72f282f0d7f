"""Purification by an autoencoder whose latent is noisy: ALP, its limit without noise, MagNet's reformer, and VAEs.

ALP's noise layer z = E(x) + sigma xi is differentiable in x with xi held, as every purifier here: whether its noise
masks gradients is a question to measurements, not a property (against alp Sec. Methodology B).
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from .. import randomness
from ..callables import as_pytree
from ..networks.autoencoder import Latent, Posterior, check_sigma
from ..networks.pure import Network
from ..types import Image, Key, Purifier

Sigma = float | int | Float[np.ndarray | Array, "*latent"]


def autoencoder(
    encode: Callable[[Image], Latent], decode: Callable[[Latent], Image], sigma: Sigma = 0.0
) -> Purifier:
    """The purifier x -> clip(D(E(x) + sigma xi)) of any encoder and decoder (alp Eqs. 1, 2).

    encode, decode: of one image in [0, 1] and one latent, of any shape. sigma: >= 0, one number or one a channel of
        the latent; 0 is the deterministic autoencoder.

    >>> import jax.numpy as jnp, purimetry as pm
    >>> purifier = autoencoder(lambda x: x, lambda z: z, sigma=0.1)
    >>> x, xi = jnp.full((8, 8, 1), 0.5), pm.configuration(seed=0, index=0)
    >>> bool((purifier(x, xi) == purifier(x, xi)).all()), round(float(purifier(x, xi).std()), 1)
    (True, 0.1)
    """
    check_sigma(sigma)
    return _with_sigma(as_pytree(encode), as_pytree(decode), sigma)


def alp(network: Network, sigma: Sigma | None = None) -> Purifier:
    """The Asymmetric Latent Purifier of a trained `networks.autoencoder.Autoencoder`.

    sigma: in place of the network's own, >= 0, one number or one a channel. A sweep over it does not recompile.

    >>> import purimetry as pm
    >>> from flax import nnx
    >>> network = pm.pure(pm.Autoencoder((8, 8, 1), latent=64, channels=(4, 8), rngs=nnx.Rngs(0)))
    >>> alp(network, sigma=0.5)(jnp.full((8, 8, 1), 0.5), pm.configuration(seed=0, index=0)).shape
    (8, 8, 1)
    """
    module = network.module
    if sigma is not None:
        check_sigma(sigma, module.decoder.grow[0].in_features)
    elif not hasattr(module, "sigma"):
        raise TypeError(f"{type(module).__name__} has no sigma of its own; give one, or purify by `vae`")
    return _with_sigma(Partial(_mean, network), Partial(_decode, network), module.sigma if sigma is None else sigma)


def reformer(network: Network) -> Purifier:
    """The deterministic autoencoder D(E(x)): MagNet's reformer (Meng and Chen 2017, Sect. 4.3), ALP at sigma = 0.

    Of a `Variational` network it purifies by the posterior's mean. Its detector is in `compression.detectors`.
    """
    return alp(network, 0.0)


def vae(network: Network) -> Purifier:
    """Purify by a draw from a VAE's posterior, D(mean + sigma(x) xi); by its mean: `reformer`.

    network: of a trained `networks.autoencoder.Variational`, or anything whose `encode` gives a `Posterior`.
    """
    return Partial(_purify, Partial(_encode, network), Partial(_decode, network))


def _with_sigma(encode, decode, sigma) -> Purifier:
    return Partial(_purify, Partial(_shared, encode, jnp.asarray(sigma, jnp.float32)), decode)


def _purify(encode: Callable[[Image], Posterior], decode, x: Image, key: Key) -> Image:
    return jnp.clip(decode(draw(encode(x), key)), 0, 1)


def draw(posterior: Posterior, key: Key) -> Latent:
    """z = mean + sigma xi; the noise is that of the key's direction LATENT, and so apart from any other purifier's."""
    noise = randomness.normal(randomness.step_key(key, randomness.LATENT, 0), posterior.mean)
    return posterior.mean + posterior.sigma * noise


def _shared(encode, sigma, x: Image) -> Posterior:
    mean = encode(x)
    return Posterior(mean, sigma.astype(mean.dtype))


def _encode(network: Network, x: Image) -> Posterior:
    return network.module.encode(x)


def _mean(network: Network, x: Image) -> Latent:
    return _encode(network, x).mean


def _decode(network: Network, z: Latent) -> Image:
    return network.module.decode(z)
