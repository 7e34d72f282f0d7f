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



def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X, DX = normal(2, 6, 5, 3)
KERNEL, DKERNEL = normal(2, 3, 3, 3, 4, seed=1)
DY = normal(6, 5, 4, seed=2)
FLOAT = dict(rtol=1e-5, atol=1e-5)  # float32 sums of 27 products of order 1, in another order


def oracle(x, kernel):
    return jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def same(transform, *inputs):
    ours, theirs = jax.jit(lambda *inputs: [transform(f)(*inputs) for f in (convolve, oracle)])(*inputs)
    jax.tree.map(partial(np.testing.assert_allclose, **FLOAT), ours, theirs)


def batch(value):
    return np.stack([value, 2 * value, value[::-1]])


def test_convolution_is_the_sum_over_shifted_neighbours():
    padded = np.pad(X.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    shifts = [padded[i : i + 6, j : j + 5] @ KERNEL.astype(np.float64)[i, j] for i in range(3) for j in range(3)]
    np.testing.assert_allclose(convolve(jnp.asarray(X), jnp.asarray(KERNEL)), sum(shifts), **FLOAT)


def test_derivatives_equal_laxs():
    same(lambda f: f, X, KERNEL)
    same(lambda f: lambda *p: jax.jvp(f, p, (DX, DKERNEL)), X, KERNEL)
    same(lambda f: lambda *p: jax.vjp(f, *p)[1](DY), X, KERNEL)


def test_transpose_is_the_adjoint_in_either_argument():
    """<y, conv(x, k)> = <conv^T y, x> = <y conv^T, k>."""
    pulled = lambda x, kernel: (lambda y, pullback: (y, *pullback(DY)))(*jax.vjp(convolve, x, kernel))
    y, of_x, of_kernel = map(np.asarray, jax.jit(pulled)(X, KERNEL))
    paired = (DY * y).sum()
    np.testing.assert_allclose([(of_x * X).sum(), (of_kernel * KERNEL).sum()], [paired, paired], rtol=1e-5)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_batches_of_images_and_kernels_equal_laxs(axes):
    x, kernel = (batch(value) if axis == 0 else value for value, axis in zip((X, KERNEL), axes, strict=True))
    mapped = lambda f: jax.vmap(f, axes)
    same(mapped, x, kernel)
    same(lambda f: lambda *p: jax.vjp(mapped(f), *p)[1](batch(DY)), x, kernel)
    same(lambda f: jax.vmap(lambda *p: jax.vjp(f, *p)[1](DY), axes), x, kernel)  # a kernel's gradient per image
    same(lambda f: jax.vmap(lambda *p: jax.jvp(f, p, (DX, DKERNEL)), axes), x, kernel)


def test_batches_along_any_axis_and_leading_axes():
    same(lambda f: jax.vmap(f, (2, None), 1), np.stack([X, DX], 2), KERNEL)
    led = lambda stacked, kernel: (convolve(stacked[None], kernel)[0], jax.vmap(oracle, (0, None))(stacked, kernel))
    np.testing.assert_allclose(*jax.jit(led)(np.stack([X, DX]), KERNEL), **FLOAT)


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
    x, dx = normal(2, 6, width, c_in)
    kernel, dkernel = normal(2, 3, 3, c_in, c_out, seed=1)
    dy = normal(6, width, c_out, seed=2)
    derivatives = lambda f, *p: jax.jvp(f, p, (dx, dkernel)) + jax.vjp(f, *p)[1](dy)
    both = jax.jit(lambda *p: (derivatives(convolve, *p), derivatives(oracle, *p)))(x, kernel)
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-5)  # float32 sums of up to 2 x 153 products
    as_it_is = f"3x3x{c_in}x{c_out}"
    for platform, dtype, shape in ("cpu", "f32", as_lowered), ("cpu", "bf16", as_it_is), ("cuda", "f32", as_it_is):
        given = (x, kernel) if dtype == "f32" else (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        module = jax.export.export(jax.jit(convolve), platforms=[platform])(*given).mlir_module()
        assert re.search(rf"stablehlo.convolution.*tensor<{shape}x{dtype}>\) ->", module)


@pytest.mark.parametrize("sides, size, padding", [((6, 5), 3, (1, 1)), ((6, 4), 3, (0, 1)), ((7, 8), 7, (3, 3))])
def test_strided_convolution_equals_laxs(sides, size, padding):
    x, dx = normal(2, *sides, 2)
    kernel = normal(size, size, 2, 3, seed=1)
    strided = lambda x: jax.lax.conv_general_dilated(
        x[None], kernel, (2, 2), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
    product = lambda x: convolve_strided(x, jnp.asarray(kernel), padding)
    theirs, ours = jax.jit(lambda *p: [jax.jvp(f, p[:1], p[1:]) for f in (strided, product)])(x, dx)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-5)  # float32 sums of up to 98 products


def test_upsampling_repeats_each_pixel():
    found = np.asarray(jax.jit(upsample)(X))
    np.testing.assert_array_equal(found[1::2, ::2], X)
    np.testing.assert_array_equal(found, np.kron(X, np.ones((2, 2, 1))))


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
    @jax.jit
    def both(x):
        layer = Convolution(3, 4, rngs=nnx.Rngs(0))
        layer.bias[...] = jnp.arange(4.0)
        return layer(x), oracle(x, layer.kernel[...]) + jnp.arange(4.0)

    np.testing.assert_allclose(*both(X), **FLOAT)


@pytest.mark.parametrize("channels, groups", [(16, 8), (12, 4), (6, 2), (5, 1)])
def test_group_norm_equals_flaxs(channels, groups):
    @jax.jit
    def both(x, scale, bias):
        ours, flaxs = GroupNorm(channels, rngs=nnx.Rngs(0)), nnx.GroupNorm(channels, groups, rngs=nnx.Rngs(0))
        for layer in (ours, flaxs):
            layer.scale[...], layer.bias[...] = scale, bias
        return ours(x), flaxs(x[None])[0]

    np.testing.assert_allclose(*both(3 + 2 * normal(6, 4, channels), *normal(2, channels, seed=1)), **FLOAT)


def test_space_to_depth_holds_each_block_in_one_pixel_and_inverts():
    x = np.arange(4 * 6 * 3, dtype=np.float32).reshape(4, 6, 3)
    deep = jax.jit(space_to_depth)(x)
    np.testing.assert_array_equal(np.asarray(deep)[1, 2].reshape(2, 2, 3), x[2:4, 4:6])
    np.testing.assert_array_equal(jax.jit(depth_to_space)(deep), x)


def test_sinusoidal_embedding_turns_at_its_frequencies():
    """Unit circles: the first turns by one radian a step, the last by longest^(1/half - 1)."""
    embedded = np.asarray(jax.jit(jax.vmap(partial(sinusoidal, width=8)))(np.float32([0, 1])))
    np.testing.assert_allclose(embedded[0], [0] * 4 + [1] * 4)
    angles = np.arctan2(embedded[1][:4], embedded[1][4:])
    np.testing.assert_allclose(angles, 10_000.0 ** -(np.arange(4) / 4), rtol=1e-5)  # float32


def _denoised(network, x):
    return network(x, jnp.float32(3))


def _classified(network, x):
    return network(x)


def _sampled(network, x):
    return network.module.decode(sum(network.module.encode(x)))  # of mean and sigma


ARCHITECTURES = {
    "unet": (partial(UNet, 2, channels=(8, 16), blocks=1, groups=4), _denoised, (4, 8, 2), (4, 8, 2)),
    "deeper unet": (partial(UNet, 2, channels=(8,), blocks=2, groups=4), _denoised, (4, 4, 2), (4, 4, 2)),
    "autoencoder": (partial(Autoencoder, (4, 8, 2), latent=3, channels=(8,)), _sampled, (4, 8, 2), (4, 8, 2)),
    "variational": (partial(Variational, (4, 8, 2), latent=3, channels=(8,)), _sampled, (4, 8, 2), (4, 8, 2)),
    "convnet": (partial(ConvNet, (4, 8, 2), classes=5, channels=(16,)), _classified, (4, 8, 2), (5,)),
}
NETWORKS = jax.jit(lambda: {name: pure(build(rngs=nnx.Rngs(0))) for name, (build, *_) in ARCHITECTURES.items()})()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_network_contract(name):
    """Shape and dtype as promised; the same for one image and in a batch; every weight has a say."""
    network, (_, apply, shape, output) = NETWORKS[name], ARCHITECTURES[name]
    xs = np.random.default_rng(0).uniform(size=(3, *shape)).astype(np.float32)
    together = jax.jit(jax.vmap(apply, (None, 0)))(network, xs)
    assert together.shape == (3, *output) and together.dtype == jnp.float32
    weights = np.arange(1, 1 + np.prod(output), dtype=np.float32).reshape(output)

    @jax.jit
    def one(network, x):
        alone, pullback = jax.vjp(lambda network: apply(network, x), network)
        return alone, pullback(weights)[0]

    alone, gradients = one(network, xs[1])
    np.testing.assert_allclose(np.asarray(together)[1], alone, **FLOAT)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(gradient).max() > 1e-7, jax.tree_util.keystr(path)


def test_unet_knows_the_time():
    """Once the last convolutions have left their small start, here all weights plus 0.1."""
    predicted = jax.jit(lambda network, x, t: jax.tree.map(lambda w: w + 0.1, network)(x, t))
    early, late = (np.asarray(predicted(NETWORKS["unet"], normal(4, 8, 2), np.float32(t))) for t in (0, 500))
    assert np.abs(early - late).max() > 1e-2 * np.abs(early).max()


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match=r"divisible by 2, got \(5, 4, 2\)"):
        NETWORKS["unet"](jnp.ones((5, 4, 2)), jnp.float32(0))
    with pytest.raises(ValueError, match=r"divisible by 4, got \(8, 6, 1\)"):
        ConvNet((8, 6, 1), classes=2, rngs=nnx.Rngs(0))


def test_a_blueprint_is_the_module_without_its_arrays():
    build = partial(ConvNet, (4, 8, 2), 5, (16,))
    described, built = pure(blueprint(build)), jax.jit(lambda: pure(build(rngs=nnx.Rngs(0))))()
    shapes = lambda network: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), network.state)
    assert described.graph == built.graph and shapes(described) == shapes(built)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(described))


def test_a_pure_network_is_a_pytree_of_its_weights():
    network = jax.jit(lambda: pure(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))()
    doubled = network.with_state(jax.tree.map(lambda w: 2 * np.asarray(w), network.state))
    x, apply = np.float32([1, -2]), jax.jit(lambda network, x: network(x))
    np.testing.assert_allclose(apply(doubled, x), 2 * np.asarray(apply(network, x)), rtol=1e-6)  # bias starts at 0
    assert len(jax.tree.leaves(network)) == 2


def test_a_pure_network_is_a_function_that_can_be_jitted():
    network, x = jax.jit(lambda: pure(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))(), np.float32([1, -2])
    np.testing.assert_allclose(jax.jit(network)(x), x @ network.module.kernel[...], rtol=1e-6)  # bias starts at 0
