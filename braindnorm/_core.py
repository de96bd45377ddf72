r"""The fast local rule: values and derivatives of one equation, on one device.

.. math:: y = \gamma z + \beta, \quad z = (x - \mu)\, r, \quad r = 1 / \sqrt{\sigma^2 + \varepsilon}

.. math:: \dot y = \gamma r \dot x + z\,(\dot\gamma - \gamma\, t_2) + (\dot\beta - \gamma\, t_1), \quad
   t_1 = r\, \overline{\dot x}, \quad t_2 = r\, \overline{\dot x z} + \tfrac12 r^2 \dot\varepsilon .

The second line is a ``custom_jvp``: forward mode is the line itself, reverse mode its transpose, and a second
derivative differentiates it again. It keeps x, the mean and r, and computes z anew where it needs it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._moments import Reduction, at_least_one, local_count, local_sum, rstd, zero_masked

Centre = tuple[jax.Array, ...]


class Plan(NamedTuple):
    """What is known before any number is: the reduction, the terms of the equation, and how to sum.

    `centred` subtracts the mean; `compensated` adds to it what rounding took, and gives a constant shift a tangent of
    exactly 0. The arithmetic is done in `dtype`. `fenced` puts barriers where XLA for CPU would keep x - mean in
    memory; `products` sums by products with ones, which it does faster on small arrays.
    """

    over: Reduction
    centred: bool
    compensated: bool
    dtype: Any
    fenced: bool
    products: bool


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def normalized(plan: Plan, x: Any, valid: Any, epsilon: Any, scale: Any, bias: Any) -> jax.Array:
    """Return y, in the arithmetic dtype; 0 where it is not valid."""
    return _value(plan, x, valid, scale, bias, *_statistics(plan, x, valid, epsilon))


@normalized.defjvp
def _normalized_jvp(plan: Plan, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    x, valid, epsilon, scale, bias = primals
    centre, r = _statistics(plan, x, valid, epsilon)
    y = _value(plan, x, valid, scale, bias, centre, r)
    dx, _, *others = tangents
    return y, _tangent(plan, (x, valid, centre, r, scale), (dx, *others))


def _value(plan: Plan, x: Any, valid: Any, scale: Any, bias: Any, centre: Centre, r: jax.Array) -> jax.Array:
    y = _deviation(x.astype(plan.dtype), centre) * _times(r, scale)
    return zero_masked(y if bias is None else y + bias, valid)


def _statistics(plan: Plan, x: Any, valid: Any, epsilon: Any) -> tuple[Centre, jax.Array]:
    """Return the parts of the mean, and r, in passes that each read x alone."""
    x = x.astype(plan.dtype)
    n = _count(plan, x, valid)
    centre: Centre = ()
    for _ in range(plan.centred * (1 + plan.compensated)):
        part = _mean(plan, zero_masked(_deviation(x, centre), valid), n)
        centre = (*centre, _fence(plan, part) if plan.compensated else part)
    d = zero_masked(_deviation(x, centre), valid)
    centre, r = _fence(plan, (centre, rstd(_mean(plan, d * d, n), epsilon)))
    return centre, r


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def _tangent(plan: Plan, kept: Any, tangents: Any) -> jax.Array:
    """Return the tangent of y. The saved x may be half precision; the fence makes z here another one than in y."""
    x, valid, centre, r, scale = kept
    dx, deps, dscale, dbias = tangents
    z = zero_masked(_deviation(x.astype(plan.dtype), _fence(plan, centre)), valid) * r
    dx = zero_masked(dx.astype(plan.dtype), valid)
    n = _count(plan, x, valid)
    t1: Any = _mean(plan, dx, n) if plan.centred else None
    if plan.compensated:
        # centred before anything else, so that what is constant leaves no rounding behind
        dx, t1 = dx - t1, None
    t2 = r * _mean(plan, dx * z, n) + 0.5 * r * r * deps
    slope = -_outer(plan, t2, scale, x.shape)
    dy = _times(dx * r, scale) + z * (slope if dscale is None else dscale + slope)
    if t1 is not None:
        dy = dy - _outer(plan, r * t1, scale, x.shape)
    return zero_masked(dy if dbias is None else dy + dbias, valid)


def _deviation(x: jax.Array, centre: Centre) -> jax.Array:
    for part in centre:
        x = x - part
    return x


def _fence(plan: Plan, values: Any) -> Any:
    return jax.lax.optimization_barrier(values) if plan.fenced else values


def _times(stat: Any, scale: Any) -> Any:
    return stat if scale is None else stat * scale


def _count(plan: Plan, x: jax.Array, valid: Any) -> Any:
    return at_least_one(local_count(x.shape, valid, plan.over, plan.dtype))


def _mean(plan: Plan, v: jax.Array, n: Any) -> Any:
    """Return the mean over n valid elements, with the reduced axes kept."""
    axes = plan.over.axes
    if not (plan.products and _trailing(axes, v.ndim)):
        return local_sum(v, plan.over) / n
    ones = jnp.ones([v.shape[axis] for axis in axes], v.dtype)
    total = jax.lax.dot_general(v, ones, ((axes, range(len(axes))), ((), ())))
    return jnp.expand_dims(total, axes) / n


def _outer(plan: Plan, stat: jax.Array, scale: Any, shape: tuple[int, ...]) -> Any:
    """Return stat * scale. Written as a product of matrices it transposes to one of a matrix and a vector."""
    axes = plan.over.axes
    reduced = tuple(shape[axis] for axis in axes)
    if scale is None or not (plan.fenced and _trailing(axes, len(shape)) and scale.shape[-len(axes) :] == reduced):
        return _times(stat, scale)
    if scale.size != scale.reshape(-1, *reduced)[0].size:
        return _times(stat, scale)
    return jax.lax.dot_general(jnp.squeeze(stat, axes), scale.reshape(reduced), (((), ()), ((), ())))


def _trailing(axes: tuple[int, ...], ndim: int) -> bool:
    return bool(axes) and axes == tuple(range(ndim - len(axes), ndim))
