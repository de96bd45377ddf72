r"""The fast local rule: values and derivatives of one equation, on one device.

.. math:: y = \gamma z + \beta, \quad z = (x - \mu)\, r, \quad r = 1 / \sqrt{\sigma^2 + \varepsilon}

.. math:: \dot y = \gamma r \dot x + z\,(\dot\gamma - \gamma\, t_2) + (\dot\beta - \gamma\, t_1), \quad
   t_1 = r\, \overline{\dot x}, \quad t_2 = r\, \overline{\dot x z} + \tfrac12 r^2 \dot\varepsilon .

The second line is a ``custom_jvp``: forward mode is the line itself, reverse mode its transpose, and a second
derivative differentiates it again. It keeps x, the mean and r, and computes z anew where it needs it.
"""

import functools
import math

import jax
import jax.numpy as jnp

from ..units import Mantissa, Shape
from .axes import is_trailing, leading_ones
from .barriers import fence
from .cleared import cleared
from .moments import choose, local_count, zero_masked
from .plan import Plan as Plan  # to be imported from here too
from .products import outer, times
from .shapes import Centre, Mask, Parameter, Statistic, Values
from .statistics import Count, count_of, deviation, mean_of, statistics, statistics_with_variance, sum_of_parts
from .sums import spread

# of what fused_norm takes; what is None has no tangent
Primals = tuple[jax.Array, Mask, Mantissa, Parameter, Parameter]
Tangents = tuple[jax.Array, object, jax.Array, Parameter, Parameter]
# y, the count, the mean and the variance
WithMoments = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
# x, the mask, the mean, r and the scale
Kept = tuple[jax.Array, Mask, Centre, jax.Array, Parameter]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def fused_norm(plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter) -> Values:
    """Return y, in the arithmetic dtype; 0 where it is not valid."""
    return _value_alone(plan, x, valid, scale, bias, *statistics(plan, x, valid, epsilon))


@fused_norm.defjvp
def _fused_norm_jvp(plan: Plan, primals: Primals, tangents: Tangents) -> tuple[jax.Array, jax.Array]:
    x, valid, epsilon, scale, bias = primals
    plan = plan.with_derivatives()
    centre, r = statistics(plan, x, valid, epsilon)
    y = value(plan, x, valid, scale, bias, centre, r)
    dx, _, deps, dscale, dbias = tangents
    return y, tangent(plan, (x, valid, centre, r, scale), (dx, deps, dscale, dbias))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def fused_norm_with_moments(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter
) -> tuple[Values, Count, Statistic, Statistic]:
    """Return y as :func:`fused_norm` does, and the count, the mean and the variance, without a gradient."""
    plan = plan.with_derivatives()  # not in one piece, in which an infinite mean may not be seen
    centre, r, var = statistics_with_variance(plan, x, valid, epsilon)
    count = local_count(x.shape, valid, plan.reduction, plan.dtype)
    return _value_alone(plan, x, valid, scale, bias, centre, r), count, sum_of_parts(centre), var


@fused_norm_with_moments.defjvp
def _with_moments_jvp(plan: Plan, primals: Primals, tangents: Tangents) -> tuple[WithMoments, WithMoments]:
    x, valid, epsilon, scale, bias = primals
    plan = plan.with_derivatives()
    centre, r, var = statistics_with_variance(plan, x, valid, epsilon)
    moments = local_count(x.shape, valid, plan.reduction, plan.dtype), sum_of_parts(centre), var
    y = value(plan, x, valid, scale, bias, centre, r)
    dx, _, deps, dscale, dbias = tangents
    dy = tangent(plan, (x, valid, centre, r, scale), (dx, deps, dscale, dbias))
    count, mean, var = map(jnp.zeros_like, moments)
    return (y, *moments), (dy, count, mean, var)


def value(
    plan: Plan, x: Values, valid: Mask, scale: Parameter, bias: Parameter, centre: Centre, r: Statistic
) -> Values:
    """Return y from the statistics."""
    # masked before the product too: a second derivative multiplies what stands here by a cotangent that is 0
    d = deviation(x.astype(plan.dtype), centre, valid)
    return zero_masked(_scaled(plan, d, scale, bias, r), valid)


def _value_alone(
    plan: Plan, x: Values, valid: Mask, scale: Parameter, bias: Parameter, centre: Centre, r: Statistic
) -> Values:
    """Return y where nothing is differentiated, in half the time."""
    d = deviation(cleared(x.astype(plan.dtype), valid), centre, None)
    return zero_masked(_scaled(plan, d, scale, bias, r), valid)


def _scaled(plan: Plan, d: Values, scale: Parameter, bias: Parameter, r: Statistic) -> Values:
    scale, bias = (leading_ones(parameter, d.ndim) for parameter in (scale, bias))
    y = _times(d * r, scale) if plan.unfenced else d * _times(r, scale)
    return y if bias is None else y + bias


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def tangent(plan: Plan, kept: Kept, tangents: tuple[jax.Array, jax.Array, Parameter, Parameter]) -> jax.Array:
    """Return the tangent of y. The saved x may be half precision; the fence makes z here another one than in y."""
    x, valid, centre, r, scale = kept
    dx, deps, dscale, dbias = tangents
    x, dx = x.astype(plan.dtype), zero_masked(dx.astype(plan.dtype), valid)
    # one z for each product it stands in, behind fences of their own: shared, it would be kept in memory
    pair = fence((centre, r), size=x.size)
    z, again = (deviation(x, parts, valid) * each for parts, each in (pair, fence(pair, size=x.size)))
    n = count_of(plan, x, valid)
    t1: jax.Array | None = mean_of(plan, dx, n, tangent=True) if plan.centred else None
    if plan.compensated and t1 is not None:
        # centred before anything else, so that what is constant leaves no rounding behind
        dx, t1 = fence(dx - t1), None
    t2 = r * mean_of(plan, dx * again, n, tangent=True) + 0.5 * (r * r * deps)
    ones = _ones(r)
    slope = _spread(plan, -t2, scale, x.shape, ones=ones)
    if dscale is not None:
        slope = slope + _spread(plan, ones, dscale, x.shape, ones=ones)
    shift = None if t1 is None else _spread(plan, -r * t1, scale, x.shape, ones=ones)
    if dbias is not None:
        # what is masked stands in memory as rows already, and is summed as they are
        offset = _spread(plan, ones, dbias, x.shape, ones=ones, dots=valid is None)
        shift = offset if shift is None else shift + offset
    r, scale = fence((r, scale), size=x.size)
    dy = _times(dx * r, leading_ones(scale, x.ndim)) + z * slope
    return zero_masked(dy if shift is None else dy + shift, valid)


def _times(stat: jax.Array, scale: Parameter) -> jax.Array:
    return stat if scale is None else stat * scale


def _spread(
    plan: Plan, stat: jax.Array, parameter: Parameter, shape: Shape, *, ones: jax.Array, dots: bool = True
) -> jax.Array:
    """Return stat * parameter in a given shape, with 1 for a parameter that is None.

    Where the first varies along the rows of x and the second along the columns, it is an outer product, or a product of
    two; `dots` False has their transposes summed by multiplications. `ones` is as many as `stat`.
    """
    if parameter is None:
        return spread(stat, shape)
    # in the arithmetic's dtype, so that its gradient is summed in it
    parameter = parameter.astype(plan.dtype)
    axes = plan.reduction.axes
    columns = parameter.shape[-max(len(axes), parameter.ndim) :]
    fits = len(columns) >= len(axes) and columns == shape[-len(columns) :]
    if not is_trailing(axes, len(shape)) or not fits or 0 in shape:
        return spread(times(stat, parameter), shape)
    if len(columns) == len(axes):
        return outer(stat.reshape(-1), parameter.reshape(-1), dots=dots).reshape(shape)
    row = jnp.ones(math.prod(shape[axis] for axis in axes), plan.dtype)
    whole = outer(stat.reshape(-1), row, dots=dots).reshape(shape)
    rows = shape[: -len(columns)]
    first = ones.reshape(*ones.shape[: len(rows)], -1)[..., 0]
    return whole * outer(jnp.broadcast_to(first, rows).reshape(-1), parameter.reshape(-1), dots=dots).reshape(shape)


def _ones(v: Values) -> Values:
    """Return ones that ``vmap`` takes for as many as there are of `v`, and XLA for a constant.

    What is the same in all lanes would be summed over them by itself, in the transpose.
    """
    return choose(v == v, jax.lax.full_like(v, 1), jax.lax.full_like(v, 1))
