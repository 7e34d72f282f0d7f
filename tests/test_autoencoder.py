"""Autoencoder purifiers and their objective: limits, finite differences, the rate as a divergence, what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

import purimetry as pm
from purimetry.compression import batches, randomness
from purimetry.compression.data.dataset import Bytes, Dataset
from purimetry.compression.networks.autoencoder import Posterior
from purimetry.compression.networks.pure import blueprint
from purimetry.compression.purifiers.autoencoder import draw
from purimetry.compression.training import autoencoders
from purimetry.experiments import models
from purimetry.experiments.configuration import Training

SHAPE, KEY = (8, 8, 1), pm.configuration(0, 0)
IMAGES = np.random.default_rng(0).uniform(0.2, 0.8, (3, *SHAPE)).astype(np.float32)
KEYS = pm.configurations(0, np.arange(3))
SIZES = dict(latent=6, channels=(4, 8))
ALP, VAE = jax.jit(lambda: (
    pm.pure(pm.Autoencoder(SHAPE, sigma=0.5, rngs=nnx.Rngs(0), **SIZES)),
    pm.pure(pm.Variational(SHAPE, rngs=nnx.Rngs(0), **SIZES)),
))()


@pytest.mark.parametrize("network", [ALP, VAE], ids=["alp", "vae"])
def test_without_noise_it_is_the_deterministic_autoencoder(network):
    """Bit for bit, whatever xi is."""
    still = pm.purify(pm.alp(network, 0.0), IMAGES, KEYS)
    np.testing.assert_array_equal(still, pm.purify(pm.reformer(network), IMAGES, KEYS[::-1]))
    plain = jax.jit(jax.vmap(lambda network, x: jnp.clip(network(x), 0, 1), (None, 0)))(network, IMAGES)
    np.testing.assert_allclose(still, plain, atol=1e-6)  # float32, other fusions


@pytest.mark.parametrize("purifier, network", [(pm.alp(ALP), ALP), (pm.vae(VAE), VAE)], ids=["alp", "vae"])
def test_the_noise_in_the_latent_is_sigma_xi(purifier, network):
    """Eqs. 1 and 2, with the noise of the key's own direction."""

    @jax.jit
    def by_hand(network, x, key):
        mean, sigma = network.module.encode(x)
        xi = jax.random.normal(randomness.step_key(key, randomness.LATENT, 0), mean.shape)
        return mean, sigma, jnp.clip(network.module.decode(mean + sigma * xi), 0, 1)

    mean, sigma, expected = by_hand(network, IMAGES[0], KEY)
    np.testing.assert_allclose(jax.jit(purifier)(IMAGES[0], KEY), expected, atol=1e-6)
    assert sigma.shape == (() if network is ALP else mean.shape)


@pytest.mark.parametrize("make, network", [(pm.alp, ALP), (pm.vae, VAE)], ids=["alp", "vae"])
def test_its_gradient_is_that_of_finite_differences_with_xi_held(make, network):
    """So the noise layer is differentiable in x, against the document."""
    with jax.enable_x64(True):
        exact = network.with_state(jax.tree.map(np.float64, network.state))
        x, direction, weights = np.random.default_rng(1).uniform(size=(3, *SHAPE))
        loss = jax.jit(lambda x, purifier: (weights * jnp.tanh(purifier(x, KEY))).sum())
        up, down = (float(loss(x + step * direction, make(exact))) for step in (1e-6, -1e-6))
        slope = (up - down) / 2e-6
        assert abs(slope) > 1e-4
        gradient = np.asarray(jax.jit(jax.grad(loss))(x, make(exact)))
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6)


def test_sigma_is_one_number_or_one_a_channel():
    each = tuple(np.linspace(0.1, 0.6, 6).tolist())
    for learned in (True, False):
        network = jax.jit(lambda learned=learned: pm.pure(
            pm.Autoencoder(SHAPE, 6, each, learned, (4, 8), rngs=nnx.Rngs(0))))()
        np.testing.assert_allclose(network.module.sigma, each, rtol=1e-6)
        assert len(jax.tree.leaves(network)) == len(jax.tree.leaves(ALP)) - (not learned)
    purifiers = pm.alp(network), pm.alp(ALP, np.asarray(each))
    np.testing.assert_array_equal(*(pm.purify(purifier, IMAGES, KEYS) for purifier in purifiers))


def test_a_sweep_over_sigma_is_one_program():
    pm.purify(pm.alp(ALP, 0.0), IMAGES, KEYS)
    before = batches._over_shard._cache_size()
    for sigma in (0.5, 1, 2.0):
        pm.purify(pm.alp(ALP, sigma), IMAGES, KEYS)
    assert batches._over_shard._cache_size() == before


@pytest.mark.parametrize("shape, channels, latent, inner", [
    ((8, 8, 1), (16, 32, 64), 64, (1, 1, 64)), ((32, 32, 3), (16, 32), 64, (8, 8, 64)),
    ((32, 48, 3), (16, 32, 64), 512, (4, 6, 512)), ((6, 4, 2), (3,), 1, (3, 2, 1)),
])
def test_any_width_and_any_side_that_the_stride_divides(shape, channels, latent, inner):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    for build in (pm.Autoencoder, pm.Variational):
        network = blueprint(partial(build, shape, latent, channels=channels))
        posterior = jax.eval_shape(lambda n, x: n.encode(x), network, image)
        assert posterior.mean.shape == inner
        assert jax.eval_shape(lambda n, x: n(x), network, image).shape == shape


@pytest.mark.parametrize("draws", [5, 20])
def test_the_variance_of_an_ensemble_falls_as_one_over_its_draws(draws):
    """Over 1,000 xi, within 4 standard errors of a ratio of two variances."""
    n = 1000
    purifier = pm.autoencoder(lambda x: x, lambda z: z, 0.05)
    weights = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    decide = lambda draws: pm.ensemble_classifier(lambda x: x.ravel() @ weights, purifier, draws, pm.mean_of_logits)
    x, keys = np.full((2, 2, 1), 0.5), pm.configurations(0, np.arange(n))
    one, many = (np.asarray(jax.jit(jax.vmap(decide(k), (None, 0)))(x, keys))[:, 0].var() for k in (1, draws))
    assert abs(draws * many / one - 1) < 4 * np.sqrt(2 * 2 / n)


POSTERIOR = Posterior(np.float32([[[0.5, -1.0, 0.1]]]), np.float32([0.3, 0.8, 1.5]))


def test_the_rate_is_the_divergence_from_the_prior():
    """E log N(z; mean, sigma^2) - log N(z; 0, 1) over 20,000 draws, within 4 standard errors."""
    rate, draws = jax.jit(autoencoders.rate), jax.jit(jax.vmap(draw, (None, 0)))
    z = np.asarray(draws(POSTERIOR, pm.configurations(0, np.arange(20_000))))
    log_normal = lambda z, mean, sigma: -(((z - mean) / sigma) ** 2) / 2 - np.log(sigma)
    values = (log_normal(z, *POSTERIOR) - log_normal(z, 0, 1)).sum((1, 2, 3))
    assert abs(values.mean() - float(rate(POSTERIOR))) < 4 * values.std() / np.sqrt(len(values))
    assert float(rate(Posterior(np.zeros((2, 2, 3)), 1.0))) == 0
    assert float(rate(Posterior(np.zeros((2, 2, 3)), 0.0))) == np.inf


@pytest.mark.parametrize("network", [ALP, VAE], ids=["alp", "vae"])
def test_the_objective_is_the_evidence_bound(network):
    """-ELBO = -E log N(x; D(z), s^2) + KL = d objective / (2 s^2) + d log(2 pi s^2) / 2."""
    s, x, d = 0.1, IMAGES[0], 64

    @jax.jit
    def evaluated(network, x, key):
        posterior = network.module.encode(x)
        objectives = autoencoders.distortion_rate(s), autoencoders.reconstruction
        return (*(objective(network, x, jnp.int32(0), key) for objective in objectives),
                network.module.decode(draw(posterior, key)), autoencoders.rate(posterior))

    found, alone, reconstructed, rate = (np.asarray(value, np.float64) for value in evaluated(network, x, KEY))
    likelihood = (-((x - reconstructed) ** 2) / (2 * s**2) - np.log(2 * np.pi * s**2) / 2).sum()
    bound = likelihood - rate
    np.testing.assert_allclose(d * found / (2 * s**2) + d * np.log(2 * np.pi * s**2) / 2, -bound, rtol=1e-5)
    np.testing.assert_allclose(alone, ((x - reconstructed) ** 2).mean(), rtol=1e-5)


def tiny(seed=0):
    """Images kept as bytes, as CIFAR's."""
    stored = np.random.default_rng(seed).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    return Dataset("tiny", Bytes(stored), np.zeros(20, np.int32), Bytes(stored), np.zeros(20, np.int32))


def test_autoencoders_are_cached_by_what_determines_them(tmp_path, monkeypatch):
    """Not trained here; images are given as bytes, which `loop.fit` takes."""
    monkeypatch.setenv("NPROC", "1")
    given = []

    def untrained(network, loss, images, labels, recipe, seed, state, on_step):
        given.append((images.dtype, loss is autoencoders.reconstruction, recipe.steps, recipe.batch, seed))
        return network

    monkeypatch.setattr(models.loop, "fit", untrained)
    base = dict(latent=2, channels=(4,), steps=2, batch=4)
    train = lambda seed=0, build=models.autoencoder, **more: build(
        Training(seed=seed), tiny(), tmp_path, models.Bottleneck(**{**base, **more}))
    weights = lambda: [path for path in tmp_path.iterdir() if "watched" not in path.name]
    network, sha = train()
    assert train()[1] == sha and len(given) == 1 == len(weights())
    assert network.module.sigma == pytest.approx(0.5)
    fixed = train(learned=False)[0]
    assert fixed.module.sigma == 0.5 and len(jax.tree.leaves(fixed)) == len(jax.tree.leaves(network)) - 1
    train(1), train(sigma=0.4), train(sigma=(0.5, 0.5)), train(pixel_noise=0.1), train(steps=3), train(blocks=0)
    train(pixel_noise=0.0, sigma=0.0, learned=False)
    assert len(given) == 9 == len(weights())
    assert {images for images, *_ in given} == {jnp.dtype("uint8")}
    assert given[0][1:] == (False, 2, 4, 0) and given[2][4] == 1 and given[6][2] == 3 and given[8][1]
    train(build=models.variational), train(build=models.variational, sigma=0.4, learned=False)
    assert len(given) == 10  # a sigma that is the encoder's has no start


def test_a_short_training_moves_a_learned_sigma(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "1")
    what = Training(), tiny(), tmp_path, models.Bottleneck(2, channels=(4,), steps=2, batch=4)
    network, _ = models.autoencoder(*what)
    assert abs(network.module.sigma / 0.5 - 1) > 1e-3
    path = models.sigma_path(*what)
    assert path.shape == (2,) and abs(path[-1] / 0.5 - 1) > 1e-3
    next(tmp_path.glob("*-watched*")).unlink()
    np.testing.assert_array_equal(models.sigma_path(*what), path)  # trained again
    with pytest.raises(ValueError, match="sigma is held at 0.5 and has no path"):
        models.sigma_path(*what[:3], models.Bottleneck(2, learned=False, channels=(4,), steps=2, batch=4))


@pytest.mark.parametrize("arguments, message", [
    (dict(latent=0), "latent >= 1"), (dict(channels=()), "at least one level"), (dict(channels=(4, 0)), "width >= 1"),
    (dict(blocks=-1), "blocks >= 0"), (dict(channels=(4,) * 4), r"divisible by 16, got \(8, 8, 1\); use fewer levels"),
    (dict(sigma=-0.1), "finite and >= 0, got -0.1"), (dict(sigma=float("inf")), "finite and >= 0, got inf"),
    (dict(sigma=(0.1, 0.2)), r"one a channel, shape \(64,\), got shape \(2,\)"),
    (dict(sigma=0.0), "a learned sigma starts above 0, got 0.0; start at 0.5, or set learned=False"),
])
def test_networks_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pm.Autoencoder(SHAPE, rngs=nnx.Rngs(0), **arguments)


def test_noise_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users do not run under the tests' type checker
    for sigma, message in [(-1.0, "finite and >= 0"), (np.nan, "finite and >= 0"), (np.ones(5), r"shape \(6,\), got"),
                           (np.ones((2, 2, 6)), "average it over images and places")]:
        with pytest.raises(ValueError, match=message):
            pm.alp(ALP, sigma)
    with pytest.raises(TypeError, match="Variational has no sigma of its own; give one, or purify by `vae`"):
        pm.alp(VAE)
    for pixel_noise in (0.0, 2.0):
        with pytest.raises(ValueError, match=r"pixel units in \(0, 1\]"):
            autoencoders.distortion_rate(pixel_noise)
    with pytest.raises(ValueError, match="the rate is infinite"):
        models.Bottleneck(sigma=0.0)
