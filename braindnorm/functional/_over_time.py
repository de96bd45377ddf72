"""Standardize by the moments of the past: one step, or all steps of a sequence at once."""

from typing import Any

import jax
import jax.numpy as jnp

from .._numerics.memory import Memory, advance, first, forget, pivot_of, replay, standardized
from .._numerics.moments import (
    Moments,
    Reduction,
    across_devices,
    at_least_one,
    deviations,
    local_count,
    local_sum,
    zero_masked,
)
from ..errors import AxisError, MaskError
from ._enter import Entry
from ._standardize import Standardization, apply_affine

# inline: called within another program it leaves no trace there; called outside of any it is compiled once
_advance, _replay = (jax.jit(clock, inline=True) for clock in (advance, replay))


class Clock:
    """How a norm with a memory goes through time.

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
    """

    def __init__(self, past: Memory, decay: Any, began: jax.Array | None, sequence: bool) -> None:
        self.past, self.decay, self.began, self.sequence = past, decay, began, sequence

    def standardize(self, entry: Entry, how: Standardization) -> tuple[jax.Array, Memory]:
        """Return z * scale + bias, and the memory after the last step."""
        x, valid = entry.x, entry.valid
        if valid is not None:
            # what is masked must be finite: its cotangent is 0, and 0 times NaN is NaN
            x = jnp.where(valid | jnp.isfinite(x), x, 0) if how.keep_padding else zero_masked(x, valid)
        past = self.past if self.sequence else forget(self.past, self.began)
        found, deviation, pivot = self._observe(past, x.astype(entry.dtype), valid, how)
        if self.sequence:
            now = _replay(past, found, pivot, self.decay, self.began)
            last = Memory(*(v[-1] for v in now))
        else:
            now = last = _advance(past, found, pivot, self.decay)
        return apply_affine(standardized(deviation, found, now, how.epsilon), entry, how), last

    def _observe(
        self, past: Memory, x: jax.Array, valid: jax.Array | None, how: Standardization
    ) -> tuple[Moments, jax.Array, jax.Array]:
        """Return the moments of each step relative to a pivot, each element's deviation from its step, and the pivot.

        The compensated form (not fast_variance) subtracts the pivot before anything else, for another sum of `x`.
        """
        if how.fast_variance or not how.centred:
            found, deviation = deviations(x, how.reduction, valid, centred=how.centred)
            found = self._checked(found, how.reduction)
            pivot = self._pivot(past, found.mean, found.count)
            return found._replace(mean=found.mean - pivot), deviation, pivot
        seen = jax.lax.stop_gradient(zero_masked(x, valid))
        local = [local_count(x.shape, valid, how.reduction, x.dtype), local_sum(seen, how.reduction)]
        count, total = jnp.broadcast_arrays(*across_devices(local, how.reduction))
        rough = self._checked(Moments(count, total / at_least_one(count), total), how.reduction)
        pivot = self._pivot(past, rough.mean, count)
        found, deviation = deviations(x - pivot, how.reduction, valid)
        return self._checked(found, how.reduction), deviation, pivot

    def _pivot(self, past: Memory, mean: jax.Array, count: jax.Array) -> jax.Array:
        return pivot_of(past, first(mean, count) if self.sequence else mean)

    def _checked(self, found: Moments, over: Reduction) -> Moments:
        """Return the moments with a count for each, if they are of as many trials as the memory."""
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
        return found._replace(count=jnp.broadcast_to(found.count, found.m2.shape))
