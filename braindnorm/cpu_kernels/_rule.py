"""The fast rule of ``braindnorm._numerics.fused`` with kernels in it: the value, and the gradient of a cotangent."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad

from .._numerics import fused
from .._numerics.moments import local_count
from .._numerics.plan import Plan
from .._numerics.shapes import Centre, Mask, Parameter, Values
from .._numerics.statistics import statistics_with_variance, sum_of_parts
from ..units import Dtype, Mantissa
from . import _calls
from ._calls import Constants, Inputs, Kept, Results
from ._placement import alike
from ._view import View, are_columns, split_statistics, view_of
from ._with_kernel import WithKernel

Operands = tuple[jax.Array, Mask, jax.Array, jax.Array, jax.Array]
# the scale, and the tangents of epsilon, scale and bias
Moving = tuple[jax.Array, jax.Array | None, jax.Array | None, jax.Array | None]


def kernel_norm(plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter) -> Values:
    """Return y, in the arithmetic dtype; 0 where it is not valid."""
    return _normalized(plan, *_whole_operands(plan, x, valid, epsilon, scale, bias))


def kernel_norm_with_moments(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter
) -> Results:
    """Return y of columns, and their count, mean and variance, which carry no gradient."""
    return _normalized_with_moments(plan, *_whole_operands(plan, x, valid, epsilon, scale, bias))


def kernel_norm_elementwise(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter
) -> Values:
    """Return y by statistics that are constants to every derivative."""
    x, valid, eps, scale, bias = _whole_operands(plan, x, valid, epsilon, scale, bias)
    return _value_elementwise(plan, (x, valid), (eps, scale, bias))[0]


def kernel_norm_elementwise_with_moments(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter
) -> Results:
    """Return the same of columns, and their count, mean and variance."""
    x, valid, eps, scale, bias = _whole_operands(plan, x, valid, epsilon, scale, bias)
    y, kept = _value_elementwise(plan, (x, valid), (eps, scale, bias))
    return y, *_moments(plan, kept, x, valid)


def _whole_operands(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter
) -> Operands:
    """Return what the kernels take."""
    shapes = tuple(parameter.shape for parameter in (scale, bias) if parameter is not None)
    view = view_of(plan.reduction, x.shape, shapes)
    assert view is not None, "the kernels were asked for what they cannot do"
    scale, bias = (_whole(view, parameter, absent, plan.dtype) for parameter, absent in ((scale, 1), (bias, 0)))
    operands = [v for v in (x, valid, jnp.asarray(epsilon, plan.dtype), scale, bias) if v is not None]
    x, *mask, epsilon, scale, bias = alike(operands, operands)
    return x, mask[0] if mask else None, epsilon, scale, bias


def _whole(view: View, parameter: Parameter, absent: float, dtype: Dtype) -> jax.Array:
    """Return a parameter with an entry for each channel of each group."""
    if parameter is None:
        return jnp.full(view.parameter, absent, dtype)
    spare = max(parameter.ndim - len(view.parameter), 0)
    return jnp.broadcast_to(parameter.reshape(parameter.shape[spare:]).astype(dtype), view.parameter)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _normalized(plan: Plan, x: Values, valid: Mask, epsilon: jax.Array, scale: jax.Array, bias: jax.Array) -> Values:
    return _value_alone(plan, (x, valid), (epsilon, scale, bias))[0]


@functools.partial(_normalized.defjvp, symbolic_zeros=True)
def _normalized_jvp(plan: Plan, primals: Operands, tangents: Sequence[Any]) -> tuple[jax.Array, jax.Array]:
    y, _, dy = _with_tangent(plan, primals, tangents)
    return y, dy


def _with_tangent(plan: Plan, primals: Operands, tangents: Sequence[Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return y, what is kept of the statistics, and the tangent of y."""
    x, valid, epsilon, scale, bias = primals
    y, kept = _value(plan, (x, valid), (epsilon, scale, bias))
    dx, _, deps, dscale, dbias = (None if isinstance(t, SymbolicZero) else t for t in tangents)
    dx = jnp.zeros_like(x) if dx is None else dx
    return y, kept, _tangent(plan, (x, valid, kept, dx), (scale, deps, dscale, dbias))[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _normalized_with_moments(
    plan: Plan, x: Values, valid: Mask, epsilon: jax.Array, scale: jax.Array, bias: jax.Array
) -> Results:
    y, kept = _value(plan, (x, valid), (epsilon, scale, bias))
    return y, *_moments(plan, kept, x, valid)


@functools.partial(_normalized_with_moments.defjvp, symbolic_zeros=True)
def _normalized_with_moments_jvp(plan: Plan, primals: Operands, tangents: Sequence[Any]) -> tuple[Results, Results]:
    y, kept, dy = _with_tangent(plan, primals, tangents)
    moments = _moments(plan, kept, *primals[:2])
    return (y, *moments), (dy, *map(jnp.zeros_like, moments))


def _moments(plan: Plan, kept: jax.Array, x: jax.Array, valid: Mask) -> Results:
    """Return the count, the mean and the variance of each column."""
    mean, rest, _, var, count = split_statistics(plan.reduction, kept, x.ndim)
    count = local_count(x.shape, None, plan.reduction, plan.dtype) if valid is None else count
    return count, sum_of_parts((mean, rest)), var


def _plain_value(plan: Plan, rows: Inputs, shared: Constants, *, constant: bool = False) -> Results:
    (x, valid), (epsilon, scale, bias) = rows, shared
    plan = plan.with_derivatives()
    centre, r, var = statistics_with_variance(plan, jax.lax.stop_gradient(x) if constant else x, valid, epsilon)
    y = fused.value(plan, x, valid, scale, bias, centre, r)
    parts = [*centre, *[jnp.zeros_like(r)] * (2 - len(centre)), r]
    if not are_columns(plan.reduction, x.ndim):
        return y, jnp.stack(parts, -1)
    count = local_count(x.shape, valid, plan.reduction, plan.dtype)
    return y, jnp.concatenate([*parts, var, jnp.broadcast_to(count, var.shape)], plan.reduction.axes[0])


def _statistics(plan: Plan, kept: jax.Array, ndim: int) -> tuple[Centre, jax.Array]:
    """Return the parts of the mean and r, which are kept in one array: a loop then carries one."""
    mean, rest, r = split_statistics(plan.reduction, kept, ndim)[:3]
    return (mean, rest) if plan.centred else (), r


def _plain_value_alone(plan: Plan, rows: Inputs, shared: Constants) -> Results:
    return (fused.fused_norm(plan, *rows, *shared),)


def _plain_tangent(plan: Plan, rows: Kept, shared: Moving) -> Results:
    (x, valid, kept, dx), (scale, deps, dscale, dbias) = rows, shared
    centre, r = _statistics(plan, kept, x.ndim)
    deps = jnp.zeros((), plan.dtype) if deps is None else deps
    return (fused.tangent(plan, (x, valid, centre, r, scale), (dx, deps, dscale, dbias)),)


def _plain_gradient(plan: Plan, rows: Kept, shared: tuple[jax.Array]) -> Results:
    (x, valid, kept, g), (scale,) = rows, shared

    def along(dx: jax.Array, dscale: jax.Array, dbias: jax.Array) -> jax.Array:
        return _plain_tangent(plan, (x, valid, kept, dx), (scale, None, dscale, dbias))[0]

    return tuple(jax.linear_transpose(along, x, scale, scale)(g))


def _fold(plan: Plan) -> Plan:
    """Return the plan for arrays with one more leading axis."""
    return plan._replace(reduction=plan.reduction.behind_lanes())


def _transposed(plan: Plan, rows: Kept, shared: Moving, cotangents: list[jax.Array], lanes: int) -> object:
    """Transpose the tangent by the kernel, unless the cotangent of epsilon is asked for."""
    (x, valid, kept, dx), (scale, deps, *parameters), (g,) = rows, shared, cotangents
    if ad.is_undefined_primal(deps):
        return None
    asked = [ad.is_undefined_primal(parameter) for parameter in parameters]
    arguments = (x, valid, kept, g), (scale,)
    if not ad.is_undefined_primal(dx):
        gradients: Sequence[jax.Array | None] = (None, *_gradient_of_parameters(plan, *arguments, lanes))
    else:
        gradients = (_gradient if any(asked) else _gradient_of_x)(plan, *arguments, lanes)
    by_parameter = [gradients[1 + i] if wanted else None for i, wanted in enumerate(asked)]
    return (None, None, None, gradients[0]), (None, None, *by_parameter)


_value_alone = WithKernel("braindnorm_value_alone", _plain_value_alone, _calls.value_alone, fold=_fold)
_value = WithKernel("braindnorm_value", _plain_value, _calls.value, fold=_fold)
_value_elementwise = WithKernel(
    "braindnorm_value_elementwise", functools.partial(_plain_value, constant=True), _calls.value, fold=_fold
)
_tangent = WithKernel("braindnorm_tangent", _plain_tangent, transposed=_transposed, fold=_fold)
_gradient = WithKernel("braindnorm_gradient", _plain_gradient, _calls.gradient)
_gradient_of_parameters: WithKernel[Kept, tuple[jax.Array]] = WithKernel(
    "braindnorm_gradient_of_parameters",
    lambda plan, rows, shared: _plain_gradient(plan, rows, shared)[1:],
    _calls.gradient_of_parameters,
)
_gradient_of_x: WithKernel[Kept, tuple[jax.Array]] = WithKernel(
    "braindnorm_gradient_of_x",
    lambda plan, rows, shared: _plain_gradient(plan, rows, shared)[:1],
    _calls.gradient_of_x,
    fold=_fold,
)
