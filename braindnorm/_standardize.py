"""Standardize, scale and shift: which way the arithmetic goes is decided here, and nowhere else."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ._axes import fit_parameter
from ._moments import Reduction, deviations, rstd, zero_masked


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
    z = _plain(x.astype(dtype), valid, how)
    if affine is not None:
        return affine.execute(z).reshape(z.shape)
    if scale is not None:
        z = z * fit_parameter(scale, z.shape, option="scale", name=how.over.name)
    if bias is not None:
        z = z + fit_parameter(bias, z.shape, option="bias", name=how.over.name)
    return z


def _plain(x: jax.Array, valid: jax.Array | None, how: Standardization) -> jax.Array:
    """Return z by the plain differentiable form, which holds on one device and on many."""
    if valid is not None:
        # what is masked must be finite: its cotangent is 0, and 0 times NaN is NaN
        x = jnp.where(valid | jnp.isfinite(x), x, 0) if how.keep_padding else zero_masked(x, valid)
    found, deviation = deviations(x, how.over, valid, centred=how.centred)
    scale = rstd(found.var, how.epsilon)
    return deviation * (scale if valid is None else jnp.where(found.count > 0, scale, 0))
