"""Standardize by the moments of the past: one step, or all steps of a sequence at once."""

from typing import Any

import jax
import jax.numpy as jnp

from ._axes import fit_parameter
from ._clock import Memory, advance, replay, standardized
from ._moments import Moments, Reduction, deviations, zero_masked
from ._standardize import Standardization
from .errors import AxisError, MaskError

# inline: called within another program it leaves no trace there; called outside of any it is compiled once
_advance, _replay = (jax.jit(clock, inline=True) for clock in (advance, replay))


class OverTimeStandardize:
    """What takes the place of :func:`braindnorm._standardize.standardize` in a norm with a memory.

    Parameters
    ----------
    past : Memory
        The memory before the first step.
    decay : float or Array
        The weight that a step leaves to the past.
    began : Array or None
        Where a trial begins, with as many axes as the input.
    sequence : bool
        Whether the leading axis of the input is time.

    Attributes
    ----------
    last : Memory
        After a call: the memory after the last step.
    """

    def __init__(self, past: Memory, decay: Any, began: jax.Array | None, sequence: bool) -> None:
        self.past, self.decay, self.began, self.sequence = past, decay, began, sequence
        self.last = past

    def __call__(
        self,
        x: jax.Array,
        valid: jax.Array | None,
        how: Standardization,
        dtype: Any,
        *,
        scale: Any = None,
        bias: Any = None,
        affine: Any = None,
    ) -> jax.Array:
        """Return z * scale + bias, and keep the memory in `last`."""
        found, deviation = _observe(x.astype(dtype), valid, how)
        self._check_trials(found, how.over)
        clock = _replay if self.sequence else _advance
        now = clock(self.past, found, self.decay, self.began)
        self.last = Memory(*(v[-1] for v in now)) if self.sequence else now
        z = standardized(deviation, found, now, how.epsilon)
        if affine is not None:
            return jnp.reshape(affine.execute(z), z.shape)
        if scale is not None:
            z = z * fit_parameter(scale, z.shape, option="scale", name=how.over.name)
        return z if bias is None else z + fit_parameter(bias, z.shape, option="bias", name=how.over.name)

    def _check_trials(self, found: Moments, over: Reduction) -> None:
        shape = found.m2.shape[1:] if self.sequence else found.m2.shape
        if shape != self.past.m2.shape:
            raise AxisError(
                f"{over.name}: the statistics of a step are of shape {shape}, but the memory is of shape"
                f" {self.past.m2.shape}. Call init_state(batch_size) with the batch axes of a step's input, or"
                " reset_state(batch_size)."
            )
        if self.began is not None and any(self.began.shape[axis] != 1 for axis in over.axes):
            raise MaskError(
                f"{over.name}: a reset of shape {self.began.shape} asks for some trials, but the statistics run over"
                f" all of them (axes {over.axes}). Give one entry, which resets all, or other reduction_axes."
            )


def _observe(x: jax.Array, valid: jax.Array | None, how: Standardization) -> tuple[Moments, jax.Array]:
    """Return the moments of each step, and each element's deviation from the mean of its step."""
    if valid is not None:
        # what is masked must be finite: its cotangent is 0, and 0 times NaN is NaN
        x = jnp.where(valid | jnp.isfinite(x), x, 0) if how.keep_padding else zero_masked(x, valid)
    found, deviation = deviations(x, how.over, valid, centred=how.centred)
    return found._replace(count=jnp.broadcast_to(found.count, found.m2.shape)), deviation
