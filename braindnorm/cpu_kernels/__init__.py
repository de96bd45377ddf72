"""Kernels in C++ for models on one CPU: large LayerNorm, RMSNorm and GroupNorm in about half of the time.

They are compiled on the machine they run on, where they are asked for::

    from braindnorm import cpu_kernels

    cpu_kernels.enable()

From then on the norms use them where they fit: one device, float32, float64 or bfloat16 in the arithmetic of their own
width, statistics over trailing axes or groups of channels, with a mask or without. Everything else, and every
derivative but the first in reverse mode, goes on as before. What was compiled before by ``jit`` stays as it was.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._numerics.fused import Plan
from ..errors import PackageError

__all__ = ["disable", "enable", "enabled"]

_enabled = False
# of the input, of the arithmetic
_DTYPES = {(jnp.dtype(x), jnp.dtype(y)) for x, y in (("float32",) * 2, ("float64",) * 2, ("bfloat16", "float32"))}


def enable() -> bool:
    """Use the kernels from now on; return whether they can be used.

    The first call on a machine compiles them, which takes about 15 seconds. The result is kept in ``~/.cache``
    (``$XDG_CACHE_HOME``) for later processes. A C++ compiler is needed: g++ or clang++, or the one that the environment
    variable ``CXX`` names.

    Returns
    -------
    bool
        True if they are in use now. Where they cannot be, a RuntimeWarning says why, the norms go on as before, and the
        result is False.

    Examples
    --------
    >>> from braindnorm import cpu_kernels
    >>> cpu_kernels.enable()  # doctest: +SKIP
    True
    """
    global _enabled
    reason = _unsuitable()
    if reason is None:
        from ._library import load

        try:
            load()
        except PackageError as error:
            reason = str(error)
    if reason is not None:
        warnings.warn(f"cpu_kernels.enable(): {reason} The norms go on without kernels.", RuntimeWarning, stacklevel=2)
    _enabled = reason is None
    return _enabled


def disable() -> None:
    """Use no kernels from now on."""
    global _enabled
    _enabled = False


# of the input, of the arithmetic
_DTYPES = {(jnp.dtype(x), jnp.dtype(y)) for x, y in (("float32",) * 2, ("float64",) * 2, ("bfloat16", "float32"))}


def enabled() -> bool:
    """Tell whether the kernels are in use."""
    return _enabled


def rule_for(plan: Plan, x: Any, valid: Any, epsilon: Any, *parameters: Any) -> Callable[..., jax.Array] | None:
    """Return the rule with kernels, to be called as that of ``_core``, if they are in use and fit; else None."""
    if not _enabled or (x.dtype, plan.dtype) not in _DTYPES or jnp.ndim(epsilon):
        return None
    parameters = tuple(parameter for parameter in parameters if parameter is not None)
    if any(getattr(jax.typeof(v), "vma", None) for v in (x, valid, *parameters) if v is not None):
        return None  # within shard_map each value has a type that says along which axes it varies
    from ._rule import normalized
    from ._view import view_of

    view = view_of(plan.over, x.shape, tuple(parameter.shape for parameter in parameters))
    return None if view is None else normalized


def _unsuitable() -> str | None:
    """Return why kernels cannot be used here, or should not."""
    if jax.default_backend() != "cpu":
        return f"they are for CPUs, and JAX computes on {jax.default_backend()} here."
    if jax.device_count() > 1:
        return (
            f"JAX has {jax.device_count()} devices here, and XLA would gather on each of them what is divided among"
            " them. Use one device for a process."
        )
    return None
