r"""Standardize a step by its own statistics, or by kept ones with the gradient of its own.

Batch Renormalization (Ioffe 2017) writes the second as the first:

.. math:: \frac{x - \mu_r}{s_r} = r \, \frac{x - \mu_t}{s_t} + d, \qquad
   r = \frac{s_t}{s_r}, \quad d = \frac{\mu_t - \mu_r}{s_r},

and takes r and d as constants. So the value is that of the kept statistics, and the gradient still goes through those
of the step.
"""

import jax
import jax.numpy as jnp

from ..units import Mantissa
from .memory import Steps
from .moments import at_least_one, rstd
from .two_term import minus, single


def standardize_by_step(deviation: jax.Array, steps: Steps, epsilon: Mantissa) -> jax.Array:
    """Return z by the moments of each element's own step."""
    return jnp.where(steps.count == 0, 0, deviation * rstd(_var(steps), epsilon))


def renormalize(
    deviation: jax.Array, steps: Steps, mean: jax.Array, var: jax.Array, epsilon: Mantissa, max_ratio: float
) -> jax.Array:
    """Return z by a kept mean and variance; by the step's own where their deviations differ by more than `max_ratio`.

    A step with nothing valid has no deviation to compare: its padding is standardized by what is kept.
    """
    of_step, kept = rstd(_var(steps), epsilon), rstd(var, epsilon)
    near = ((kept <= max_ratio * of_step) & (of_step <= max_ratio * kept)) | (steps.count == 0)
    ratio = jnp.where(near, kept / jnp.where(of_step > 0, of_step, 1), 1)
    shift = jnp.where(near, minus(steps.mean, single(mean)) * kept, 0)
    return jax.lax.stop_gradient(ratio) * (deviation * of_step) + jax.lax.stop_gradient(shift)


def _var(steps: Steps) -> jax.Array:
    return steps.m2 / at_least_one(steps.count)
