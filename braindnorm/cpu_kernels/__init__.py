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

from .._numerics.fused import Plan
from ..errors import PackageError
from . import _choice

__all__ = ["disable", "enable", "enabled"]

_enabled = False


def enable() -> bool:
    """Use the kernels from now on; return whether they can be used.

    The first call on a machine compiles them, which takes about 15 seconds. The result is kept in ``~/.cache``
    (``$XDG_CACHE_HOME``) for later processes. A C++ compiler is needed: g++ or clang++, or the one that the environment
    variable ``CXX`` names (``CXX="ccache g++"``, say).

    The call starts JAX's backend, as the first array does: what is to be set before that, such as
    ``jax.distributed.initialize()``, comes first.

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
    reason = _choice.unsuitable()
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
    """Use no kernels in what is traced from now on.

    A function that ``jit`` compiled while they were in use keeps them, as one that was compiled before goes without.
    ``jax.clear_caches()`` has those of `jax.jit` compiled anew, ``f.clear_cache()`` an f of `brainstate.transform.jit`.
    """
    global _enabled
    _enabled = False


def enabled() -> bool:
    """Tell whether the kernels are in use."""
    return _enabled


def rule_for(plan: Plan, x: Any, epsilon: Any, *parameters: Any) -> Callable[..., jax.Array] | None:
    """Return the rule with kernels, to be called as the plain one, if they are in use and fit; else None."""
    if not _enabled or not _choice.fits(plan, x, epsilon, *parameters):
        return None
    from ._rule import kernel_norm

    return kernel_norm
