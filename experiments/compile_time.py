"""How long JAX has lowered and compiled in this process; tracing, which nests, is left out."""

import jax

EVENTS = ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")
"""JAX's names of what is counted."""

_seconds = 0.0


def compilation() -> float:
    """Seconds so far, since this module was imported.

    >>> before = compilation()
    >>> (compilation() - before, jax.jit(lambda x: 3 * x)(1.0).item(), compilation() > before)
    (0.0, 3.0, True)
    """
    return _seconds


def _listen(event: str, seconds: float, **_) -> None:
    global _seconds
    if event in EVENTS:
        _seconds += seconds


jax.monitoring.register_event_duration_secs_listener(_listen)
