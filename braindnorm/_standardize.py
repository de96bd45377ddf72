"""Standardize, scale and shift: which way the arithmetic goes is decided here, and nowhere else."""

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ._axes import fit_parameter
from ._core import Plan, normalized
from ._moments import Reduction, deviations, rstd, zero_masked

# XLA for CPU sums small arrays faster as products with ones; above this many elements as sums
SMALL = 65536
# a longer product with ones, taken one by one, loses digits
SHORT = 512

# inline: called within another program it leaves no trace there; called outside of any it is compiled once
_compiled = jax.jit(normalized, static_argnums=0, inline=True)


class Affine(Protocol):
    """What applies scale and bias: a ParamState whose `execute` may be more than arithmetic."""

    value: Any

    def execute(self, x: jax.Array) -> jax.Array:
        """Apply scale and bias to z."""


class Standardization(NamedTuple):
    """How to standardize.

    `over` is what the statistics run over; `epsilon` the variance that is added; `centred` whether the mean is
    subtracted; `fast_variance` whether the compensated form may be left out; `keep_padding` whether masked elements are
    standardized with the statistics of the valid ones.
    """

    over: Reduction
    epsilon: Any
    centred: bool
    fast_variance: bool
    keep_padding: bool


def standardize(
    x: jax.Array,
    valid: jax.Array | None,
    how: Standardization,
    dtype: Any,
    *,
    scale: Any = None,
    bias: Any = None,
    affine: Affine | None = None,
) -> jax.Array:
    """Return z * scale + bias, where z is the deviation from the mean over the standard deviation.

    The arithmetic is done in `dtype`. In a group with nothing valid z is 0.
    """
    learned = {"scale": scale, "bias": bias} if affine is None else {}
    parameters = [
        None if learned.get(key) is None else fit_parameter(learned[key], x.shape, option=key, name=how.over.name)
        for key in ("scale", "bias")
    ]
    if _local(x, how):
        y = _compiled(_plan(x, how, dtype), x, valid, how.epsilon, *parameters)
    else:
        y = _plain(x.astype(dtype), valid, how, *parameters)
    return y if affine is None else affine.execute(y).reshape(y.shape)


def _local(x: jax.Array, how: Standardization) -> bool:
    """Tell whether the fast rule may be taken: one device's data, statistics that stay there, padding that is dropped.

    A custom rule may not hold collectives: under vmap it is traced again where their axis is not bound. Arrays of
    explicit sharding carry it in their type, and the rule's products would have to name that of their results.
    """
    explicit = any(part is not None for part in jax.typeof(x).sharding.spec)
    return how.over.axis_name is None and not how.keep_padding and not explicit


def _plan(x: jax.Array, how: Standardization, dtype: Any) -> Plan:
    """Return what the fast rule is specialized for. GPU and TPU fuse sums and need neither fences nor products."""
    cpu = jax.default_backend() == "cpu"
    over = Reduction(how.over.axes, how.over.channel_axis, how.over.num_groups)
    products = cpu and x.size <= SMALL and math.prod(x.shape[axis] for axis in over.axes) <= SHORT
    return Plan(over, how.centred, how.centred and not how.fast_variance, jnp.dtype(dtype), cpu, products)


def _plain(x: jax.Array, valid: jax.Array | None, how: Standardization, scale: Any, bias: Any) -> jax.Array:
    """Return the same by the plain differentiable form, which holds on one device and on many."""
    if valid is not None:
        # what is masked must be finite: its cotangent is 0, and 0 times NaN is NaN
        x = jnp.where(valid | jnp.isfinite(x), x, 0) if how.keep_padding else zero_masked(x, valid)
    found, deviation = deviations(x, how.over, valid, centred=how.centred)
    r = rstd(found.var, how.epsilon)
    z = deviation * (r if valid is None else jnp.where(found.count > 0, r, 0))
    z = z if scale is None else z * scale
    return z if bias is None else z + bias
