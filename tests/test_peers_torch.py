"""Our layers against torch's on the same weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purimetry.compression.networks.autoencoder import Autoencoder
from purimetry.compression.networks.convolution import convolve
from purimetry.compression.networks.normalisation import GroupNorm
from purimetry.compression.networks.pure import blueprint
from purimetry.compression.networks.unet import Block

pytestmark = pytest.mark.peer
torch = pytest.importorskip("torch")
torch_twins = pytest.importorskip("purimetry.experiments.torch_twins")
F = torch.nn.functional

X = np.random.default_rng(0).normal(size=(6, 5, 8)).astype(np.float32)
FLOAT = dict(rtol=1e-5, atol=1e-5)  # float32 sums of 72 products of order 1


def first(x):
    """[h, w, c] to torch's [1, c, h, w]."""
    return torch.tensor(np.array(x)).permute(2, 0, 1)[None]


def last(x):
    return x[0].permute(1, 2, 0).detach().numpy()


def vector(parameter):
    return torch.tensor(np.array(parameter[...]))


def convolution(x, kernel, bias=None):
    return F.conv2d(x, torch.tensor(np.array(kernel).transpose(3, 2, 0, 1)), bias, padding=1)


def randomised(build):
    """The module with every weight drawn, so that no bias is 0 and no scale is 1."""
    (graph, state), random = nnx.split(blueprint(build)), np.random.default_rng(3)
    drawn = lambda leaf: jnp.asarray((0.3 * random.normal(size=leaf.shape)).astype(leaf.dtype))
    return nnx.merge(graph, jax.tree.map(drawn, state))


def test_convolve_and_its_gradients_equal_torchs():
    kernel, cotangent = (np.random.default_rng(i).normal(size=s).astype(np.float32)
                         for i, s in ((1, (3, 3, 8, 4)), (2, (6, 5, 4))))

    @jax.jit
    def pulled(x, kernel, cotangent):
        y, pullback = jax.vjp(convolve, x, kernel)
        return y, *pullback(cotangent)

    ours, of_x, of_kernel = pulled(X, kernel, cotangent)
    x = first(X).requires_grad_()
    weight = torch.tensor(kernel.transpose(3, 2, 0, 1), requires_grad=True)
    theirs = F.conv2d(x, weight, padding=1)
    theirs.backward(first(cotangent))
    np.testing.assert_allclose(ours, last(theirs), **FLOAT)
    np.testing.assert_allclose(of_x, last(x.grad), **FLOAT)
    np.testing.assert_allclose(of_kernel, weight.grad.numpy().transpose(2, 3, 1, 0), **FLOAT)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_group_norm_equals_torchs(groups):
    norm = randomised(partial(GroupNorm, 8, groups))
    theirs = F.group_norm(first(5 + X), groups, vector(norm.scale), vector(norm.bias), norm.epsilon)
    np.testing.assert_allclose(jax.jit(norm)(5 + X), last(theirs), **FLOAT)


def test_unet_block_equals_torchs():
    block = randomised(partial(Block, 8, 12, 16, 4))
    embedding = np.random.default_rng(4).normal(size=16).astype(np.float32)
    grouped = lambda norm, x: F.group_norm(x, norm.groups, vector(norm.scale), vector(norm.bias), norm.epsilon)
    convolved = lambda layer, x: convolution(x, layer.kernel[...], vector(layer.bias))
    dense = lambda layer, x: F.linear(x, vector(layer.kernel).T, vector(layer.bias))
    x = first(X)
    h = convolved(block.conv_in, F.silu(grouped(block.norm_in, x)))
    h = h + dense(block.time, torch.tensor(embedding))[None, :, None, None]
    skip = dense(block.skip, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    theirs = skip + convolved(block.conv_out, F.silu(grouped(block.norm_out, h)))
    np.testing.assert_allclose(jax.jit(block)(X, embedding), last(theirs), **FLOAT)


def test_autoencoder_equals_torchs():
    """Its latent and its reconstruction, by layers that torch has under other names."""
    network = randomised(partial(Autoencoder, (8, 4, 3), 6, channels=(8, 12)))
    x = np.random.default_rng(5).uniform(size=(8, 4, 3)).astype(np.float32)

    def blocks(x, level):
        for block in level:
            norm = block.norm
            normed = F.group_norm(x, norm.groups, vector(norm.scale), vector(norm.bias), norm.epsilon)
            x = x + convolution(F.silu(normed), block.conv.kernel[...], vector(block.conv.bias))
        return x

    encoder, decoder = network.encoder, network.decoder
    z = convolution(2 * first(x) - 1, encoder.inward.kernel[...], vector(encoder.inward.bias))
    for level, shrink in zip(encoder.levels, encoder.shrink, strict=True):
        z = torch_twins.shrink(shrink)(blocks(z, level))
    y = z
    for grow, level in zip(decoder.grow, decoder.levels, strict=True):
        y = blocks(torch_twins.grow(grow)(y), level)
    norm = decoder.norm
    y = F.silu(F.group_norm(y, norm.groups, vector(norm.scale), vector(norm.bias), norm.epsilon))
    y = (convolution(y, decoder.outward.kernel[...], vector(decoder.outward.bias)) + 1) / 2
    ours = jax.jit(lambda network, x: (network.encode(x).mean, network(x)))(network, x)
    for found, theirs in zip(ours, (z, y), strict=True):
        theirs = last(theirs)
        np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())  # float32, 5 layers
