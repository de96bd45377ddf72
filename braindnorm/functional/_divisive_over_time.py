"""Divisive normalization by the pool of all steps up to now: gain control over time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from .._numerics.memory import Memory
from .._numerics.moments import Moments
from .._numerics.pools import pool_of, pool_of_power, power_of_pool, respond_to
from .._numerics.two_term import single
from ..units import Result
from ._drive import enter_drive
from ._leave import leave
from ._over_time import Clock

_pool = functools.partial(jax.jit, static_argnums=(0, 1), inline=True)(pool_of)
_respond = functools.partial(jax.jit, static_argnums=0, inline=True)(respond_to)


def divisive_norm_over_time(clock: Clock, x: Any, **options: Any) -> tuple[Result, Memory]:
    r"""Return the response, and the memory after the last step.

    .. math:: R_t = \gamma \frac{D_t^n}{\sigma^n + P_{\le t}}, \qquad
       P_{\le t} = \frac{\sum_k \lambda^{t - k} N_k P_k}{\sum_k \lambda^{t - k} N_k}

    with the pool :math:`P_k` of step k and how many valid elements it is of, :math:`N_k`: the mean of squares of a
    norm with a memory, in place of which P stands. The memory holds P in the drive's unit to the power of n.
    """
    drive = enter_drive(x, **options)
    entered, sigma = drive.x, jax.lax.optimization_barrier(drive.sigma)
    pooling = _pool if drive.reduction.axis_name is None else pool_of
    pool = pooling(drive.reduction, drive.response, entered, sigma, drive.entry.valid, drive.weights)
    power = power_of_pool(drive.response, pool)
    count = jnp.broadcast_to(pool.count, power.shape)
    reduction = drive.reduction._replace(axes=()) if drive.weights is not None else drive.reduction
    nothing = jnp.zeros_like(power)
    steps = clock.checked(Moments(count, nothing, power * count), single(nothing), reduction, drive.entry.valid)
    now, last = clock.remember(steps, constant=drive.response.constant)
    few = now.memory.count.value < clock.by.min_count
    kept = pool_of_power(drive.response, jnp.where(few, power, now.memory.var))
    return leave(_respond(drive.response, entered, kept, sigma, drive.gamma), drive.entry), last
