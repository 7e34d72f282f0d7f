"""Networks and purifiers that stay in PyTorch, seen as functions of one image that JAX maps, compiles and pulls back.

A call leaves the compiled program for PyTorch and comes back with the result, a whole batch at a time. That is slower
than a network put into JAX (`networks.from_torch`). Derivatives are PyTorch's own, of the first order, in both
directions.
"""

from collections.abc import Callable
from threading import RLock

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .types import Classifier, NoisePredictor, Purifier

_state = RLock()
"""Held by whoever sets PyTorch's generators or its ways of attention, which all threads of a process share."""


def torch_classifier(model: Callable) -> Classifier:
    """A PyTorch classifier as a function of one image, with its gradient.

    model: a module or function from pixels in [0, 1], [n, channel, height, width], to logits [n, classes]; it
        normalises inside. A module is called where its parameters lie, a function with tensors on the CPU. n is that
        of a compiled call (`calls_of`), which is filled up where there are fewer images.

    Raises ValueError for a module in training mode, whose output would depend on the batch.

    >>> import torch
    >>> classifier = torch_classifier(torch.nn.Flatten().eval())
    >>> jax.vmap(classifier)(jnp.ones((5, 2, 2, 3))).shape
    (5, 12)
    """
    return _differentiable(_placed(model))


def torch_denoiser(model: Callable) -> NoisePredictor:
    """A PyTorch noise predictor, for `diffusion` to sample with.

    model: from x_t in the diffusion's own range, [n, channel, height, width], and times [n] to the noise, of x_t's
        shape: of diffusers' `UNet2DModel`, `lambda x, t: unet(x, t).sample`. As in `torch_classifier` otherwise.

    >>> denoiser = torch_denoiser(lambda x_t, t: x_t * t[:, None, None, None])
    >>> denoiser(jnp.ones((1, 2, 1)), jnp.float32(3)).ravel().tolist()
    [3.0, 3.0]
    """
    return _differentiable(_placed(model))


def torch_purifier(purify: Callable) -> Purifier:
    """A PyTorch purifier with its randomness fixed: PyTorch's generators start from xi at every image.

    purify: from one image, [1, channel, height, width] in [0, 1], to the purified one, of the same shape. What it draws
        from PyTorch's own generators is held by xi, what it draws elsewhere is not, and `check_purifier` finds it.
        As in `torch_classifier` otherwise. A purifier that hides its gradient (`torch.no_grad`) has rates and anchors,
        and can be attacked through `straight_through` (BPDA).

    >>> import torch
    >>> purifier = torch_purifier(lambda x: (x + 0.1 * torch.randn_like(x)).clamp(0, 1))
    >>> one, two = jax.random.split(jax.random.key(0))
    >>> x = jnp.full((2, 2, 1), 0.5)
    >>> bool((purifier(x, one) == purifier(x, one)).all()), bool((purifier(x, one) == purifier(x, two)).all())
    (True, False)
    """
    import torch

    placed = _placed(purify)

    def purified(x, words):
        with torch.enable_grad():  # guidance may need gradients
            return placed(x)

    apply = _differentiable(purified, _seeded_one_by_one)
    return lambda x, key: apply(x, jax.random.bits(key, 2, "uint32"))


def _placed(model: Callable) -> Callable:
    """Tensors where a module's parameters lie; a function finds them on the CPU."""
    import torch

    if not isinstance(model, torch.nn.Module):
        return model
    if model.training:
        raise ValueError("the PyTorch module is in training mode, where its output depends on the batch; call .eval()")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return lambda *tensors: model(*(tensor.to(device) for tensor in tensors))


def _differentiable(function: Callable, over: Callable = lambda call: call) -> Callable:
    """A PyTorch function of [n, channel, height, width] and of other batched arrays, as JAX's of one [height, width,
    channel] and one of each of the others; its derivative is in the image alone.

    over: how a call of a batch, of NumPy arrays, is made of `function`; all at once unless told.
    """

    @over
    def evaluate(x, *others):
        import torch

        with torch.no_grad():  # nothing is kept for a gradient that nobody asks for
            return _outwards(function(_inwards(x), *_tensors(others)))

    @over
    def pull(cotangent, x, *others):
        import torch

        with torch.enable_grad():
            x = _inwards(x).requires_grad_()
            result = function(x, *_tensors(others))
            return _outwards(_slope(result, x, _like(cotangent, result)))

    @over
    def push(tangent, x, *others):
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        # of attention's ways, one's gradient has a gradient
        with _state, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x = _inwards(x).requires_grad_()
            result = function(x, *_tensors(others))
            # the pull is linear, and what pulls it back pushes; PyTorch's own forward mode lacks common layers
            weight = torch.zeros_like(result, requires_grad=True)
            pulled = _slope(result, x, weight, create_graph=True)
            pushed = None
            if pulled.requires_grad:  # else nothing is pulled, whatever the weight, as of rounding
                (pushed,) = torch.autograd.grad(pulled, weight, _inwards(tangent), allow_unused=True)
            return _outwards(torch.zeros_like(weight) if pushed is None else pushed)

    @jax.custom_jvp
    def apply(x, *others):
        zeros = (np.zeros((1, *part.shape), part.dtype) for part in (x, *others))
        return _value.bind(x, *others, there=evaluate, given=x.shape, result=evaluate(*zeros).shape[1:])

    @apply.defjvp
    def forward(primals, tangents):
        (x, *others), result = primals, apply(*primals)
        return result, _product.bind(tangents[0], x, *others, there=push, back=pull, given=x.shape, result=result.shape)

    return lambda x, *others: apply(jnp.asarray(x, jnp.float32), *map(jnp.asarray, others))


def _first_order(primals, tangents, **product):
    (vector, *rest), (change, *others) = primals, tangents
    if any(type(other) is not ad.Zero for other in others):
        raise TypeError("models in PyTorch have first derivatives here, no second ones")
    value = _product.bind(vector, *rest, **product)
    return value, ad.Zero.from_primal_value(value) if type(change) is ad.Zero else (
        _product.bind(change, *rest, **product))


def _transposed(cotangent, vector, *rest, there, back, given, result):
    exchanged = dict(there=back, back=there, given=result, result=given)
    return [_product.bind(cotangent, *rest, **exchanged), *(None for _ in rest)]


def _in_torch(context, *operands, there, given, result, **_):
    """`there` of any number of batch axes, of which the first operand, of shape `given`, tells how many there are.

    JAX's own `pure_callback` makes arrays of JAX of the operands, which copies large ones in the thread that waits for
    them where there is only one (jax-ml/jax#24255).
    """
    axes = len(context.avals_in[0].shape) - len(given)
    # what is wrong is said here, and not from inside a compiled program
    there(*(np.zeros((1, *aval.shape[axes:]), aval.dtype) for aval in context.avals_in))

    def call(*arrays):
        arrays = [np.asarray(array) for array in arrays]
        batch = arrays[0].shape[:axes]
        found = there(*(array.reshape(-1, *array.shape[axes:]) for array in arrays))
        return (np.asarray(found.reshape((*batch, *result)), np.float32, order="C"),)

    values, *_ = mlir.emit_python_callback(context, call, None, list(operands), context.avals_in, context.avals_out,
                                           has_side_effect=False, returns_token=False)
    return values


def _primitive(name: str, static: tuple[str, ...]) -> Primitive:
    """Of operands that share their batch axes; the first, without them, is of shape `given`, the result of `result`."""
    made = Primitive(name)

    def batched(operands, axes, **params):
        size = next(array.shape[axis] for array, axis in zip(operands, axes, strict=True) if axis is not None)
        whole = [jnp.broadcast_to(array, (size, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
                 for array, axis in zip(operands, axes, strict=True)]
        return made.bind(*whole, **params), 0

    made.def_impl(jax.jit(lambda *operands, **params: made.bind(*operands, **params), static_argnames=static))
    made.def_abstract_eval(lambda first, *rest, given, result, **_: ShapedArray(
        (*first.shape[: first.ndim - len(given)], *result), np.dtype("float32")))
    batching.primitive_batchers[made] = batched
    mlir.register_lowering(made, _in_torch, cacheable=False)
    return made


_value = _primitive("torch_value", ("there", "given", "result"))
"""The function itself; its derivative is the next one."""

_product = _primitive("torch_jacobian_product", ("there", "back", "given", "result"))
"""Linear in its first operand, with both directions known, so that it is pushed, pulled and batched like JAX's own."""

ad.primitive_jvps[_product] = _first_order
ad.primitive_transposes[_product] = _transposed


def _slope(result, x, weight, **options):
    """The gradient of <result, weight> in the image."""
    import torch

    slope = None
    if result.requires_grad:
        (slope,) = torch.autograd.grad(result, x, weight, allow_unused=True, **options)
    if slope is None:
        raise ValueError("the PyTorch function has no gradient in the image, for it runs under torch.no_grad, detaches "
                         "or does not depend on it; take that away, or attack through pm.straight_through")
    return slope


def _seeded_one_by_one(call):
    """So that each image, whose last operand is the seed, has its own randomness, also where its gradient computes a
    part again, and no more than one image's graph is kept. A row like the one before it, as a shard's padding is, is
    not computed again.
    """
    import torch

    def seeded(*row):
        ((high, low),) = row[-1].tolist()
        with _state, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(high << 32 | low)
            return call(*row)

    def calls(*arrays):
        results, before = [], None
        for row in zip(*arrays, strict=True):
            if before is None or not all(map(np.array_equal, row, before)):
                results.append(seeded(*(part[None] for part in row)))
            else:
                results.append(results[-1])
            before = row
        return np.concatenate(results)

    return calls


def _inwards(images):
    """[n, height, width, channel] of NumPy to PyTorch's [n, channel, height, width]."""
    import torch

    return torch.from_numpy(np.array(images, np.float32)).permute(0, 3, 1, 2).contiguous()


def _outwards(result):
    import torch

    if not isinstance(result, torch.Tensor):
        raise TypeError(f"the PyTorch function must return a tensor, got {type(result).__name__}; of diffusers' models "
                        "give `lambda x, t: unet(x, t).sample`")
    result = result.detach().float().cpu()
    return (result.permute(0, 2, 3, 1) if result.ndim == 4 else result).numpy()


def _like(array, result):
    """An array of an output's shape as a tensor beside that output."""
    return (_inwards(array) if result.ndim == 4 else _tensors([array])[0]).to(result)


def _tensors(arrays):
    import torch

    return [torch.from_numpy(np.array(array)) for array in arrays]
