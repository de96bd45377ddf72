"""The mean and the variance alone, with their derivatives: the mean as the float near it, and what its rounding left.

The mean of squared deviations from any number is the variance and the square of what that is away from the mean.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..units import Shape
from .barriers import fence
from .deferred import TINY, Deferred, by_tangents, is_constant, lanes_first
from .moments import whole_groups, zero_masked
from .plan import Centring, Plan
from .shapes import Centre, Mask, Statistic, Values
from .statistics import Count, centre_and_variance, count_of, deviation, mean_of
from .sums import SMALL, kept_shape, plain_sum

# the parts of the mean, and the variance
Moments = tuple[Centre, Statistic]
# from SMALL to so many elements under a mask a CPU adds up in double precision, which it compiles in half the time of a
# centre near the mean that a mask may miss; fewer it adds up in one thread, and single precision
DOUBLE = 2**18


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def mean_and_variance(plan: Plan, x: Values, valid: Mask) -> Moments:
    r"""Return the parts of the mean, and the variance, with a derivative that keeps no array in memory but x.

    .. math:: \dot\mu = \overline{\dot x}, \quad \dot{\sigma^2} = 2\, \overline{(x - \mu)\, \dot x}
    """
    x = x.astype(plan.dtype)
    n = count_of(plan, x, valid)
    if valid is not None and whole_groups(plan.reduction, valid.shape):
        # a group that is masked as a whole is all 0 now, and so are its deviations
        x, valid = fence(zero_masked(x, valid), size=x.size), None
    if plan.centring is Centring.MEAN:
        return centre_and_variance(plan, x, valid, n)
    near, left, var = fence(_in_parts(x, n, *(() if valid is None else (valid,)), plan=plan))
    return (near, left), var


@mean_and_variance.defjvp
def _jvp(plan: Plan, primals: tuple[Values, Mask], tangents: tuple[Values, object]) -> tuple[Moments, Moments]:
    x, valid = primals
    centre, var = mean_and_variance(plan, x, valid)
    dmean, dvar = _tangents(plan, x, valid, centre, tangents[0])
    return (centre, var), ((*map(jnp.zeros_like, centre[:-1]), dmean), dvar)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def _tangents(plan: Plan, x: Values, valid: Mask, centre: Centre, dx: Values) -> tuple[Statistic, Statistic]:
    dx, n = zero_masked(dx.astype(plan.dtype), valid), count_of(plan, x, valid)
    d = deviation(x.astype(plan.dtype), fence(centre, size=x.size), valid)
    return mean_of(plan, dx, n, tangent=True), 2 * mean_of(plan, d * dx, n, tangent=True)


def _by_centre(x: Values, n: Count, valid: Mask = None, *, plan: Plan) -> list[Statistic]:
    (centre, rest), var = centre_and_variance(plan, x, valid, n)
    near = centre + rest
    gained = near - centre
    return [near, (centre - (near - gained)) + (rest - gained), var]


def _on_cpu(x: Values, n: Count, valid: Mask = None, *, plan: Plan) -> list[Statistic]:
    manual = jax.sharding.get_abstract_mesh().manual_axes  # traced among what is single precision
    if (
        manual
        or x.dtype != np.float32
        or not is_constant(x.shape)
        or not _in_double(x.size, valid is not None and plan.reduction.counts is None)
    ):
        return _by_centre(x, n, valid, plan=plan)
    seen = zero_masked(x, valid)
    with jax.enable_x64(True):
        wide = functools.partial(jax.lax.convert_element_type, new_dtype=np.float64)
        mean = plain_sum(wide(seen), axes=plan.reduction.axes) / wide(n)
        # a quotient as the last step: XLA for CPU takes what is cheaper into the pass over x, once for each element
        near = mean.astype(np.float32) / jax.lax.optimization_barrier(jnp.ones((), np.float32))
        left = (mean - wide(near)).astype(np.float32)
    near, left = fence((near, left))
    d = deviation(x, (near,), valid)
    return [near, left, jnp.maximum(mean_of(plan, d * d, n) - left * left, 0)]


def _in_double(size: int, may_miss: bool) -> bool:
    return size <= TINY or (may_miss and SMALL < size <= DOUBLE)


def _batch(values: Sequence[Any], dims: Sequence[Any], *, plan: Plan) -> tuple[list[jax.Array], list[int]]:
    ndim = max(v.ndim - (dim is not None) for v, dim in zip(values, dims, strict=True))
    moved = [v.reshape(v.shape[:1] + (1,) * (ndim + 1 - v.ndim) + v.shape[1:]) for v in lanes_first(values, dims)]
    return _in_parts(*moved, plan=plan._replace(reduction=plan.reduction.behind_lanes())), [0, 0, 0]


def _shapes(x: Shape, n: Shape, valid: Shape = (), *, plan: Plan) -> list[Shape]:
    # lanes may differ in their masks alone
    return [jnp.broadcast_shapes(kept_shape(jnp.broadcast_shapes(x, valid), axes=plan.reduction.axes), n)] * 3


def _along(primals: Sequence[Any], tangents: Sequence[Any], *, plan: Plan) -> tuple[list[jax.Array], list[jax.Array]]:
    x, _, *valid = primals
    near, left, var = _in_parts(*primals, plan=plan)
    dmean, dvar = _tangents(plan, x, valid[0] if valid else None, (near, left), tangents[0])
    return [near, left, var], [jnp.zeros_like(near), dmean, dvar]


_in_parts: Deferred[list[jax.Array]] = Deferred(
    "mean_in_parts",
    _by_centre,
    _on_cpu,
    several=True,
    shape=_shapes,
    batch=_batch,
    differentiate=by_tangents(_along),
)
