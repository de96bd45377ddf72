"""Standardize by the moments of the past: one step, or all steps of a sequence at once."""

import jax
import jax.numpy as jnp

from .._numerics.memory import Memory, Rate, Steps, advance, forget, replay, settle, standardize_by_memory
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
from .._numerics.two_term import TwoTerm, single
from ..errors import AxisError, MaskError
from ._enter import Entry
from ._standardize import Standardization, apply_affine

# inline: called within another program it leaves no trace there; called outside of any it is compiled once
_advance, _replay = (jax.jit(clock, inline=True) for clock in (advance, replay))


class Clock:
    """How a norm with a memory goes through time.

    Parameters
    ----------
    memory : Memory
        The memory before the first step.
    rate : float or Array
        A step leaves to the past exp(-rate) of its weight.
    began : Array or None
        Where a trial begins, with as many axes as the input.
    sequence : bool
        Whether the leading axis of the input is time.
    """

    def __init__(self, memory: Memory, rate: Rate, began: jax.Array | None, sequence: bool) -> None:
        self.memory, self.rate, self.began, self.sequence = memory, rate, began, sequence

    def standardize(self, entry: Entry, spec: Standardization) -> tuple[jax.Array, Memory]:
        """Return z * scale + bias, and the memory after the last step."""
        x, valid = entry.x, entry.valid
        if valid is not None:
            # what is masked must be finite: its cotangent is 0, and 0 times NaN is NaN
            x = jnp.where(valid | jnp.isfinite(x), x, 0) if spec.keep_padding else zero_masked(x, valid)
        memory = self.memory if self.sequence else forget(self.memory, self.began)
        memory = jax.lax.stop_gradient(memory) if spec.constant else memory
        moments, deviation = self._observe(x.astype(entry.dtype), valid, spec)
        now, last = self._remember(memory, moments)
        return apply_affine(standardize_by_memory(deviation, moments, now, spec.epsilon), entry, spec), last

    def _remember(self, memory: Memory, moments: Steps) -> tuple[Memory, Memory]:
        """Return the memory after each step, and after the last one as it is kept."""
        before = memory.widened(moments.m2.dtype)
        touched = moments.count > 0
        now: Memory
        if not self.sequence:
            now = _advance(before, moments, self.rate)
            return now, settle(memory, now, touched)
        if not len(touched):  # no step
            return jax.tree.map(lambda v: v[None][:0], before), memory
        now = _replay(before, moments, self.rate, self.began)
        touched = jnp.any(touched if self.began is None else touched | self.began, axis=0)
        return now, settle(memory, jax.tree.map(lambda v: v[-1], now), touched)

    def _observe(self, x: jax.Array, valid: jax.Array | None, spec: Standardization) -> tuple[Steps, jax.Array]:
        """Return the moments of each step, and each element's deviation from the mean of its step.

        The compensated form (not fast_variance) subtracts a centre before anything else, for another sum of `x`: the
        mean is then that centre and a small rest, and not rounded.
        """
        if spec.fast_variance or not spec.centred:
            moments, deviation = deviations(x, spec.reduction, valid, centred=spec.centred, constant=spec.constant)
            return self._checked(moments, single(moments.mean), spec.reduction), deviation
        seen = jax.lax.stop_gradient(zero_masked(x, valid))
        local = [local_count(x.shape, valid, spec.reduction, x.dtype), local_sum(seen, spec.reduction)]
        count, total = jnp.broadcast_arrays(*across_devices(local, spec.reduction))
        centre = total / at_least_one(count)
        centre = jnp.where(jnp.isfinite(centre), centre, 0)
        moments, deviation = deviations(x - centre, spec.reduction, valid, constant=spec.constant)
        return self._checked(moments, TwoTerm(centre, moments.mean), spec.reduction), deviation

    def _checked(self, moments: Moments, mean: TwoTerm, reduction: Reduction) -> Steps:
        """Return the moments with a count for each, if they are of as many trials as the memory."""
        shape = moments.m2.shape[1:] if self.sequence else moments.m2.shape
        if shape != self.memory.m2.value.shape:
            raise AxisError(
                f"the statistics of a step are of shape {shape}, but the memory is of shape"
                f" {self.memory.m2.value.shape}. Call init_state(batch_size) with the batch axes of a step's input, or"
                " reset_state(batch_size)."
            )
        if self.began is not None and any(self.began.shape[axis] != 1 for axis in reduction.axes):
            raise MaskError(
                f"a reset of shape {self.began.shape} asks for some trials, but the statistics run over"
                f" all of them (axes {reduction.axes}). Give one entry, which resets all, or other reduction_axes."
            )
        return Steps(jnp.broadcast_to(moments.count, moments.m2.shape), mean, moments.m2)
