"""The statistics of the fast rule: a mean in parts, r and the variance, in passes that each read x alone."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from ..units import Mantissa
from . import pilot
from .axes import sum_groups
from .barriers import fence, unknown
from .cleared import cleared
from .counts import pilot_axis
from .moments import at_least_one, choose, local_count, rstd, whole_groups, zero_masked
from .plan import Centring, Plan
from .shapes import Centre, Float, Mask, Statistic, Values
from .sums import sizes_of_products, total, total_of_groups

# how many elements are valid
Count = Float[jax.Array, "*#shape"] | Float[jax.Array, ""]


def statistics(plan: Plan, x: Values, valid: Mask, epsilon: Mantissa) -> tuple[Centre, Statistic]:
    """Return the parts of the mean, and r."""
    return statistics_with_variance(plan, x, valid, epsilon)[:2]


def statistics_with_variance(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa
) -> tuple[Centre, Statistic, Statistic]:
    """Return the parts of the mean, r and the variance, in passes that each read x alone."""
    x = x.astype(plan.dtype)
    barrier = functools.partial(fence, size=x.size, unless=plan.unfenced)
    n = count_of(plan, x, valid)
    if valid is not None and whole_groups(plan.reduction, valid.shape):
        # a group that is masked as a whole is all 0 now, and so are its deviations
        x, valid = fence(zero_masked(x, valid), size=x.size), None
    centre, var = centre_and_variance(plan, x, valid, n)
    centre, r = barrier((centre, _rstd_in_one_piece(var + epsilon) if plan.unfenced else rstd(var, epsilon)))
    return centre, r, var


def _rstd_in_one_piece(var: jax.Array) -> jax.Array:
    """Return 1/sqrt(var) without a choice, which XLA would compute apart: where it is 0, so is x - mean.

    Nor is there a maximum, in which XLA for CPU loses what is NaN.
    """
    return jax.lax.rsqrt(var + np.finfo(var.dtype).tiny)


def centre_and_variance(plan: Plan, x: Values, valid: Mask, n: Count) -> tuple[Centre, Statistic]:
    """Return the parts of the mean, each the mean of what those before it leave, and the variance.

    Where there are two parts, one pass gives the second and the variance: about a number that is near the mean, both
    keep their digits.
    """
    if plan.centring is Centring.NONE:
        return (), mean_of(plan, deviation(x, (), valid) ** 2, n)
    if plan.centring is Centring.PILOT:
        first = _pilot(plan, x) if valid is None else pilot.centre(x, valid, plan.reduction)
        if not plan.unfenced:  # what is left then shows which infinities there are, for who asks for the mean
            first = choose(jnp.isfinite(first), first, jnp.zeros_like(first))
    else:
        first = mean_of(plan, deviation(x, (), valid), n)
    if plan.centring is Centring.MEAN:
        return (first,), mean_of(plan, deviation(x, (first,), valid) ** 2, n)
    (first,) = fence((first,), size=x.size, unless=plan.unfenced)
    d = deviation(x, (first,), valid)
    rest = mean_of(plan, d, n)
    var = mean_of(plan, d * d, n) - rest * rest
    # below 0 it is the rounding of 0; a choice XLA would compute apart
    positive = jnp.abs(var) if plan.unfenced else choose(var < 0, jax.lax.full_like(var, 0), var)
    return (first, rest), positive


def sum_of_parts(centre: Centre) -> Statistic:
    """Return the mean of which these are the parts: where x is infinite so is the first, and the others are NaN."""
    near, *left = centre
    return choose(jnp.isfinite(near), sum(left, near), near)


def _pilot(plan: Plan, x: Values) -> Statistic:
    """Return a centre near the mean: the mean of the first sixteenth of a reduced axis.

    Any centre is exact. This one is off by at most four standard deviations, so a sum of what is left keeps its digits.
    """
    axes, channel = plan.reduction.axes, plan.reduction.channel_axis
    some = pilot.first_sixteenth(jax.lax.stop_gradient(x), pilot_axis(x.shape, (1,) * x.ndim, axes))
    n = math.prod(some.shape[axis] for axis in axes)
    if channel is None and n == 1:
        return some
    # over a number that the compiler knows: of a centre no digit matters
    summed = fence(total(some, axes), size=x.size, unless=plan.unfenced)
    if channel is None:
        return summed / n
    groups = plan.reduction.num_groups
    return sum_groups(summed, channel, groups) / (n * x.shape[channel] // groups)


def deviation(x: Values, centre: Centre, valid: Mask) -> Values:
    """Return x - mean, and 0 where it is not valid: nothing is ever subtracted from what the padding holds.

    XLA for CPU adds what a choice returns in one pass; the mean it would first write to memory as often as x has rows.
    """
    if not centre:
        return cleared(x, valid)
    x = x if valid is None else choose(valid, x, centre[0])
    for part in centre:
        x = x - part
    return zero_masked(x, valid)


def count_of(plan: Plan, x: Values, valid: Mask) -> Count:
    count = local_count(x.shape, None if valid is None else unknown(valid), plan.reduction, plan.dtype, total=total)
    if plan.compensated:
        return at_least_one(count)  # the barrier in there keeps a tangent exactly 0, on every platform
    count = jnp.maximum(count, 1)
    known = valid is None or plan.reduction.counts is not None
    return count if known else fence(count, size=x.size, unless=plan.unfenced)


def mean_of(plan: Plan, v: Values, n: Count, *, tangent: bool = False) -> Statistic:
    """Return the mean over n valid elements, with the reduced axes kept."""
    reduction = plan.reduction
    products = () if reduction.channel_axis is not None else sizes_of_products(v.shape, reduction.axes)
    summed = fence(total(v, reduction.axes), size=v.size, unless=plan.unfenced + products)
    if reduction.channel_axis is None:
        return summed / n
    # the statistics need the digits that a sum has and a product has not
    combine = total_of_groups if tangent else sum_groups
    return combine(summed, reduction.channel_axis, reduction.num_groups) / n
