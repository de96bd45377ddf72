"""Standardize, scale and shift: which way the arithmetic goes is decided here, and nowhere else."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from .. import cpu_kernels, units
from .._numerics.axes import fit_parameter, leading_ones, split_channels
from .._numerics.cleared import cleared
from .._numerics.deferred import is_explicit
from .._numerics.elementwise import elementwise_norm, elementwise_norm_with_moments
from .._numerics.fused import fused_norm, fused_norm_with_moments
from .._numerics.moments import Moments, Reduction, deviations, rstd, zero_masked
from .._numerics.plan import Plan, plan_for
from .._numerics.shapes import Float, Mask, Parameter, Values
from ..units import Dtype, Mantissa
from ._enter import Entry, NormOptions, check_flag
from ._reduction import on_one_device

EPSILON = 1e-6
R = TypeVar("R")
# a mean or a variance, broadcast from the right
Moment = Float[jax.Array, "..."]
# what the fused norm takes: the plan, an epsilon that is a constant, x, the mask, another epsilon, scale and bias
FusedArguments = tuple[Plan, float | None, jax.Array, Mask, jax.Array | None, Parameter, Parameter]


# inline: called within another program it leaves no trace there; called outside of any it is compiled once
@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _compiled(
    rule: Callable[..., R],
    plan: Plan,
    constant: float | None,
    x: jax.Array,
    valid: jax.Array | None,
    epsilon: jax.Array | None,
    *parameters: jax.Array | None,
) -> R:
    return rule(plan, x, valid, epsilon if constant is None else constant, *parameters)


class Standardization(NamedTuple):
    """How to standardize.

    `reduction` is what the statistics run over; `epsilon` the variance that is added; `centred` whether the mean is
    subtracted; `fast_variance` whether the compensated form may be left out; `keep_padding` whether masked elements are
    standardized with the statistics of the valid ones; `constant` whether the statistics are constants to derivatives.
    """

    reduction: Reduction
    epsilon: Mantissa
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


def is_zeroed(entry: Entry, spec: Standardization) -> bool:
    """Tell whether what `standardize` returns is 0 wherever it is masked."""
    return _local(entry.x, spec) and entry.affine is None


def standardize(entry: Entry, spec: Standardization) -> jax.Array:
    """Return z * scale + bias, where z is the deviation from the mean over the standard deviation.

    In a group with nothing valid z is 0.
    """
    way = _fused if _local(entry.x, spec) else _plain
    return _with_affine(way(entry, spec, *_fused_parameters(entry, spec)), entry)


class Observed(NamedTuple):
    """The moments of an input, with the reduced axes kept."""

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, which nobody asks of moments
    mean: jax.Array
    var: jax.Array


def standardize_and_keep(entry: Entry, spec: Standardization) -> tuple[jax.Array, Observed]:
    """Return z * scale + bias as :func:`standardize` does, and the moments without a gradient."""
    fitted = _fused_parameters(entry, spec)
    if _local(entry.x, spec):
        over = on_one_device(spec.reduction, entry.x.shape, entry.constant)
        plan, *arguments = _arguments(entry.x, entry.valid, over, spec, entry.dtype, *fitted)
        plain = elementwise_norm_with_moments if spec.constant else fused_norm_with_moments
        rule = cpu_kernels.rule_with_moments_for(
            plan, entry.x, entry.valid, spec.epsilon, *fitted, constant=spec.constant
        )
        y, count, mean, var = _compiled(rule or plain, plan, *arguments)
    else:
        y, moments = _plain_form(entry, spec, *fitted)
        count, mean, var = moments.count, moments.mean, moments.var
    count = jnp.broadcast_to(count, mean.shape)
    observed = Observed(*(jax.lax.stop_gradient(v) for v in (count, mean, var)))
    return _with_affine(y, entry), observed


def standardize_by(entry: Entry, spec: Standardization, mean: jax.Array, var: jax.Array) -> jax.Array:
    """Return z * scale + bias by moments that are known, each element by itself."""
    fitted = _fused_parameters(entry, spec)
    x = without_padding(entry.x, entry.valid, spec.keep_padding)
    return _with_affine(_elementwise(entry.dtype, x, mean, var, spec.epsilon, *fitted), entry)


def _with_affine(y: jax.Array, entry: Entry) -> jax.Array:
    """Return what the affine makes of z, if there is one; else scale and bias are in y already."""
    return y if entry.affine is None else entry.affine.execute(y).reshape(y.shape)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _elementwise(
    dtype: Dtype,
    x: Values,
    mean: Moment,
    var: Moment,
    epsilon: Mantissa,
    scale: Parameter,
    bias: Parameter,
) -> Values:
    r = rstd(var, epsilon)
    y = (x.astype(dtype) - mean) * (r if scale is None else r * scale)
    return y if bias is None else y + bias


def without_padding(x: Values, valid: Mask, keep_padding: bool) -> Values:
    """Return `x` with what is masked finite: its cotangent is 0, and 0 times NaN is NaN."""
    if valid is None:
        return x
    return jnp.where(valid | jnp.isfinite(x), x, 0) if keep_padding else zero_masked(x, valid)


def apply_affine(z: jax.Array, entry: Entry, spec: Standardization) -> jax.Array:
    """Return z * scale + bias."""
    if entry.affine is not None:
        return jnp.reshape(entry.affine.execute(z), z.shape)
    return _scale_and_shift(z, *fitted_parameters(entry, spec))


def _scale_and_shift(z: Values, scale: Parameter, bias: Parameter) -> Values:
    scale, bias = (leading_ones(parameter, z.ndim) for parameter in (scale, bias))
    z = z if scale is None else z * scale
    return z if bias is None else z + bias


def _fused_parameters(entry: Entry, spec: Standardization) -> list[jax.Array | None]:
    """Return scale and bias to be computed with z, None where an affine applies them."""
    return [None, None] if entry.affine is not None else fitted_parameters(entry, spec)


def fitted_parameters(entry: Entry, spec: Standardization) -> list[jax.Array | None]:
    """Return scale and bias as they broadcast to the input, None for what there is not."""
    shape = entry.x.shape
    return [
        None if value is None else fit_parameter(value, shape, option=key) for key, value in entry.parameters.items()
    ]


def _local(x: jax.Array, spec: Standardization) -> bool:
    """Tell whether the fast rule may be taken: one device's data, statistics that stay there, padding that is dropped.

    A custom rule may not hold collectives: under vmap it is traced again where their axis is not bound. The rule's
    products do not name the sharding of their results, as those of explicit arrays would have to.
    """
    return not spec.keep_padding and stays_here(x, spec.reduction)


def stays_here(x: jax.Array, reduction: Reduction) -> bool:
    """Tell whether the statistics stay on one device, as far as the types say."""
    return reduction.axis_name is None and not is_explicit(x)


def _fused(entry: Entry, spec: Standardization, scale: Parameter, bias: Parameter) -> Values:
    """Take the fast rule. Channels grouped without other axes are split in two first: then a group is an axis."""
    x, valid, constant, over, shape = entry.x, entry.valid, entry.constant, spec.reduction, entry.x.shape
    split = over.channel_axis is not None and not over.axes and over.num_groups > 1
    if over.channel_axis is not None and split:
        x = cleared(x, valid)  # here, since jax_debug_nans looks at what a reshape returns, padding and all
        channel, groups = over.channel_axis - len(shape), over.num_groups
        x = split_channels(x, channel, groups)
        constant = split_channels(constant, channel, groups)
        valid, scale, bias = (split_channels(v, channel, groups) for v in (valid, scale, bias))
        over = Reduction((over.channel_axis + 1,))
    over = on_one_device(over, x.shape, constant)
    plan, *arguments = _arguments(x, valid, over, spec, entry.dtype, scale, bias)
    plain = elementwise_norm if spec.constant else fused_norm
    rule = cpu_kernels.rule_for(plan, x, valid, spec.epsilon, scale, bias, constant=spec.constant)
    y: jax.Array = _compiled(rule or plain, plan, *arguments)
    return y.reshape(shape) if split else y


def _arguments(
    x: Values,
    valid: Mask,
    over: Reduction,
    spec: Standardization,
    dtype: Dtype,
    scale: Parameter,
    bias: Parameter,
) -> FusedArguments:
    """Return what the fused norm takes: its plan, an epsilon that is a constant or else None, and the arrays."""
    plan = plan_for(
        x.shape,
        x.dtype,
        None if valid is None else valid.shape,
        over,
        centred=spec.centred,
        compensated=not spec.fast_variance,
        dtype=dtype,
    )
    if isinstance(spec.epsilon, float | int):
        return plan, float(spec.epsilon), x, valid, None, scale, bias
    return plan, None, x, valid, jnp.asarray(spec.epsilon, dtype), scale, bias


def _plain(entry: Entry, spec: Standardization, scale: Parameter, bias: Parameter) -> Values:
    return _plain_form(entry, spec, scale, bias)[0]


def _plain_form(entry: Entry, spec: Standardization, scale: Parameter, bias: Parameter) -> tuple[Values, Moments]:
    """Return the same by the plain differentiable form, which holds on one device and on many, and the moments."""
    valid = entry.valid
    x = without_padding(entry.x, valid, spec.keep_padding).astype(entry.dtype)
    moments, deviation = deviations(x, spec.reduction, valid, centred=spec.centred, constant=spec.constant)
    r = rstd(moments.var, spec.epsilon)
    z = deviation * (r if valid is None else jnp.where(moments.count > 0, r, 0))
    return _scale_and_shift(z, scale, bias), moments
