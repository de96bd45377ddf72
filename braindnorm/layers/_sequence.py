"""A whole sequence as OverTime sees it: its reduction, its steps, time first."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.moments import Reduction
from ..units import QuantityLike, Result


def of_sequence(reduction: Reduction) -> Reduction:
    """Return the reduction of a step as that of a sequence, whose leading axis is time."""
    channel = None if reduction.channel_axis is None else reduction.channel_axis + 1
    return reduction._replace(axes=tuple(axis + 1 for axis in reduction.axes), channel_axis=channel)


def steps_of(num_steps: int) -> jax.Array | np.ndarray:
    """Return the steps of a sequence: those of the environment, if it names several, or else from 0."""
    steps = brainstate.environ.get("i", None)
    return steps if np.ndim(steps) else np.arange(num_steps)


def move_axis(x: QuantityLike, source: int, target: int) -> Result:
    """Move an axis of an array or a quantity."""
    mantissa, unit = units.strip(x, None)
    return units.restore(jnp.moveaxis(jnp.asarray(mantissa), source, target), unit)
