"""What is recorded of one call of a norm: a few sums that add up over groups, batches and devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.moments import Moments, Reduction, across_devices, deviations, local_sum
from ..functional._dtypes import real_array
from ..layers import DivisiveNorm, OverTime
from ..layers._norm import Norm
from ..layers._watch import Call
from ..masks._align import align
from ..masks._step_mask import with_step_mask
from ..units import HostResult, Mantissa, QuantityLike, Shape, Unit

# what is recorded
AnyNorm = Norm | OverTime | DivisiveNorm

# The sums, in the order in which they are kept.
_GROUPS = ("elements", "valid", "total", "m2", "out_total", "out_m2", "silent", "spikes", "groups", "single", "flat")
_RUNNING = ("kept", "kept_mean", "kept_var")
SUMS = _GROUPS + _RUNNING


class Record(NamedTuple):
    """The statistics of a norm, one entry a step; NaN in a step in which nothing was valid.

    `count` is how many valid elements there were and `masked` the share of those that were not. `mean` and `std` are of
    the input, in the input's unit: the mean of all valid elements, and the root of the mean variance within the groups
    of this step, weighted by their valid elements (what the norm divides by, but for an RMSNorm, a DivisiveNorm and an
    OverTime). `out_mean` and `out_std` are the same of the output, in its unit. `running_mean` and `running_std` are
    what a BatchNorm keeps after the call, mean and root of the mean variance over its channels (and steps); NaN of the
    other norms.
    """

    count: np.ndarray  # type: ignore[assignment]  # hides tuple.count
    masked: np.ndarray
    mean: HostResult
    std: HostResult
    out_mean: HostResult
    out_std: HostResult
    running_mean: HostResult
    running_std: HostResult


def totals_of(norm: AnyNorm, call: Call, unit: Unit, out_unit: Unit) -> jax.Array:
    """Return the sums of one call, in the order of :data:`SUMS`, as one row a step, counted in the units given."""
    x, y = (_plain(v, kept) for v, kept in ((call.x, unit), (call.y, out_unit)))
    valid = align(with_step_mask(call.mask, call.x, norm.in_size), x.shape)
    seen = jnp.ones(x.shape, bool) if valid is None else jnp.broadcast_to(valid, x.shape)
    declared = epsilon_of(norm)
    epsilon = None if declared is None else units.variance_of(declared, unit)
    if not (call.whole_sequence and isinstance(norm, OverTime)):
        return _row(norm, (x, y, seen), epsilon)[None]
    steps = tuple(jnp.moveaxis(v, norm.time_axis, 0) for v in (x, y, seen))
    rows: jax.Array = jax.lax.map(lambda step: _row(norm, step, epsilon), steps)
    return rows


def _row(norm: AnyNorm, step: tuple[jax.Array, ...], epsilon: Mantissa | None) -> jax.Array:
    x, y, valid = step
    reduction = _reduction(norm, x.shape)
    moments, _ = deviations(x, reduction, valid)
    written, _ = deviations(y, reduction, valid)
    counted = (jnp.ones_like(valid), valid, valid & (x == 0), valid & (x == 1))
    local = [local_sum(v.astype(x.dtype), reduction) for v in counted]
    elements, count, silent, spikes = across_devices(local, reduction)
    power = moments.var + jnp.square(moments.mean) if not getattr(norm, "centred", True) else moments.var
    several = count > 1
    flat = jnp.zeros_like(several) if epsilon is None else several & (power < epsilon)
    single = jnp.zeros_like(several) if epsilon is None else count == 1
    # a group's sums stand at each of its channels
    copies = 1 if reduction.channel_axis is None else x.shape[reduction.channel_axis] // reduction.num_groups
    sums = [elements, count, *_sums(moments, count), *_sums(written, count), silent, spikes, several, single, flat]
    sums += _running(norm, x.dtype)
    added: jax.Array = _over_batch(jnp.stack([jnp.sum(jnp.broadcast_to(v, count.shape)) / copies for v in sums]))
    return added


def record_of(rows: np.ndarray, unit: Unit, out_unit: Unit) -> Record:
    """Read the sums of several calls as statistics with units."""
    column = dict(zip(SUMS, rows.T, strict=True))
    valid = np.where(column["valid"] > 0, column["valid"], np.nan)
    std, out_std = (np.sqrt(column[key] / valid) for key in ("m2", "out_m2"))
    kept = np.where(column["kept"] > 0, column["kept"], np.nan)
    return Record(
        column["valid"],
        1 - column["valid"] / column["elements"],
        units.restore(column["total"] / valid, unit),
        units.restore(std, unit),
        units.restore(column["out_total"] / valid, out_unit),
        units.restore(out_std, out_unit),
        units.restore(column["kept_mean"] / kept, unit),
        units.restore(np.sqrt(column["kept_var"] / kept), unit),
    )


def _plain(x: QuantityLike, unit: Unit) -> jax.Array:
    """Return the mantissa of `x` in a unit, in float32 at least, without derivatives."""
    array = real_array(units.strip(x, unit)[0])
    return jax.lax.stop_gradient(array.astype(jnp.promote_types(array.dtype, jnp.float32)))


def epsilon_of(norm: AnyNorm) -> QuantityLike | None:
    """Return what is added to the variance of each step; None where that of a step does not divide."""
    return None if isinstance(norm, OverTime | DivisiveNorm) else norm.epsilon


def _reduction(norm: AnyNorm, shape: Shape) -> Reduction:
    """Return what the statistics of a step of this shape run over."""
    stepped = norm.norm if isinstance(norm, OverTime) else norm
    return stepped.reduction(shape)


def _running(norm: AnyNorm, dtype: jnp.dtype) -> list[jax.Array]:
    """Return 1, the running mean and the running variance of each channel; zeros where a norm keeps none."""
    stepped = norm.norm if isinstance(norm, OverTime) else norm
    states = [getattr(stepped, key, None) for key in ("running_mean", "running_var")]
    values = [jnp.zeros((), dtype) if state is None else state.value.astype(dtype) for state in states]
    if getattr(stepped, "running_steps", None) is not None:
        values = [v.mean(0) for v in values]
    return [jnp.full((), states[0] is not None, dtype), *values]


def _sums(moments: Moments, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sum of the elements of each group, and of their squared deviations."""
    return moments.mean * count, jnp.broadcast_to(moments.m2, count.shape)


@jax.custom_batching.custom_vmap
def _over_batch(totals: jax.Array) -> jax.Array:
    """Add up over the batch under ``vmap``, so that the State that keeps the sums has no batch axis."""
    return totals


@_over_batch.def_vmap
def _add_up(axis_size: int, in_batched: list[bool], totals: jax.Array) -> tuple[jax.Array, bool]:
    (batched,) = in_batched
    return _over_batch(jnp.sum(totals, axis=0) if batched else totals), False
