"""Kernels in C++ for LayerNorm, RMSNorm, GroupNorm and BatchNorm on a CPU: about half of the time of plain JAX.

On Linux with an x86-64 processor of the last ten years they come with the package, and the norms use them where they
fit: programs for one device (or the local part of a ``shard_map``), float32, float64 or bfloat16 in the arithmetic of
their own width, statistics over trailing axes, over leading ones (a batch norm in training) or groups of channels, with
a mask or without. Everything else, every derivative but the first in reverse mode, and every other machine goes by
plain JAX.
Which it is, is decided when a program is lowered, so one that is exported or divided among devices has none in it.

`status` says whether they are in use, and why not::

    from braindnorm import cpu_kernels

    print(cpu_kernels.status())

`enable` compiles them for a machine that they did not come for. `disable`, `disabled` and the environment variable
``BRAINDNORM_KERNELS=0`` switch them off. What ``jit`` compiled before any of these stays as it was.
"""

import contextlib
import contextvars
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from .._numerics.deferred import is_constant
from .._numerics.plan import Plan
from ..errors import PackageError
from ..units import Mantissa
from . import _choice
from ._view import are_columns

__all__ = ["Status", "disable", "disabled", "enable", "enabled", "status"]

_off = False
_suspended = contextvars.ContextVar("braindnorm_kernels_suspended", default=False)


class Status(NamedTuple):
    """Whether the kernels are in use, and why not.

    Attributes
    ----------
    in_use : bool
        Whether the norms use them where they fit.
    reason : str
        Why they are not in use; empty if they are.
    library : str
        The path of the library in use; empty if there is none.
    """

    in_use: bool
    reason: str
    library: str

    def __str__(self) -> str:
        return f"kernels in use: {self.library}" if self.in_use else f"no kernels in use: {self.reason}"


def status() -> Status:
    """Return whether the kernels are in use here, and why not.

    It starts JAX's backend, as the first array does, unless they are switched off.

    Returns
    -------
    Status
        `in_use`, `reason` and `library`; printed, a line for people.

    Examples
    --------
    >>> from braindnorm import cpu_kernels
    >>> with cpu_kernels.disabled():
    ...     print(cpu_kernels.status())
    no kernels in use: they are switched off by cpu_kernels.disabled().
    """
    from . import _library

    reason = _reason()
    library = "" if reason is not None else str(_library.loaded())
    return Status(reason is None, reason or "", library)


def enabled() -> bool:
    """Tell whether the kernels are in use: ``status().in_use``."""
    return status().in_use


def enable() -> bool:
    """Use the kernels from now on; compile them if they did not come with the package. Return whether they can be used.

    They are in use without this call where they came with the package. On another machine the first call compiles them,
    which takes up to a minute. The result is kept in ``~/.cache`` (``$XDG_CACHE_HOME``) for later processes. A C++
    compiler is needed: g++ or clang++, or the one that the environment variable ``CXX`` names (``CXX="ccache g++"``,
    say).

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
    global _off
    from . import _library

    reason = _choice.unsuitable()
    if reason is None:
        try:
            _library.load()
        except PackageError as error:
            reason = str(error)
    if reason is not None:
        warnings.warn(f"cpu_kernels.enable(): {reason} The norms go on without kernels.", RuntimeWarning, stacklevel=2)
        return False
    _off = False
    return True


def disable() -> None:
    """Use no kernels in what is traced from now on, until `enable` is called.

    A function that ``jit`` compiled while they were in use keeps them, as one that was compiled before goes without.
    ``jax.clear_caches()`` has those of `jax.jit` compiled anew, ``f.clear_cache()`` an f of `brainstate.transform.jit`.
    """
    global _off
    _off = True


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Use no kernels in what is traced within the ``with`` block, by this thread.

    It is about tracing, as `disable` is: a function that ``jit`` compiled before the block keeps what it has.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from braindnorm import cpu_kernels, functional
    >>> with cpu_kernels.disabled():
    ...     y = functional.layer_norm(jnp.ones((512, 512)))
    """
    before = _suspended.set(True)
    try:
        yield
    finally:
        _suspended.reset(before)


def in_force() -> bool:
    """Tell whether what is traced now takes kernels where they fit. It starts JAX's backend."""
    if _off or _suspended.get() or _choice.SWITCHED_OFF or jax.default_backend() != "cpu":
        return False
    from . import _library  # imported when the first norm is called

    return _library.ready()


def rule_for(
    plan: Plan,
    x: jax.Array,
    valid: jax.Array | None,
    epsilon: Mantissa,
    *parameters: jax.Array | None,
    constant: bool = False,
) -> Callable[..., jax.Array] | None:
    """Return the rule with kernels, to be called as the plain one, if they are in use and fit; else None.

    With `constant` it is that whose statistics are constants to every derivative. It starts JAX's backend. Sizes that
    are symbols go the plain way.
    """
    if not _can(plan, x, valid, epsilon, *parameters):
        return None
    from ._rule import kernel_norm, kernel_norm_elementwise

    return kernel_norm_elementwise if constant else kernel_norm


def rule_with_moments_for(
    plan: Plan,
    x: jax.Array,
    valid: jax.Array | None,
    epsilon: Mantissa,
    *parameters: jax.Array | None,
    constant: bool = False,
) -> Callable[..., tuple[jax.Array, ...]] | None:
    """Return the same for the rule that returns the moments too, which is there for columns alone."""
    if not are_columns(plan.reduction, x.ndim) or not _can(plan, x, valid, epsilon, *parameters):
        return None
    from ._rule import kernel_norm_elementwise_with_moments, kernel_norm_with_moments

    return kernel_norm_elementwise_with_moments if constant else kernel_norm_with_moments


def _can(plan: Plan, x: jax.Array, valid: jax.Array | None, epsilon: Mantissa, *parameters: jax.Array | None) -> bool:
    return is_constant(x.shape) and in_force() and _choice.fits(plan, x, valid, epsilon, *parameters)


def _reason() -> str | None:
    """Return why the kernels are not in use."""
    if _suspended.get():
        return "they are switched off by cpu_kernels.disabled()."
    if _off:
        return "they are switched off by cpu_kernels.disable()."
    from . import _library

    return _choice.unsuitable() or (None if _library.ready() else _library.load_installed())
