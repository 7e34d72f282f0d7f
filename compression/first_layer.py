"""What a network's first layer is given, for any function of an image: to see how its input is normalised."""

from collections.abc import Callable

import jax
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun
from jaxtyping import Array, Float

from .types import Image

PRODUCTS = ("dot_general", "conv_general_dilated", "convolve_3x3")
"""Primitives that a layer's product with its weights becomes; the last is `networks.convolution`'s."""


def first_layer_input(function: Callable, x: Image) -> Float[Array, "..."] | None:
    """The first operand that depends on the image of a product with weights; None where there is none to be seen.

    Products inside loops (`scan`, `while`, `cond`) are not looked for. May be mapped and compiled.

    >>> import jax.numpy as jnp
    >>> first_layer_input(lambda x: jnp.ones((3, 4)) @ (2 * x - 1).ravel(), jnp.full((2, 2, 1), 0.75)).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    closed = jax.make_jaxpr(function)(x)
    return _search(closed, [x], set(closed.jaxpr.invars))


def _search(closed: ClosedJaxpr, arguments: list, depending: set[Var]):
    """`depending` variables depend on the image; whatever stands before the product is evaluated once it is found."""
    jaxpr = closed.jaxpr
    for number, equation in enumerate(jaxpr.eqns):
        operands = [atom for atom in equation.invars if isinstance(atom, Var) and atom in depending]
        if not operands:
            continue
        name, inner = str(equation.primitive), equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        before = lambda wanted: _prefix(closed, number, wanted, arguments)
        if name in PRODUCTS:
            return before(operands[:1])[0]
        if inner is not None and name != "scan":  # a call: jit, checkpoint, custom_jvp, ...
            inner = inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())  # since JAX 0.12 all have them
            inside = {own for own, atom in zip(inner.jaxpr.invars, equation.invars, strict=True) if atom in operands}
            found = _search(inner, before(equation.invars), inside)
            if found is not None:
                return found
        depending = depending | set(equation.outvars)
    return None


def _prefix(closed, length, wanted, arguments):
    """Values of `wanted` variables after the first `length` equations."""
    jaxpr = closed.jaxpr.replace(eqns=closed.jaxpr.eqns[:length], outvars=list(wanted))
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))(*arguments)
