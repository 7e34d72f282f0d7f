"""Feature spaces: what a classifier's last layer reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purimetry.compression.batches import over_images
from purimetry.compression.features import penultimate
from purimetry.compression.networks.convnet import ConvNet
from purimetry.compression.networks.pure import pure

IMAGES = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))


def apply(features, x):
    return features(x)


def test_penultimate_features_are_what_the_last_layer_reads():
    module = ConvNet((8, 8, 1), classes=5, channels=(8,), rngs=nnx.Rngs(0))
    features = over_images(apply, (penultimate(pure(module)),), IMAGES)
    assert features.shape == (3, 4 * 4 * 8)
    logits = over_images(apply, (pure(module),), IMAGES)
    np.testing.assert_allclose(jax.vmap(module.readout)(jnp.asarray(features)), logits, rtol=1e-5, atol=1e-6)  # float32


def test_a_network_without_features_is_refused():
    with pytest.raises(TypeError, match="of type Linear shows no features .* with a method `features`"):
        penultimate(pure(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
    with pytest.raises(TypeError, match="of type function shows no features"):
        penultimate(lambda x: x.ravel())
