r"""The moments of the first steps of a row, for every number of them at once: without a loop, by two products.

Every step is of equally many elements :math:`n` and fades what came before to :math:`d` of its weight. Then the weights
are the same for all rows. With the means :math:`\mu_s` and the sums of squares :math:`q_s` of the steps alone, the mean
of the steps before t lies below that of step t by a sum of increments,

.. math:: g_t = \mu_t - \bar\mu_{t-1} = \sum_{u \le t} P_{tu} (\mu_u - \mu_{u-1}), \qquad
   P_{tu} = \sum_{s < u} d^{t-1-s} \Big/ \sum_{s < t} d^{t-1-s},

so nothing is subtracted from a mean far away. A step merges by its share (Chan, Golub and LeVeque 1979),

.. math:: \bar\mu_t = \mu_t - k_t g_t, \qquad m_t = \sum_{s \le t} d^{t-s} (q_s + n \, k_s g_s^2) ,

with :math:`k_t` the share of the steps before t. All terms of the second sum are positive.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..units import Dtype
from .memory import Rate, Span, Steps
from .two_term import TwoTerm, minus, plus, product, single

# below it, a rate fades nothing in as many steps as there can be
SLOW = 1e-20


class Prefixes(NamedTuple):
    """The moments of the steps up to each step; the mean as that of the step itself, and how far it lies above."""

    rate: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    step: TwoTerm
    above: jax.Array
    m2: jax.Array

    def span(self) -> Span:
        """Return them as spans of steps, with the mean in two terms."""
        return Span(self.rate, self.count, plus(self.step, single(-self.above)), self.m2)


class _Weights(NamedTuple):
    """What the steps up to each step weigh: with a row for each step, and a column for each step up to it."""

    fading: jax.Array  # how much of each step is left
    before: jax.Array  # the share of the steps before each, in the steps before this one
    kept: jax.Array  # the share of all steps before this one
    total: jax.Array
    rate: jax.Array


def prefixes(steps: Steps, rate: Rate) -> Prefixes:
    """Return the moments of the steps up to each in its block, as (block, step of a block, ...), all of the same count.

    What is not finite makes all NaN from there on, however much of it is left, unless nothing is remembered. In the
    products it is 0, since 0 times NaN is NaN.
    """
    m2 = steps.m2
    weights = _weights(rate, m2.shape[1], m2.dtype)
    forgets = jnp.isinf(jnp.asarray(rate, m2.dtype))

    def column(v: jax.Array) -> jax.Array:
        return v.reshape(1, -1, *[1] * (m2.ndim - 2))

    later, earlier = (TwoTerm(*(v[:, part] for v in steps.mean)) for part in (slice(1, None), slice(-1)))
    gap = _product(weights.before, jnp.nan_to_num(minus(later, earlier)))
    above = product(jnp.broadcast_to(column(weights.kept), m2.shape), gap)
    own = m2 + steps.count * above * gap
    finite = jnp.isfinite(own)
    return Prefixes(
        jnp.where(steps.count > 0, column(weights.rate), 0),
        steps.count * column(weights.total),
        steps.mean,
        jnp.where(_from_first(~jnp.isfinite(steps.mean.value), forgets), jnp.nan, above),
        jnp.where(_from_first(~finite, forgets), jnp.nan, _product(weights.fading, jnp.where(finite, own, 0))),
    )


def _from_first(broken: jax.Array, forgets: jax.Array) -> jax.Array:
    """Tell which steps of a block are broken, or come after one that is: if each forgets, only those."""
    step = jax.lax.broadcasted_iota(jnp.int32, broken.shape, 1)
    first = jnp.min(jnp.where(broken, step, broken.shape[1]), 1, keepdims=True)
    return jnp.where(forgets, broken, step >= first)


def _weights(rate: Rate, length: int, dtype: Dtype) -> _Weights:
    """Return the weights, as sums of geometric series. Those of a rate that is known are numbers."""
    known = isinstance(rate, float)
    xp, wide = (np, np.dtype(np.float64)) if known else (jnp, dtype)
    fast = xp.asarray(rate, wide)
    slow = fast < SLOW
    step = np.arange(length, dtype=wide)
    age = step[:, None] - step

    def left(after: np.ndarray) -> jax.Array:  # not inf times 0
        share: jax.Array = xp.where(after == 0, 1, xp.exp(-fast * np.where(after == 0, 1, after)))
        return share

    def sums(number: np.ndarray) -> jax.Array:
        faded = xp.expm1(-fast * np.where(number == 0, 1, number)) / xp.where(slow, 1, xp.expm1(-fast))
        summed: jax.Array = xp.where(slow, number, xp.where(number == 0, 0, faded))
        return summed

    fading = xp.where(age < 0, 0, left(np.maximum(age, 0)))
    total = sums(step + 1)
    before = fading[:, 1:] * sums(step[1:]) / sums(np.maximum(step, 1))[:, None]
    kept = left(np.ones(1, wide)) * sums(step) / total
    return _Weights(*(jnp.asarray(v, dtype) for v in (fading, before, kept, total, fast * (step + 1))))


def _product(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Return the product with each block of `v`: in that order in which less has to be transposed."""
    highest = jax.lax.Precision.HIGHEST
    if len(v) == 1:
        one: jax.Array = jnp.tensordot(weights, v[0], 1, precision=highest)
        return one[None]
    return jnp.moveaxis(jnp.tensordot(v, weights, ((1,), (1,)), precision=highest), -1, 1)
