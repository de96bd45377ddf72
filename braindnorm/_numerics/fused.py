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
import numpy as np

from ..units import Mantissa, Shape
from . import pilot
from .axes import is_trailing, leading_ones, sum_groups
from .barriers import fence, unknown
from .moments import at_least_one, choose, local_count, rstd, whole_groups, zero_masked
from .plan import Centring
from .plan import Plan as Plan  # to be imported from here too
from .products import outer, times
from .shapes import Centre, Float, Mask, Parameter, Statistic, Values
from .sums import by_products_below, spread, total, total_of_groups

# how many elements are valid
Count = Float[jax.Array, "*#shape"] | Float[jax.Array, ""]
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
    return value(plan, x, valid, scale, bias, *statistics(plan, x, valid, epsilon))


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
    centre, r, var = statistics_with_variance(plan, x, valid, epsilon)
    count = local_count(x.shape, valid, plan.reduction, plan.dtype)
    return value(plan, x, valid, scale, bias, centre, r), count, sum(centre[1:], centre[0]), var


@fused_norm_with_moments.defjvp
def _with_moments_jvp(plan: Plan, primals: Primals, tangents: Tangents) -> tuple[WithMoments, WithMoments]:
    x, valid, epsilon, scale, bias = primals
    plan = plan.with_derivatives()
    centre, r, var = statistics_with_variance(plan, x, valid, epsilon)
    moments = local_count(x.shape, valid, plan.reduction, plan.dtype), sum(centre[1:], centre[0]), var
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
    d = _deviation(x.astype(plan.dtype), centre, valid)
    scale, bias = (leading_ones(parameter, x.ndim) for parameter in (scale, bias))
    y = _times(d * r, scale) if plan.tiles else d * _times(r, scale)
    return zero_masked(y if bias is None else y + bias, valid)


def statistics(plan: Plan, x: Values, valid: Mask, epsilon: Mantissa) -> tuple[Centre, Statistic]:
    """Return the parts of the mean, and r."""
    return statistics_with_variance(plan, x, valid, epsilon)[:2]


def statistics_with_variance(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa
) -> tuple[Centre, Statistic, Statistic]:
    """Return the parts of the mean, r and the variance, in passes that each read x alone."""
    x = x.astype(plan.dtype)
    barrier = functools.partial(fence, size=x.size, tiles=plan.tiles)
    n = _count(plan, x, valid)
    if valid is not None and whole_groups(plan.reduction, valid.shape):
        # a group that is masked as a whole is all 0 now, and so are its deviations
        x, valid = fence(zero_masked(x, valid), size=x.size), None
    centre = _centre(plan, x, valid, n)
    d = _deviation(x, barrier(centre) if len(centre) > 1 else centre, valid)
    var = _mean(plan, d * d, n)
    centre, r = barrier((centre, _rstd_in_tiles(var + epsilon) if plan.tiles else rstd(var, epsilon)))
    return centre, r, var


def _rstd_in_tiles(var: jax.Array) -> jax.Array:
    """Return 1/sqrt(var) without a choice, which XLA would not take into a tile: where it is 0, so is x - mean."""
    return jax.lax.rsqrt(jnp.maximum(var, np.finfo(var.dtype).tiny))


def _centre(plan: Plan, x: Values, valid: Mask, n: Count) -> Centre:
    """Return the parts of the mean, each the mean of what those before it leave."""
    if plan.centring is Centring.NONE:
        return ()
    if plan.centring is Centring.PILOT:
        first = _pilot(plan, x) if valid is None else pilot.centre(x, valid, plan.reduction)
    else:
        first = _mean(plan, _deviation(x, (), valid), n)
    if plan.centring is Centring.MEAN:
        return (first,)
    # behind a fence of their own for each use, or XLA would write the deviation to memory to share it
    centre = fence((first,), size=x.size, tiles=plan.tiles)
    return (*centre, _mean(plan, _deviation(x, centre, valid), n))


def _pilot(plan: Plan, x: Values) -> Statistic:
    """Return a centre near the mean: the mean of the first sixteenth of a reduced axis.

    Any centre is exact. This one is off by at most four standard deviations, so a sum of what is left keeps its digits.
    """
    axis = plan.reduction.axes[0]
    some = jax.lax.slice_in_dim(x, 0, -(-x.shape[axis] // 16), axis=axis)
    if plan.reduction.channel_axis is None and all(some.shape[axis] == 1 for axis in plan.reduction.axes):
        return some
    return _mean(plan, some, _count(plan, some, None))


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def tangent(plan: Plan, kept: Kept, tangents: tuple[jax.Array, jax.Array, Parameter, Parameter]) -> jax.Array:
    """Return the tangent of y. The saved x may be half precision; the fence makes z here another one than in y."""
    x, valid, centre, r, scale = kept
    dx, deps, dscale, dbias = tangents
    x, dx = x.astype(plan.dtype), zero_masked(dx.astype(plan.dtype), valid)
    # one z for each product it stands in, behind fences of their own: shared, it would be kept in memory
    pair = fence((centre, r), size=x.size)
    z, again = (_deviation(x, parts, valid) * each for parts, each in (pair, fence(pair, size=x.size)))
    n = _count(plan, x, valid)
    t1: jax.Array | None = _mean(plan, dx, n, tangent=True) if plan.centred else None
    if plan.compensated and t1 is not None:
        # centred before anything else, so that what is constant leaves no rounding behind
        dx, t1 = fence(dx - t1), None
    t2 = r * _mean(plan, dx * again, n, tangent=True) + 0.5 * (r * r * deps)
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


def _deviation(x: Values, centre: Centre, valid: Mask) -> Values:
    """Return x - mean, and 0 where it is not valid: nothing is ever subtracted from what the padding holds.

    XLA for CPU adds what a choice returns in one pass; the mean it would first write to memory as often as x has rows.
    """
    if not centre:
        return zero_masked(x, valid)
    x = x if valid is None else choose(valid, x, centre[0])
    for part in centre:
        x = x - part
    return zero_masked(x, valid)


def _times(stat: jax.Array, scale: Parameter) -> jax.Array:
    return stat if scale is None else stat * scale


def _count(plan: Plan, x: Values, valid: Mask) -> Count:
    count = local_count(x.shape, None if valid is None else unknown(valid), plan.reduction, plan.dtype, total=total)
    if plan.compensated:
        return at_least_one(count)  # the barrier in there keeps a tangent exactly 0, on every platform
    return fence(jnp.maximum(count, 1), size=x.size, tiles=plan.tiles)


def _mean(plan: Plan, v: Values, n: Count, *, tangent: bool = False) -> Statistic:
    """Return the mean over n valid elements, with the reduced axes kept."""
    reduction = plan.reduction
    above = 0 if reduction.channel_axis is not None else by_products_below(v.shape, reduction.axes)
    summed = fence(total(v, reduction.axes), size=v.size, above=above, tiles=plan.tiles)
    if reduction.channel_axis is None:
        return summed / n
    # the statistics need the digits that a sum has and a product has not
    combine = total_of_groups if tangent else sum_groups
    return combine(summed, reduction.channel_axis, reduction.num_groups) / n


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
