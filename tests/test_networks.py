"""Networks: the convolution primitive against lax, GroupNorm against Flax, the contracts of the architectures."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from purimetry.compression.networks.autoencoder import Autoencoder, Variational
from purimetry.compression.networks.convnet import ConvNet
from purimetry.compression.networks.convolution import (
    Convolution, convolve, convolve_strided, depth_to_space, space_to_depth, upsample,
)
from purimetry.compression.networks.normalisation import GroupNorm
from purimetry.compression.networks.pure import blueprint, pure
from purimetry.compression.networks.unet import UNet, sinusoidal

KEYS = jax.random.split(jax.random.key(0), 5)
X, DX = (jax.random.normal(key, (6, 5, 3)) for key in KEYS[:2])
KERNEL, DKERNEL = (jax.random.normal(key, (3, 3, 3, 4)) for key in KEYS[2:4])
DY = jax.random.normal(KEYS[4], (6, 5, 4))
FLOAT = dict(rtol=1e-5, atol=1e-5)  # float32 sums of 27 products of order 1, in another order


def oracle(x, kernel):
    return jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def same(transform, *inputs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **FLOAT), transform(convolve)(*inputs),
                 transform(oracle)(*inputs))


def batch(*trees):
    return tuple(jnp.stack([tree, 2 * tree, tree[::-1]]) for tree in trees)


def test_convolution_is_the_sum_over_shifted_neighbours():
    padded = np.pad(np.asarray(X, np.float64), ((1, 1), (1, 1), (0, 0)))
    shifts = [padded[i : i + 6, j : j + 5] @ np.asarray(KERNEL, np.float64)[i, j] for i in range(3) for j in range(3)]
    np.testing.assert_allclose(convolve(X, KERNEL), sum(shifts), **FLOAT)


def test_derivatives_equal_laxs():
    same(lambda f: f, X, KERNEL)
    same(lambda f: lambda *p: jax.jvp(f, p, (DX, DKERNEL)), X, KERNEL)
    same(lambda f: lambda *p: jax.vjp(f, *p)[1](DY), X, KERNEL)


def test_transpose_is_the_adjoint_in_either_argument():
    """<y, conv(x, k)> = <conv^T y, x> = <y conv^T, k>."""
    of_x, of_kernel = jax.vjp(convolve, X, KERNEL)[1](DY)
    paired = (DY * convolve(X, KERNEL)).sum()
    np.testing.assert_allclose([(of_x * X).sum(), (of_kernel * KERNEL).sum()], [paired, paired], rtol=1e-5)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_batches_of_images_and_kernels_equal_laxs(axes):
    x, kernel = (batch(value)[0] if axis == 0 else value for value, axis in zip((X, KERNEL), axes, strict=True))
    mapped = lambda f: jax.vmap(f, axes)
    same(mapped, x, kernel)
    same(lambda f: lambda *p: jax.vjp(mapped(f), *p)[1](batch(DY)[0]), x, kernel)
    same(lambda f: jax.vmap(lambda *p: jax.vjp(f, *p)[1](DY), axes), x, kernel)  # a kernel's gradient per image
    same(lambda f: jax.vmap(lambda *p: jax.jvp(f, p, (DX, DKERNEL)), axes), x, kernel)


def test_batches_along_any_axis_and_leading_axes():
    x = jnp.stack([X, DX], 2)
    same(lambda f: jax.vmap(f, (2, None), 1), x, KERNEL)
    stacked = jnp.stack([X, DX])
    expected = jax.vmap(oracle, (0, None))(stacked, KERNEL)
    np.testing.assert_allclose(convolve(stacked[None], KERNEL)[0], expected, **FLOAT)


def test_second_order_equals_laxs():
    energy = lambda f: lambda x, kernel: jnp.sin(f(jnp.tanh(x), kernel)).sum()
    gradient = lambda f: jax.grad(energy(f), (0, 1))
    same(lambda f: lambda *p: jax.jvp(gradient(f), p, (DX, DKERNEL)), X, KERNEL)  # forward over reverse
    pairing = lambda f: lambda *p: sum((g * d).sum() for g, d in zip(gradient(f)(*p), (DX, DKERNEL), strict=True))
    same(lambda f: jax.grad(pairing(f), (0, 1)), X, KERNEL)  # reverse over reverse


@pytest.mark.parametrize("c_in, c_out, width, as_lowered", [
    (16, 16, 6, "3x4x16x32"), (1, 9, 8, "3x4x1x18"), (3, 8, 8, "3x6x3x32"), (16, 5, 4, "3x6x16x20"),  # neighbours
    (16, 16, 5, "3x3x20x16"), (8, 8, 6, "3x3x20x8"), (16, 4, 8, "3x3x20x4"), (1, 1, 8, "3x3x20x1"),  # zeros
    (17, 16, 8, "3x3x17x16"), (2, 17, 8, "3x3x2x17"),
])
def test_few_channels_on_a_cpu_are_made_more(c_in, c_out, width, as_lowered):
    x, dx = jax.random.normal(KEYS[0], (2, 6, width, c_in))
    kernel, dkernel = jax.random.normal(KEYS[1], (2, 3, 3, c_in, c_out))
    dy = jax.random.normal(KEYS[2], (6, width, c_out))
    derivatives = lambda f: jax.jvp(f, (x, kernel), (dx, dkernel)) + jax.vjp(f, x, kernel)[1](dy)
    for ours, theirs in zip(derivatives(convolve), derivatives(oracle), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-5)  # float32 sums of up to 2 x 153 products
    as_it_is = f"3x3x{c_in}x{c_out}"
    for platform, dtype, shape in ("cpu", "f32", as_lowered), ("cpu", "bf16", as_it_is), ("cuda", "f32", as_it_is):
        given = (x, kernel) if dtype == "f32" else (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        module = jax.export.export(jax.jit(convolve), platforms=[platform])(*given).mlir_module()
        assert re.search(rf"stablehlo.convolution.*tensor<{shape}x{dtype}>\) ->", module)


@pytest.mark.parametrize("sides, size, padding", [((6, 5), 3, (1, 1)), ((6, 4), 3, (0, 1)), ((7, 8), 7, (3, 3))])
def test_strided_convolution_equals_laxs(sides, size, padding):
    x, dx = jax.random.normal(KEYS[0], (2, *sides, 2))
    kernel = jax.random.normal(KEYS[1], (size, size, 2, 3))
    strided = lambda x: jax.lax.conv_general_dilated(
        x[None], kernel, (2, 2), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
    product = lambda x: convolve_strided(x, kernel, padding)
    theirs, ours = jax.jit(lambda *p: [jax.jvp(f, p[:1], p[1:]) for f in (strided, product)])(x, dx)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-5)  # float32 sums of up to 98 products


def test_upsampling_repeats_each_pixel():
    np.testing.assert_array_equal(upsample(X)[1::2, ::2], X)
    np.testing.assert_array_equal(upsample(X), jnp.kron(X, jnp.ones((2, 2, 1))))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_every_platform_meets_an_ordinary_convolution(platform):
    gradient = jax.jit(jax.grad(lambda x, kernel: convolve(x, kernel).sum() ** 2))
    module = jax.export.export(gradient, platforms=[platform])(X, KERNEL).mlir_module()
    assert module.count("stablehlo.convolution") == 2  # forward, and the transpose that is a convolution again
    assert "custom_call" not in module and "convolve_3x3" not in module


@pytest.mark.parametrize("x, kernel", [((6, 5), (3, 3, 5, 4)), ((6, 5, 2), (3, 3, 3, 4)), ((6, 5, 3), (5, 5, 3, 4))])
def test_shapes_that_do_not_fit_are_refused(x, kernel, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users do not run under the tests' type checker
    with pytest.raises(ValueError, match=r"expected images \[\.\.\., h, w, c\] and a kernel \[3, 3, c, out\]"):
        convolve(jnp.ones(x), jnp.ones(kernel))


def test_convolution_layer_adds_its_bias():
    layer = Convolution(3, 4, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(4.0)
    np.testing.assert_allclose(layer(X), oracle(X, layer.kernel[...]) + jnp.arange(4.0), **FLOAT)


@pytest.mark.parametrize("channels, groups", [(16, 8), (12, 4), (6, 2), (5, 1)])
def test_group_norm_equals_flaxs(channels, groups):
    x = 3 + 2 * jax.random.normal(KEYS[0], (6, 4, channels))
    ours, flaxs = GroupNorm(channels, rngs=nnx.Rngs(0)), nnx.GroupNorm(channels, groups, rngs=nnx.Rngs(0))
    for name, key in (("scale", KEYS[1]), ("bias", KEYS[2])):
        for layer in (ours, flaxs):
            getattr(layer, name)[...] = jax.random.normal(key, (channels,))
    np.testing.assert_allclose(ours(x), flaxs(x[None])[0], **FLOAT)


def test_space_to_depth_holds_each_block_in_one_pixel_and_inverts():
    x = jnp.arange(4 * 6 * 3.0).reshape(4, 6, 3)
    deep = space_to_depth(x)
    np.testing.assert_array_equal(deep[1, 2].reshape(2, 2, 3), x[2:4, 4:6])
    np.testing.assert_array_equal(depth_to_space(deep), x)


def test_sinusoidal_embedding_turns_at_its_frequencies():
    """Unit circles: the first turns by one radian a step, the last by longest^(1/half - 1)."""
    embedded = [sinusoidal(jnp.float32(t), 8) for t in (0, 1)]
    np.testing.assert_allclose(embedded[0], [0] * 4 + [1] * 4)
    angles = jnp.arctan2(embedded[1][:4], embedded[1][4:])
    np.testing.assert_allclose(angles, 10_000.0 ** -(np.arange(4) / 4), rtol=1e-5)  # float32


def _unet(channels, blocks):
    network = jax.jit(lambda: pure(UNet(2, channels=channels, blocks=blocks, groups=4, rngs=nnx.Rngs(0))))()
    return network, lambda network, x: network(x, jnp.float32(3))


def _convnet(shape, channels):
    network = jax.jit(lambda: pure(ConvNet(shape, classes=5, channels=channels, rngs=nnx.Rngs(0))))()
    return network, lambda network, x: network(x)


def _sampled(build):
    network = jax.jit(lambda: pure(build((4, 8, 2), latent=3, channels=(8,), rngs=nnx.Rngs(0))))()
    return network, lambda network, x: network.module.decode(sum(network.module.encode(x)))  # of mean and sigma


ARCHITECTURES = {
    "unet": (*_unet((8, 16), 1), (4, 8, 2), (4, 8, 2)),
    "deeper unet": (*_unet((8,), 2), (4, 4, 2), (4, 4, 2)),
    "autoencoder": (*_sampled(Autoencoder), (4, 8, 2), (4, 8, 2)),
    "variational": (*_sampled(Variational), (4, 8, 2), (4, 8, 2)),
    "convnet": (*_convnet((4, 8, 2), (16,)), (4, 8, 2), (5,)),
}


@pytest.mark.parametrize("network, apply, shape, output", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_network_contract(network, apply, shape, output):
    """Shape and dtype as promised; the same for one image and in a batch; every weight has a say."""
    xs = jax.random.uniform(KEYS[0], (3, *shape))
    together = jax.jit(jax.vmap(apply, (None, 0)))(network, xs)
    assert together.shape == (3, *output) and together.dtype == jnp.float32
    np.testing.assert_allclose(together[1], jax.jit(apply)(network, xs[1]), **FLOAT)
    weighted = lambda network: (apply(network, xs[0]) * jnp.arange(1.0, 1 + together[0].size).reshape(output)).sum()
    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(weighted))(network)):
        assert jnp.abs(gradient).max() > 1e-7, jax.tree_util.keystr(path)


def test_unet_knows_the_time():
    """Once the last convolutions have left their small start, here all weights plus 0.1."""
    network, x = jax.tree.map(lambda w: w + 0.1, ARCHITECTURES["unet"][0]), jax.random.normal(KEYS[0], (4, 8, 2))
    early, late = (jax.jit(network.__call__)(x, jnp.float32(t)) for t in (0, 500))
    assert jnp.abs(early - late).max() > 1e-2 * jnp.abs(early).max()


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match=r"divisible by 2, got \(5, 4, 2\)"):
        ARCHITECTURES["unet"][0](jnp.ones((5, 4, 2)), jnp.float32(0))
    with pytest.raises(ValueError, match=r"divisible by 4, got \(8, 6, 1\)"):
        ConvNet((8, 6, 1), classes=2, rngs=nnx.Rngs(0))


def test_a_blueprint_is_the_module_without_its_arrays():
    build = partial(ConvNet, (4, 8, 2), 5, (16,))
    described, built = pure(blueprint(build)), pure(build(rngs=nnx.Rngs(0)))
    shapes = lambda network: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), network.state)
    assert described.graph == built.graph and shapes(described) == shapes(built)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(described))


def test_a_pure_network_is_a_pytree_of_its_weights():
    network = pure(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    doubled = network.with_state(jax.tree.map(lambda w: 2 * w, network.state))
    x = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(jax.jit(lambda n, x: n(x))(doubled, x), 2 * network(x), rtol=1e-6)  # bias starts at 0
    assert len(jax.tree.leaves(network)) == 2
