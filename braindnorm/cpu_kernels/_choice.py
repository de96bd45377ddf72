"""Whether kernels are to be used: in this process, and for this call."""

import os

import jax
import jax.numpy as jnp

from .._numerics.plan import Plan
from ..units import Mantissa
from ._placement import can_be_alike
from ._view import view_of

SWITCHED_OFF = os.environ.get("BRAINDNORM_KERNELS", "").strip() == "0"

# of the input, of the arithmetic
_DTYPES = {(jnp.dtype(x), jnp.dtype(y)) for x, y in (("float32",) * 2, ("float64",) * 2, ("bfloat16", "float32"))}


def unsuitable() -> str | None:
    """Return why kernels cannot be used in this process, or should not. It starts JAX's backend."""
    if SWITCHED_OFF:
        return "the environment variable BRAINDNORM_KERNELS=0 switches them off."
    if jax.default_backend() != "cpu":
        return f"they are for CPUs, and JAX computes on {jax.default_backend()} here."
    return None


def fits(plan: Plan, x: jax.Array, valid: jax.Array | None, epsilon: Mantissa, *parameters: jax.Array | None) -> bool:
    """Tell whether the kernels can do this call."""
    if (x.dtype, plan.dtype) not in _DTYPES or jnp.ndim(epsilon):
        return False
    arrays = [v for v in (valid, *parameters) if v is not None]
    if jax.sharding.get_abstract_mesh().manual_axes and not can_be_alike((x, *arrays)):
        return False
    shapes = tuple(parameter.shape for parameter in parameters if parameter is not None)
    view = view_of(plan.reduction, x.shape, shapes)
    return view is not None and (plan.centred or not view.columns)
