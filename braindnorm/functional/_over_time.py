"""Standardize by the moments of the past: one step, or all steps of a sequence at once."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from .._numerics.memory import Memory, Now, Rate, Steps, advance, forget, now_at, settle, standardize_by_memory
from .._numerics.moments import (
    Moments,
    Reduction,
    across_devices,
    at_least_one,
    deviations,
    local_count,
    local_sum,
    rstd,
    zero_masked,
)
from .._numerics.renorm import renormalize, standardize_by_step
from .._numerics.replay import replay
from .._numerics.two_term import TwoTerm, single
from ..errors import AxisError, MaskError
from ..units import Mantissa
from ._enter import Entry
from ._standardize import Observed, Standardization, apply_affine

# inline: called within another program it leaves no trace there; called outside of any it is compiled once
_advance, _replay = (jax.jit(clock, inline=True) for clock in (advance, replay))
# a rate that is known makes the smaller program
_replay_known = jax.jit(replay, inline=True, static_argnames="rate")


class By(NamedTuple):
    """What steps are standardized by.

    `what` is the moments of the step itself, of all steps so far, or kept ones (`mean` and `var`, as they broadcast to
    the input; no further than `max_ratio` from those of the step). A memory of fewer than `min_count` elements is not
    used, but the step itself. A `frozen` memory is a constant.
    """

    what: Literal["step", "past", "running"] = "past"
    mean: jax.Array | None = None
    var: jax.Array | None = None
    max_ratio: float = 1.0
    min_count: float = 1
    frozen: bool = False


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
    by : By
        What steps are standardized by.
    """

    def __init__(
        self, memory: Memory, rate: Rate, began: jax.Array | None, sequence: bool, by: By | None = None
    ) -> None:
        self.memory, self.rate, self.began, self.sequence = memory, rate, began, sequence
        self.by = By() if by is None else by

    def standardize(self, entry: Entry, spec: Standardization) -> tuple[jax.Array, Memory, Observed]:
        """Return z * scale + bias, the memory after the last step, and the moments of each step by which it went."""
        x, valid = entry.x, entry.valid
        if valid is not None:
            # what is masked must be finite: its cotangent is 0, and 0 times NaN is NaN
            x = jnp.where(valid | jnp.isfinite(x), x, 0) if spec.keep_padding else zero_masked(x, valid)
        x = x.astype(entry.dtype)
        moments, deviation = self._observe(x, valid, spec)
        now, last = self.remember(moments, constant=spec.constant)
        z = self._standardized(x, deviation, moments, now, spec.epsilon)
        past = now.memory
        count = jnp.broadcast_to(moments.count, moments.m2.shape)
        mine = Observed(count, moments.mean.value + moments.mean.rest, moments.m2 / at_least_one(moments.count))
        seen = Observed(past.count.value, past.mean.value, past.var) if self.by.what == "past" else mine
        return apply_affine(z, entry, spec), last, seen

    def _standardized(
        self, x: jax.Array, deviation: jax.Array, moments: Steps, now: Now, epsilon: Mantissa
    ) -> jax.Array:
        by, memory = self.by, now.memory
        if by.what == "running":
            assert by.mean is not None and by.var is not None
            return renormalize(deviation, moments, by.mean, by.var, epsilon, by.max_ratio)
        if by.what == "step":
            return standardize_by_step(deviation, moments, epsilon)
        if by.frozen:
            z = ((x - memory.mean.value) - memory.mean.rest) * rstd(memory.var, epsilon)
        else:
            z = standardize_by_memory(deviation, now, epsilon)
            if by.min_count <= 1:
                return z
        return jnp.where(memory.count.value < by.min_count, standardize_by_step(deviation, moments, epsilon), z)

    def remember(self, moments: Steps, *, constant: bool = False) -> tuple[Now, Memory]:
        """Return the memory after each step, and after the last one as it is kept. A frozen one stays as it is.

        If `constant` it is one to derivatives, this step's part too.
        """
        if self.by.frozen:
            kept: Memory = jax.tree.map(jax.lax.stop_gradient, self.memory.widened(moments.m2.dtype))
            return now_at(kept, moments), self.memory
        memory = self.memory if self.sequence else forget(self.memory, self.began)
        if constant or self.by.what != "past":  # then no output depends on it
            memory, moments = jax.tree.map(jax.lax.stop_gradient, (memory, moments))
        return self._remember(memory, moments)

    def _remember(self, memory: Memory, moments: Steps) -> tuple[Now, Memory]:
        """Return the memory after each step, and after the last one as it is kept."""
        before = memory.widened(moments.m2.dtype)
        touched = moments.count > 0
        if not self.sequence:
            now = _advance(before, moments, self.rate)
            return now, settle(memory, now.memory, touched)
        if not len(moments.m2):  # no step
            none: Memory = jax.tree.map(lambda v: v[None][:0], before)
            return now_at(none, moments), memory
        clock = _replay_known if isinstance(self.rate, float) else _replay
        now, last = clock(before, moments, rate=self.rate, reset=self.began)
        touched = jnp.any(touched if self.began is None else touched | self.began, axis=0)
        return now, settle(memory, last, touched)

    def _observe(self, x: jax.Array, valid: jax.Array | None, spec: Standardization) -> tuple[Steps, jax.Array]:
        """Return the moments of each step, and each element's deviation from the mean of its step.

        The compensated form (not fast_variance) subtracts a centre before anything else, for another sum of `x`: the
        mean is then that centre and a small rest, and not rounded.
        """
        if spec.fast_variance or not spec.centred:
            moments, deviation = deviations(x, spec.reduction, valid, centred=spec.centred, constant=spec.constant)
            return self.checked(moments, single(moments.mean), spec.reduction, valid), deviation
        seen = jax.lax.stop_gradient(zero_masked(x, valid))
        local = [local_count(x.shape, valid, spec.reduction, x.dtype), local_sum(seen, spec.reduction)]
        count, total = jnp.broadcast_arrays(*across_devices(local, spec.reduction))
        centre = total / at_least_one(count)
        centre = jnp.where(jnp.isfinite(centre), centre, 0)
        moments, deviation = deviations(x - centre, spec.reduction, valid, constant=spec.constant)
        return self.checked(moments, TwoTerm(centre, moments.mean), spec.reduction, valid), deviation

    def checked(self, moments: Moments, mean: TwoTerm, reduction: Reduction, valid: jax.Array | None) -> Steps:
        """Return the moments with a count for each, if they are of as many trials as the memory.

        Where the mask is the same in all steps, so is the count: it is that of one step.
        """
        shape = moments.m2.shape[1:] if self.sequence else moments.m2.shape
        if shape != self.memory.m2.value.shape:
            raise AxisError(
                f"the statistics of a step are of shape {shape}, but the memory is of shape"
                f" {self.memory.m2.value.shape}. Call init_state(batch_size) with the batch axes of a step's input, or"
                " reset_state(batch_size). If the first axis is time, call update_sequence(x)."
            )
        if self.began is not None and any(self.began.shape[axis] != 1 for axis in reduction.axes):
            raise MaskError(
                f"a reset of shape {self.began.shape} asks for some trials, but the statistics run over"
                f" all of them (axes {reduction.axes}). Give one entry, which resets all, or other reduction_axes."
            )
        count = jnp.broadcast_to(moments.count, moments.m2.shape)
        even = self.sequence and (valid is None or len(valid) == 1)
        return Steps(count[:1] if even else count, mean, moments.m2)
