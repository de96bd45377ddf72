r"""The fast local rule: values and derivatives of one equation, on one device.

.. math:: y = \gamma z + \beta, \quad z = (x - \mu)\, r, \quad r = 1 / \sqrt{\sigma^2 + \varepsilon}

.. math:: \dot y = \gamma r \dot x + z\,(\dot\gamma - \gamma\, t_2) + (\dot\beta - \gamma\, t_1), \quad
   t_1 = r\, \overline{\dot x}, \quad t_2 = r\, \overline{\dot x z} + \tfrac12 r^2 \dot\varepsilon .

The second line is a ``custom_jvp``: forward mode is the line itself, reverse mode its transpose, and a second
derivative differentiates it again. It keeps x, the mean and r, and computes z anew where it needs it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .axes import is_trailing, sum_groups
from .moments import at_least_one, local_count, rstd, whole_groups, zero_masked
from .plan import Centring, Lowering
from .plan import Plan as Plan  # to be imported from here too

Centre = tuple[jax.Array, ...]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def fused_norm(plan: Plan, x: Any, valid: Any, epsilon: Any, scale: Any, bias: Any) -> jax.Array:
    """Return y, in the arithmetic dtype; 0 where it is not valid."""
    return value(plan, x, valid, scale, bias, *statistics(plan, x, valid, epsilon))


@fused_norm.defjvp
def _fused_norm_jvp(plan: Plan, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    x, valid, epsilon, scale, bias = primals
    plan = plan.with_derivatives()
    centre, r = statistics(plan, x, valid, epsilon)
    y = value(plan, x, valid, scale, bias, centre, r)
    dx, _, *others = tangents
    return y, tangent(plan, (x, valid, centre, r, scale), (dx, *others))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def fused_norm_with_moments(
    plan: Plan, x: Any, valid: Any, epsilon: Any, scale: Any, bias: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return y as :func:`fused_norm` does, and the mean and the variance that it was made with, without a gradient."""
    centre, r, var = statistics_with_variance(plan, x, valid, epsilon)
    return value(plan, x, valid, scale, bias, centre, r), sum(centre[1:], centre[0]), var


@fused_norm_with_moments.defjvp
def _with_moments_jvp(plan: Plan, primals: Any, tangents: Any) -> tuple[Any, Any]:
    x, valid, epsilon, scale, bias = primals
    plan = plan.with_derivatives()
    centre, r, var = statistics_with_variance(plan, x, valid, epsilon)
    mean = sum(centre[1:], centre[0])
    y = value(plan, x, valid, scale, bias, centre, r)
    dx, _, *others = tangents
    dy = tangent(plan, (x, valid, centre, r, scale), (dx, *others))
    return (y, mean, var), (dy, jnp.zeros_like(mean), jnp.zeros_like(var))


def value(plan: Plan, x: Any, valid: Any, scale: Any, bias: Any, centre: Centre, r: jax.Array) -> jax.Array:
    """Return y from the statistics."""
    # masked before the product too: a second derivative multiplies what stands here by a cotangent that is 0
    d = _deviation(x.astype(plan.dtype), centre, valid)
    y = d * _times(r, scale) if plan.fenced else _times(d * r, scale)
    return zero_masked(y if bias is None else y + bias, valid)


def statistics(plan: Plan, x: Any, valid: Any, epsilon: Any) -> tuple[Centre, jax.Array]:
    """Return the parts of the mean, and r."""
    return statistics_with_variance(plan, x, valid, epsilon)[:2]


def statistics_with_variance(plan: Plan, x: Any, valid: Any, epsilon: Any) -> tuple[Centre, jax.Array, jax.Array]:
    """Return the parts of the mean, r and the variance, in passes that each read x alone."""
    x = x.astype(plan.dtype)
    n = _count(plan, x, valid)
    if valid is not None and whole_groups(plan.over, valid.shape):
        # a group that is masked as a whole is all 0 now, and so are its deviations
        x, valid = _fence(plan, zero_masked(x, valid)), None
    centre = _centre(plan, x, valid, n)
    d = _deviation(x, _fence(plan, centre) if len(centre) > 1 else centre, valid)
    var = _mean(plan, d * d, n)
    if plan.lowering is Lowering.TILES:
        # without a choice, which XLA would not take into a tile: where this is 0 the deviations are, and so is y
        return centre, jax.lax.rsqrt(jnp.maximum(var + epsilon, np.finfo(plan.dtype).tiny)), var
    centre, r = _fence(plan, (centre, rstd(var, epsilon)))
    return centre, r, var


def _centre(plan: Plan, x: jax.Array, valid: Any, n: Any) -> Centre:
    """Return the parts of the mean, each the mean of what those before it leave."""
    if plan.centring is Centring.NONE:
        return ()
    first = _pilot(plan, x) if plan.centring is Centring.PILOT else _mean(plan, _deviation(x, (), valid), n)
    if plan.centring is Centring.MEAN:
        return (first,)
    # behind a fence of their own for each use, or XLA would write the deviation to memory to share it
    centre = _fence(plan, (first,))
    return (*centre, _mean(plan, _deviation(x, centre, valid), n))


def _pilot(plan: Plan, x: jax.Array) -> Any:
    """Return a centre near the mean: the mean of the first sixteenth of a reduced axis.

    Any centre is exact. This one is off by at most four standard deviations, so a sum of what is left keeps its digits.
    """
    axis = plan.over.axes[0]
    some = jax.lax.slice_in_dim(x, 0, -(-x.shape[axis] // 16), axis=axis)
    return _mean(plan, some, _count(plan, some, None))


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def tangent(plan: Plan, kept: Any, tangents: Any) -> jax.Array:
    """Return the tangent of y. The saved x may be half precision; the fence makes z here another one than in y."""
    x, valid, centre, r, scale = kept
    dx, deps, dscale, dbias = tangents
    x, dx = x.astype(plan.dtype), zero_masked(dx.astype(plan.dtype), valid)
    # one z for each product it stands in, behind fences of their own: shared, it would be kept in memory
    own = _fence(plan, (centre, r))
    z, again = (_deviation(x, parts, valid) * each for parts, each in (own, _fence(plan, own)))
    n = _count(plan, x, valid)
    t1: Any = _mean(plan, dx, n, tangent=True) if plan.centred else None
    if plan.compensated:
        # centred before anything else, so that what is constant leaves no rounding behind
        dx, t1 = _fence(plan, dx - t1), None
    t2 = r * _mean(plan, dx * again, n, tangent=True) + 0.5 * (r * r * deps)
    slope = _spread(plan, -t2, scale, x.shape)
    if dscale is not None:
        slope = slope + _spread(plan, jnp.ones_like(r), dscale, x.shape)
    shift = None if t1 is None else _spread(plan, -r * t1, scale, x.shape)
    if dbias is not None:
        # what is masked stands in memory as rows already, and is summed as they are
        rows = None if valid is None else jnp.ones_like(r)
        offset = _spread(plan, rows, dbias, x.shape)
        shift = offset if shift is None else shift + offset
    r, scale = _fence(plan, (r, scale))
    dy = _times(dx * r, scale) + z * slope
    return zero_masked(dy if shift is None else dy + shift, valid)


def _deviation(x: jax.Array, centre: Centre, valid: Any) -> jax.Array:
    """Return x - mean, and 0 where it is not valid: nothing is ever subtracted from what the padding holds."""
    if not centre:
        return zero_masked(x, valid)
    for part in centre:
        x = (x if valid is None else jnp.where(valid, x, part)) - part
    return x


def _fence(plan: Plan, values: Any) -> Any:
    return jax.lax.optimization_barrier(values) if plan.fenced and jax.tree.leaves(values) else values


def _times(stat: Any, scale: Any) -> Any:
    return stat if scale is None else stat * scale


def _count(plan: Plan, x: jax.Array, valid: Any) -> Any:
    count = local_count(x.shape, valid, plan.over, plan.dtype)
    # the barrier in there keeps a tangent exactly 0, and would keep an accelerator from making one kernel of it all
    return at_least_one(count) if plan.fenced or plan.compensated else jnp.maximum(count, 1)


def _mean(plan: Plan, v: jax.Array, n: Any, *, tangent: bool = False) -> Any:
    """Return the mean over n valid elements, with the reduced axes kept."""
    axes = plan.over.axes
    if plan.over.channel_axis is not None:
        return _combine(plan, _fence(plan, _sum(v, axes)), tangent) / n
    if plan.lowering is not Lowering.DOTS or not is_trailing(axes, v.ndim):
        return _fence(plan, _sum(v, axes)) / n
    kept = v.shape[: axes[0]]
    size = math.prod(v.shape[axes[0] :])
    total = v.reshape(math.prod(kept), size) @ jnp.ones(size, v.dtype)
    return total.reshape(*kept, *[1] * len(axes)) / n


def _sum(v: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Sum over the axes and keep them. A whole array is summed as one row: XLA for CPU then loses fewer digits."""
    if len(axes) < max(v.ndim, 2):
        return jnp.sum(v, axes, keepdims=True)
    return jnp.sum(v.reshape(1, -1), 1).reshape((1,) * v.ndim)


def _combine(plan: Plan, v: jax.Array, tangent: bool) -> jax.Array:
    """Sum over the channels of each group, and give the sum to each of them.

    In a tangent, as a product with ones where that is small: XLA for CPU would take a sum into the pass over x that
    follows. The statistics need the digits that a sum has and a product has not.
    """
    axis, groups = plan.over.channel_axis or 0, plan.over.num_groups
    size = v.shape[axis] // groups
    last = math.prod(v.shape[axis + 1 :]) == 1
    if plan.fenced and tangent and last and size <= 64:
        combined: jax.Array = v.reshape(-1, size) @ jnp.ones((size, size), v.dtype)
        return combined.reshape(v.shape)
    return sum_groups(v, axis, groups)


def _spread(plan: Plan, stat: jax.Array | None, parameter: Any, shape: tuple[int, ...]) -> Any:
    """Return stat * parameter, with 1 for what is None.

    Where the first varies along the rows of x and the second along the columns, it is written as an outer product, or
    as a product of two: they transpose to products of a matrix and a vector, which XLA for CPU does in half the time of
    a sum over rows.
    """
    # in the arithmetic's dtype, so that its gradient is summed in it
    parameter = None if parameter is None else parameter.astype(plan.dtype)
    axes = plan.over.axes
    if stat is None or parameter is None or not (plan.fenced and is_trailing(axes, len(shape))):
        return parameter if stat is None else _times(stat, parameter)
    columns = parameter.shape[-max(len(axes), parameter.ndim) :]
    if columns != shape[-len(columns) :]:
        return stat * parameter
    if len(columns) == len(axes):
        return _outer(stat, parameter).reshape(shape)
    whole = _outer(stat, jnp.ones([shape[axis] for axis in axes], plan.dtype)).reshape(shape)
    return whole * _outer(jnp.ones(shape[: -len(columns)], plan.dtype), parameter).reshape(shape)


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.dot_general(a.reshape(-1), b.reshape(-1), (((), ()), ((), ())))
