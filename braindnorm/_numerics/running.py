"""Running statistics: what is kept of many calls of a batch norm."""

import jax
import jax.numpy as jnp

from .collectives import sum_devices
from .moments import Reduction, at_least_one
from .shapes import Bool, Values


def moved(kept: Values, current: Values, momentum: float | jax.Array, where: Bool[jax.Array, "*#shape"]) -> Values:
    r"""Return a running statistic after one update, :math:`m k + (1 - m) f`, in the dtype in which it is kept.

    Near each other the two are added as :math:`k + (1 - m)(f - k)`, which keeps the digits of what is close. A step
    below half of the last digit would be lost all the same: at -65 mV with a momentum of 0.99 the mean would stop 50
    digits short, 0.04 standard deviations of 0.01 mV. So what should move, and rounds to itself, moves by one digit.
    """
    kept, current = (jax.lax.stop_gradient(v) for v in (kept, current))
    wide = jnp.promote_types(kept.dtype, jnp.float32)
    target, k, f = current.astype(kept.dtype), kept.astype(wide), current.astype(wide)
    near = jnp.abs(f - k) <= jnp.abs(f)
    far_step = momentum * jnp.where(momentum > 0, k, 0) + (1 - momentum) * f
    stepped = jnp.where(near, k + (1 - momentum) * (f - k), far_step).astype(kept.dtype)
    stuck = (stepped == kept) & (target != kept) & (momentum < 1)
    return jnp.where(where, jnp.where(stuck, jnp.nextafter(kept, target), stepped), kept)


def whole_axis(count: Values, mean: Values, var: Values, reduction: Reduction) -> tuple[Values, Values, Values]:
    """Return the moments of all devices together, where those of groups of devices were taken."""
    if reduction.axis_index_groups is None or reduction.axis_name is None:
        return count, mean, var
    # each member of a group holds the moments of the whole group
    members = sum_devices(jnp.ones_like(count), reduction.axis_name, reduction.axis_index_groups)
    share = count / members
    total, weighted = sum_devices(jnp.stack([share, share * mean]), reduction.axis_name, None)
    centre = weighted / at_least_one(total)
    m2 = sum_devices(share * (var + jnp.square(mean - centre)), reduction.axis_name, None)
    return total, centre, m2 / at_least_one(total)
