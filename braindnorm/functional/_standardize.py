"""Standardize, scale and shift: which way the arithmetic goes is decided here, and nowhere else."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import cpu_kernels, units
from .._numerics.axes import fit_parameter, leading_ones, split_channels
from .._numerics.elementwise import elementwise
from .._numerics.fused import fused_norm, fused_norm_with_moments
from .._numerics.moments import Moments, Reduction, deviations, local_count, rstd, zero_masked
from .._numerics.plan import Plan, plan_for
from ._enter import Entry, NormOptions, check_flag

EPSILON = 1e-6


# inline: called within another program it leaves no trace there; called outside of any it is compiled once
@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _compiled(
    rule: Callable[..., jax.Array],
    plan: Plan,
    constant: float | None,
    x: Any,
    valid: Any,
    epsilon: Any,
    *parameters: Any,
) -> Any:
    return rule(plan, x, valid, epsilon if constant is None else constant, *parameters)


class Standardization(NamedTuple):
    """How to standardize.

    `reduction` is what the statistics run over; `epsilon` the variance that is added; `centred` whether the mean is
    subtracted; `fast_variance` whether the compensated form may be left out; `keep_padding` whether masked elements are
    standardized with the statistics of the valid ones; `constant` whether the statistics are constants to derivatives.
    """

    reduction: Reduction
    epsilon: Any
    centred: bool
    fast_variance: bool
    keep_padding: bool
    constant: bool


def standardization(
    entry: Entry, reduction: Reduction, options: NormOptions, *, centred: bool = True
) -> Standardization:
    """Return how to standardize an input, with an epsilon that is expressed in the square of its unit."""
    fast = options.get("use_fast_variance", True)
    constant = options.get("stop_statistics_gradient", False)
    check_flag("use_fast_variance", fast)
    check_flag("stop_statistics_gradient", constant)
    epsilon = units.variance_of(options.get("epsilon", EPSILON), entry.unit)
    keep_padding = entry.padding is None and entry.valid is not None
    return Standardization(reduction, epsilon, centred, bool(fast), keep_padding, bool(constant))


def standardize(entry: Entry, how: Standardization) -> jax.Array:
    """Return z * scale + bias, where z is the deviation from the mean over the standard deviation.

    In a group with nothing valid z is 0.
    """
    way = _fused if _local(entry.x, how) else _plain
    return _with_affine(way(entry.x, entry.valid, how, entry.dtype, *_fused_parameters(entry, how)), entry)


class Observed(NamedTuple):
    """The moments that an input was standardized by, with the reduced axes kept and without a gradient."""

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, which nobody asks of moments
    mean: jax.Array
    var: jax.Array


def standardize_and_keep(entry: Entry, how: Standardization) -> tuple[jax.Array, Observed]:
    """Return z * scale + bias as :func:`standardize` does, and the moments."""
    fitted = _fused_parameters(entry, how)
    if _local(entry.x, how):
        arguments = _arguments(entry.x, entry.valid, how, entry.dtype, *fitted)
        y, mean, var = _compiled(_rule(fused_norm_with_moments, how), *arguments)
        count = local_count(entry.x.shape, entry.valid, how.reduction, entry.dtype)
    else:
        y, found = _plain_form(entry.x, entry.valid, how, entry.dtype, *fitted)
        count, mean, var = found.count, found.mean, found.var
    count = jnp.broadcast_to(count, mean.shape)
    observed = Observed(*(jax.lax.stop_gradient(v) for v in (count, mean, var)))
    return _with_affine(y, entry), observed


def standardize_by(entry: Entry, how: Standardization, mean: jax.Array, var: jax.Array) -> jax.Array:
    """Return z * scale + bias by moments that are known, each element by itself."""
    fitted = _fused_parameters(entry, how)
    x = without_padding(entry.x, entry.valid, how.keep_padding)
    return _with_affine(_elementwise(entry.dtype, x, mean, var, how.epsilon, *fitted), entry)


def _with_affine(y: jax.Array, entry: Entry) -> jax.Array:
    """Return what the affine makes of z, if there is one; else scale and bias are in y already."""
    return y if entry.affine is None else entry.affine.execute(y).reshape(y.shape)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _elementwise(dtype: Any, x: Any, mean: Any, var: Any, epsilon: Any, scale: Any, bias: Any) -> jax.Array:
    r = rstd(var, epsilon)
    y: jax.Array = (x.astype(dtype) - mean) * (r if scale is None else r * scale)
    return y if bias is None else y + bias


def without_padding(x: jax.Array, valid: jax.Array | None, keep_padding: bool) -> jax.Array:
    """Return `x` with what is masked finite: its cotangent is 0, and 0 times NaN is NaN."""
    if valid is None:
        return x
    return jnp.where(valid | jnp.isfinite(x), x, 0) if keep_padding else zero_masked(x, valid)


def apply_affine(z: jax.Array, entry: Entry, how: Standardization) -> jax.Array:
    """Return z * scale + bias."""
    if entry.affine is not None:
        return jnp.reshape(entry.affine.execute(z), z.shape)
    return _scale_and_shift(z, *fitted_parameters(entry, how))


def _scale_and_shift(z: jax.Array, scale: Any, bias: Any) -> jax.Array:
    scale, bias = (leading_ones(parameter, z.ndim) for parameter in (scale, bias))
    z = z if scale is None else z * scale
    return z if bias is None else z + bias


def _fused_parameters(entry: Entry, how: Standardization) -> list[jax.Array | None]:
    """Return scale and bias to be computed with z, None where an affine applies them."""
    return [None, None] if entry.affine is not None else fitted_parameters(entry, how)


def fitted_parameters(entry: Entry, how: Standardization) -> list[jax.Array | None]:
    """Return scale and bias as they broadcast to the input, None for what there is not."""
    shape = entry.x.shape
    return [
        None if value is None else fit_parameter(value, shape, option=key) for key, value in entry.parameters.items()
    ]


def _local(x: jax.Array, how: Standardization) -> bool:
    """Tell whether the fast rule may be taken: one device's data, statistics that stay there, padding that is dropped.

    A custom rule may not hold collectives: under vmap it is traced again where their axis is not bound. Arrays of
    explicit sharding carry it in their type, and the rule's products would have to name that of their results.
    """
    explicit = any(part is not None for part in jax.typeof(x).sharding.spec)
    return how.reduction.axis_name is None and not how.keep_padding and not explicit


def _fused(x: jax.Array, valid: jax.Array | None, how: Standardization, dtype: Any, scale: Any, bias: Any) -> jax.Array:
    """Take the fast rule. Channels grouped without other axes are split in two first: then a group is an axis."""
    over, shape = Reduction(how.reduction.axes, how.reduction.channel_axis, how.reduction.num_groups), x.shape
    split = over.channel_axis is not None and not over.axes
    if over.channel_axis is not None and split:
        x = zero_masked(x, valid)  # here, since jax_debug_nans looks at what a reshape returns, padding and all
        channel, groups = over.channel_axis - len(shape), over.num_groups
        x, valid, scale, bias = (split_channels(v, channel, groups) for v in (x, valid, scale, bias))
        over = Reduction((over.channel_axis + 1,))
    plan, *arguments = _arguments(x, valid, how._replace(reduction=over), dtype, scale, bias)
    rule = cpu_kernels.rule_for(plan, x, valid, how.epsilon, scale, bias) or fused_norm
    y: jax.Array = _compiled(_rule(rule, how), plan, *arguments)
    return y.reshape(shape) if split else y


def _rule(rule: Callable[..., Any], how: Standardization) -> Callable[..., Any]:
    return elementwise(rule) if how.constant else rule


def _arguments(x: jax.Array, valid: Any, how: Standardization, dtype: Any, scale: Any, bias: Any) -> tuple[Any, ...]:
    """Return what the fused norm takes: its plan, an epsilon that is a constant or else None, and the arrays."""
    plan = plan_for(
        x.shape,
        x.dtype,
        None if valid is None else valid.shape,
        Reduction(how.reduction.axes, how.reduction.channel_axis, how.reduction.num_groups),
        centred=how.centred,
        compensated=not how.fast_variance,
        dtype=dtype,
    )
    number = isinstance(how.epsilon, float | int)
    constant, epsilon = (float(how.epsilon), None) if number else (None, jnp.asarray(how.epsilon, dtype))
    return plan, constant, x, valid, epsilon, scale, bias


def _plain(x: jax.Array, valid: jax.Array | None, how: Standardization, dtype: Any, scale: Any, bias: Any) -> jax.Array:
    return _plain_form(x, valid, how, dtype, scale, bias)[0]


def _plain_form(
    x: jax.Array, valid: jax.Array | None, how: Standardization, dtype: Any, scale: Any, bias: Any
) -> tuple[jax.Array, Moments]:
    """Return the same by the plain differentiable form, which holds on one device and on many, and the moments."""
    x = without_padding(x, valid, how.keep_padding).astype(dtype)
    found, deviation = deviations(x, how.reduction, valid, centred=how.centred, constant=how.constant)
    r = rstd(found.var, how.epsilon)
    z = deviation * (r if valid is None else jnp.where(found.count > 0, r, 0))
    return _scale_and_shift(z, scale, bias), found
