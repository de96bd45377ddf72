"""Whether kernels are to be used: in this process, and for this call."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from .._numerics.fused import Plan
from ._view import view_of

# of the input, of the arithmetic
_DTYPES = {(jnp.dtype(x), jnp.dtype(y)) for x, y in (("float32",) * 2, ("float64",) * 2, ("bfloat16", "float32"))}


def unsuitable() -> str | None:
    """Return why kernels cannot be used in this process, or should not. It starts JAX's backend."""
    if not hasattr(os, "geteuid"):
        return "they are for Linux and macOS."
    if jax.default_backend() != "cpu":
        return f"they are for CPUs, and JAX computes on {jax.default_backend()} here."
    if jax.device_count() > 1:
        return (
            f"JAX has {jax.device_count()} devices here, and XLA would gather on each of them what is divided among"
            " them. Use one device for a process."
        )
    return None


def fits(plan: Plan, x: Any, epsilon: Any, *parameters: Any) -> bool:
    """Tell whether the kernels can do this call."""
    if (x.dtype, plan.dtype) not in _DTYPES or jnp.ndim(epsilon):
        return False
    # Within shard_map values have types that say along which axes they vary; what the types are called depends on the
    # version of JAX, and that axes are manual does not.
    if jax.sharding.get_abstract_mesh().manual_axes:
        return False
    shapes = tuple(parameter.shape for parameter in parameters if parameter is not None)
    return view_of(plan.over, x.shape, shapes) is not None
