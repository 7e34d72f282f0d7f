"""The 3x3 convolution of every network here, as a primitive of its own.

Why not `jax.lax.conv_general_dilated` alone: on CPU, XLA runs its *input gradient* inside `scan` or `while` on a
slow path, because the loop body keeps the transposed kernel's layout (jax-ml/jax#12868). A custom_vjp would
cure it but forbid `jvp`; a bilinear primitive keeps `vjp`, `jvp` and `vmap`, of every order:

- everywhere it is lowered to `lax`'s convolutions, so no backend meets an operation that it does not know;
- its transpose with respect to the image is itself with the kernel flipped and its channels exchanged, so an
  input gradient is an ordinary convolution;
- its transpose with respect to the kernel is `lax`'s own (training does not run inside `scan`).

And XLA's fast convolutions on CPU (YNNPACK's) leave out those whose image and result both have at most FEW channels,
as the outermost of small networks. Of these either 2 or 4 neighbours of a row are computed at once, as channels of one
wide pixel, or, where they are still too few or do not divide the row, the image is given channels of zeros.

Measured (2 cores of an AMD EPYC, float32, 128 images of 8x8x32, ten convolutions in a `scan`, gradient with
one checkpoint each, per convolution): `lax` 22.7 ms, this file 2.0 ms. A sum of nine shifted matrix products
is as fast here alone, but twice as slow to compile and to train. `purimetry benchmarks` repeats it on one core.
Few channels (one core, 64 images of 8x8): from 1 to 16 channels 0.04 instead of 0.32 ms, from 16 to 16 0.27
instead of 0.44, from 16 to 1 0.13 instead of 0.18; a gradient through digits' denoiser takes a sixth less.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

FEW, ENOUGH = 16, 20
"""Channels up to which, in image and result, XLA (of JAX 0.10) keeps a convolution of float32 from its fast path on
CPU; and with how many it is fastest if these are zeros."""


def convolve(
    x: Float[Array, "*batch height width c_in"], kernel: Float[Array, "3 3 c_in c_out"]
) -> Float[Array, "*batch height width c_out"]:
    """3x3 convolution with zero padding and stride 1, channels last.

    >>> import jax.numpy as jnp
    >>> convolve(jnp.ones((4, 4, 1)), jnp.ones((3, 3, 1, 1)))[:, :, 0].tolist()[0]
    [4.0, 6.0, 6.0, 4.0]
    """
    if x.ndim < 3 or kernel.shape[:3] != (3, 3, x.shape[-1]):
        raise ValueError(f"expected images [..., h, w, c] and a kernel [3, 3, c, out], got {x.shape}, {kernel.shape}")
    y = _convolve.bind(x.reshape((-1,) + x.shape[-3:]), kernel)
    return y.reshape(x.shape[:-1] + kernel.shape[-1:])


def convolve_strided(
    x: Float[Array, "height width c_in"], kernel: Float[Array, "size size c_in c_out"], padding: tuple[int, int]
) -> Float[Array, "half_height half_width c_out"]:
    """Convolution of stride 2, channels last, as one product of every second patch with the kernel.

    Measured as above, but on one thread (64 images of 32x32x16 to 16x16x32, with its gradient): this 2.6 ms, every
    second pixel of `convolve` 6.0 ms, `lax`'s strided convolution 28 ms.

    padding: rows and columns of zeros before and after the image.

    >>> import jax.numpy as jnp
    >>> convolve_strided(jnp.ones((4, 4, 1)), jnp.ones((3, 3, 1, 1)), (1, 1))[:, :, 0].tolist()
    [[4.0, 6.0], [6.0, 9.0]]
    """
    size = len(kernel)
    x = jnp.pad(x, (padding, padding, (0, 0)))
    height, width = ((side - size) // 2 + 1 for side in x.shape[:2])
    taps = [x[i : i + 2 * height : 2, j : j + 2 * width : 2] for i in range(size) for j in range(size)]
    return jnp.concatenate(taps, -1) @ kernel.reshape(-1, kernel.shape[-1])


def is_convolution(primitive: Primitive, *_, **__) -> bool:
    """Whether a primitive is a convolution, ours or `lax`'s: a policy of `jax.checkpoint` that keeps their results.

    What is then computed twice (normalisation, activation, pointwise layers) is cheap, and a convolution's gradient
    with respect to its image needs nothing else.

    >>> import jax, jax.numpy as jnp
    >>> network = lambda x: jnp.tanh(convolve(x, jnp.ones((3, 3, 1, 1))))
    >>> kept = jax.grad(jax.checkpoint(lambda x: network(network(x)).sum(), policy=is_convolution))
    >>> str(jax.make_jaxpr(kept)(jnp.ones((4, 4, 1)))).count("convolve_3x3")  # two forward, two backward, none again
    4
    """
    return primitive in (_convolve, jax.lax.conv_general_dilated_p)


class Convolution(nnx.Module):
    """3x3 convolution on one image [h, w, c_in]."""

    def __init__(self, c_in: int, c_out: int, *, use_bias: bool = True, rngs: nnx.Rngs, scale: float = 1.0):
        self.kernel = _kernel(3, c_in, c_out, rngs, scale)
        self.bias = nnx.Param(jnp.zeros(c_out)) if use_bias else None

    def __call__(self, x):
        return _shifted(convolve(x, self.kernel[...]), self.bias)


class StridedConvolution(nnx.Module):
    """Convolution of stride 2 on one image [h, w, c_in]; its padding is that of `convolve_strided`."""

    def __init__(
        self, c_in: int, c_out: int, size: int = 3, padding: tuple[int, int] = (1, 1), *, use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.padding = padding
        self.kernel = _kernel(size, c_in, c_out, rngs)
        self.bias = nnx.Param(jnp.zeros(c_out)) if use_bias else None

    def __call__(self, x):
        return _shifted(convolve_strided(x, self.kernel[...], self.padding), self.bias)


class Pointwise(nnx.Module):
    """1x1 convolution: a dense layer at every (every second, ...) place; its kernel has the axes of a convolution."""

    def __init__(
        self, c_in: int, c_out: int, stride: int = 1, *, axes: int = 2, use_bias: bool = True, rngs: nnx.Rngs
    ):
        self.stride, self.axes = stride, axes
        self.kernel = nnx.Param(_kernel(1, c_in, c_out, rngs)[...].reshape((1,) * axes + (c_in, c_out)))
        self.bias = nnx.Param(jnp.zeros(c_out)) if use_bias else None

    def __call__(self, x):
        x = x[(slice(None, None, self.stride),) * self.axes]
        return _shifted(x @ self.kernel[...].reshape(self.kernel.shape[-2:]), self.bias)


def _kernel(size: int, c_in: int, c_out: int, rngs: nnx.Rngs, scale: float = 1.0) -> nnx.Param:
    bound = scale / (size**2 * c_in) ** 0.5
    return nnx.Param(jax.random.uniform(rngs.params(), (size, size, c_in, c_out), minval=-bound, maxval=bound))


def _shifted(x, bias: nnx.Param | None):
    return x if bias is None else x + bias[...]


def upsample(x: Float[Array, "height width channel"]) -> Float[Array, "2*height 2*width channel"]:
    """Each pixel becomes a block of 2x2."""
    return x.repeat(2, 0).repeat(2, 1)


def space_to_depth(x: Float[Array, "height width channel"]) -> Float[Array, "height/2 width/2 4*channel"]:
    """Each 2x2 block of pixels becomes one pixel; with a dense layer after it, a strided convolution."""
    h, w, c = x.shape
    return x.reshape(h // 2, 2, w // 2, 2, c).transpose(0, 2, 1, 3, 4).reshape(h // 2, w // 2, 4 * c)


def depth_to_space(x: Float[Array, "height width channel"]) -> Float[Array, "2*height 2*width channel/4"]:
    """Inverse of `space_to_depth`."""
    h, w, c = x.shape
    return x.reshape(h, w, 2, 2, c // 4).transpose(0, 2, 1, 3, 4).reshape(2 * h, 2 * w, c // 4)


def _lax_convolution(x, kernel, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, stride), ((1, 1), (1, 1)), dimension_numbers=numbers)


def _cpu_convolution(x, kernel):
    """`lax`'s; of FEW channels in float32, of 2 or 4 neighbours at once or else with channels of zeros up to ENOUGH."""
    c_in, c_out = kernel.shape[2:]
    if max(c_in, c_out) > FEW or x.dtype != jnp.float32:
        return _lax_convolution(x, kernel)
    pixels = next((n for n in (2, 4) if n * c_out > FEW and x.shape[2] % n == 0), 1)
    zeros = (0, ENOUGH - c_in if pixels == 1 else 0)
    shifted = [jnp.pad(kernel, ((0, 0), (i, pixels - 1 - i), zeros, (0, 0))) for i in range(pixels)]
    y = _lax_convolution(jnp.pad(x, ((0, 0),) * 3 + (zeros,)), jnp.concatenate(shifted, -1), pixels)
    return y.reshape(x.shape[:-1] + (c_out,))


def _transpose_image(cotangent, x, kernel):
    return _convolve.bind(cotangent, jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3))


def _transpose_kernel(cotangent, x, kernel):
    shape = jax.ShapeDtypeStruct(kernel.aval.shape, kernel.aval.dtype)
    return jax.linear_transpose(lambda k: _lax_convolution(x, k), shape)(cotangent)[0]


def _batch(operands, axes):
    (x, kernel), (x_axis, kernel_axis) = operands, axes
    if kernel_axis is None:
        x = jnp.moveaxis(x, x_axis, 0)
        y = _convolve.bind(x.reshape((-1,) + x.shape[2:]), kernel)
        return y.reshape(x.shape[:2] + y.shape[1:]), 0
    return jax.vmap(_lax_convolution, (x_axis, kernel_axis))(x, kernel), 0


_convolve = Primitive("convolve_3x3")
_convolve.def_impl(jax.jit(_convolve.bind))
_convolve.def_abstract_eval(lambda x, kernel: ShapedArray(x.shape[:-1] + kernel.shape[-1:], x.dtype))
ad.defbilinear(_convolve, _transpose_image, _transpose_kernel)
batching.primitive_batchers[_convolve] = _batch
mlir.register_lowering(_convolve, mlir.lower_fun(_lax_convolution, multiple_results=False))
mlir.register_lowering(_convolve, mlir.lower_fun(_cpu_convolution, multiple_results=False), platform="cpu")
