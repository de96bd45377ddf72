"""The fast rule of ``braindnorm._numerics.fused`` with kernels in it: the value, and the gradient of a cotangent."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad

from .._numerics import fused
from .._numerics.plan import Plan
from .._numerics.shapes import Centre, Mask, Parameter, Values
from ..units import Dtype, Mantissa, Shape
from ._library import target
from ._view import View, gather_statistic, is_worth_it, mask_of, spread_statistic, view_of
from ._with_kernel import WithKernel

# x and the mask; epsilon, scale and bias
Inputs = tuple[jax.Array, Mask]
Constants = tuple[jax.Array, jax.Array, jax.Array]
# x, the mask, r, the parts of the mean, and a tangent or a cotangent of x
Kept = tuple[jax.Array, Mask, jax.Array, Centre, jax.Array]
# the scale, and the tangents of epsilon, scale and bias
Moving = tuple[jax.Array, jax.Array | None, jax.Array | None, jax.Array | None]
Results = tuple[jax.Array, ...]


def kernel_norm(plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter) -> Values:
    """Return y, in the arithmetic dtype; 0 where it is not valid."""
    view = _seen(plan, x.shape, tuple(parameter.shape for parameter in (scale, bias) if parameter is not None))
    scale, bias = (_whole(view, parameter, absent, plan.dtype) for parameter, absent in ((scale, 1), (bias, 0)))
    return _normalized(plan, x, valid, jnp.asarray(epsilon, plan.dtype), scale, bias)


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
def _normalized_jvp(
    plan: Plan, primals: tuple[jax.Array, Mask, jax.Array, jax.Array, jax.Array], tangents: Sequence[Any]
) -> tuple[jax.Array, jax.Array]:
    x, valid, epsilon, scale, bias = primals
    y, r, *centre = _value(plan, (x, valid), (epsilon, scale, bias))
    dx, _, deps, dscale, dbias = (None if isinstance(t, SymbolicZero) else t for t in tangents)
    dx = jnp.zeros_like(x) if dx is None else dx
    return y, _tangent(plan, (x, valid, r, tuple(centre), dx), (scale, deps, dscale, dbias))[0]


def _plain_value(plan: Plan, rows: Inputs, shared: Constants) -> Results:
    (x, valid), (epsilon, scale, bias) = rows, shared
    plan = plan.with_derivatives()
    centre, r = fused.statistics(plan, x, valid, epsilon)
    y = fused.value(plan, x, valid, scale, bias, centre, r)
    return y, r, *centre, *[jnp.zeros_like(r)] * (2 * plan.centred - len(centre))


def _kernel_value(plan: Plan, rows: Inputs, shared: Constants) -> Results:
    (x, valid), (epsilon, scale, bias) = rows, shared
    view = _seen(plan, x.shape, (scale.shape,))
    if not is_worth_it(view, x.shape):
        return _plain_value(plan, rows, shared)
    statistic = jax.ShapeDtypeStruct((view.batch * view.groups,), plan.dtype)
    results = (jax.ShapeDtypeStruct(x.shape, plan.dtype), *[statistic] * 3)
    y, mean, rest, r = _call("braindnorm_forward", results, plan, view, x, valid, epsilon, scale, bias)
    centre = (mean, rest) if plan.centred else ()
    return y, *(spread_statistic(view, plan.reduction, x.shape, v) for v in (r, *centre))


def _plain_value_alone(plan: Plan, rows: Inputs, shared: Constants) -> Results:
    return (fused.fused_norm(plan, *rows, *shared),)


def _kernel_value_alone(plan: Plan, rows: Inputs, shared: Constants) -> Results:
    x, scale = rows[0], shared[1]
    if not is_worth_it(_seen(plan, x.shape, (scale.shape,)), x.shape):
        return _plain_value_alone(plan, rows, shared)
    return _kernel_value(plan, rows, shared)[:1]


def _plain_tangent(plan: Plan, rows: Kept, shared: Moving) -> Results:
    (x, valid, r, centre, dx), (scale, deps, dscale, dbias) = rows, shared
    deps = jnp.zeros((), plan.dtype) if deps is None else deps
    return (fused.tangent(plan, (x, valid, centre, r, scale), (dx, deps, dscale, dbias)),)


def _plain_gradient(plan: Plan, rows: Kept, shared: tuple[jax.Array]) -> Results:
    (x, valid, r, centre, g), (scale,) = rows, shared

    def along(dx: jax.Array, dscale: jax.Array, dbias: jax.Array) -> jax.Array:
        return _plain_tangent(plan, (x, valid, r, centre, dx), (scale, None, dscale, dbias))[0]

    return tuple(jax.linear_transpose(along, x, scale, scale)(g))


def _kernel_gradient(plan: Plan, rows: Kept, shared: tuple[jax.Array]) -> Results:
    (x, valid, r, centre, g), (scale,) = rows, shared
    view = _seen(plan, x.shape, (scale.shape,))
    if not is_worth_it(view, x.shape):
        return _plain_gradient(plan, rows, shared)
    statistics = [gather_statistic(plan.reduction, v) for v in (*(centre or (jnp.zeros_like(r),) * 2), r)]
    results = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (x, scale, scale)]
    return _call("braindnorm_backward", results, plan, view, x, valid, g, scale, *statistics)


def _call(
    name: str,
    results: Sequence[jax.ShapeDtypeStruct],
    plan: Plan,
    view: View,
    x: jax.Array,
    valid: Mask,
    *others: jax.Array,
) -> Results:
    call: Callable[..., Sequence[jax.Array]] = jax.ffi.ffi_call(target(name), results)
    mask = mask_of(view, plan.reduction, x.shape, valid)
    return tuple(call(x, mask, *others, lengths=view.lengths, centred=plan.centred))


def _fold(plan: Plan) -> Plan:
    """Return the plan for arrays with one more leading axis."""
    reduction = plan.reduction
    channel = None if reduction.channel_axis is None else reduction.channel_axis + 1
    moved = reduction._replace(axes=tuple(axis + 1 for axis in reduction.axes), channel_axis=channel)
    return plan._replace(reduction=moved)


def _seen(plan: Plan, shape: Shape, parameters: tuple[Shape, ...]) -> View:
    view = view_of(plan.reduction, shape, parameters)
    assert view is not None, "the kernels were asked for what they cannot do"
    return view


def _transposed(plan: Plan, rows: Kept, shared: Moving, cotangents: list[jax.Array]) -> object:
    """Transpose the tangent by the kernel, unless the cotangent of epsilon is asked for."""
    (x, valid, r, centre, _), (scale, deps, *parameters), (g,) = rows, shared, cotangents
    if ad.is_undefined_primal(deps):
        return None
    asked = [ad.is_undefined_primal(parameter) for parameter in parameters]
    dx, *gradients = (_gradient if any(asked) else _gradient_of_x)(plan, (x, valid, r, centre, g), (scale,))
    by_parameter = [gradients[i] if wanted else None for i, wanted in enumerate(asked)]
    return (*[jax.tree.map(lambda _: None, part) for part in rows[:-1]], dx), (None, None, *by_parameter)


_value_alone = WithKernel("braindnorm_value_alone", _plain_value_alone, _kernel_value_alone, fold=_fold)
_value = WithKernel("braindnorm_value", _plain_value, _kernel_value, fold=_fold)
_tangent = WithKernel("braindnorm_tangent", _plain_tangent, transposed=_transposed, fold=_fold)
_gradient = WithKernel("braindnorm_gradient", _plain_gradient, _kernel_gradient)
_gradient_of_x: WithKernel[Kept, tuple[jax.Array]] = WithKernel(
    "braindnorm_gradient_of_x",
    lambda plan, rows, shared: _plain_gradient(plan, rows, shared)[:1],
    lambda plan, rows, shared: _kernel_gradient(plan, rows, shared)[:1],
    fold=_fold,
)
