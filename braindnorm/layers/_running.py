"""The running statistics of a layer: how they are made, read and updated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, SupportsIndex

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.axes import feature_shape
from ..errors import AxisError, AxisNameError, OptionError, UnitError, named
from ..functional import Statistics, update_running
from ..functional._dtypes import result_dtype
from ..units import DtypeLike, QuantityLike, Shape
from ._never_updated import look, trust
from ._per_step import at_step, check_param_steps, known_steps, steps_of_input
from ._wiring import label

if TYPE_CHECKING:
    from .batch_norm import BatchNorm


def make_running(
    layer: BatchNorm, dtype: DtypeLike | None, mean_type: object, running_steps: SupportsIndex | None
) -> tuple[Any, Any]:
    """Return the states of the running mean and variance, 0 and 1, in float32 at least; None if none are kept.

    Raises
    ------
    OptionError
        If `mean_type` is no State, or `running_steps` no number of steps.
    """
    layer.running_steps = check_param_steps(running_steps, "running_steps")
    if not (isinstance(mean_type, type) and issubclass(mean_type, brainstate.State)):
        raise OptionError(f"mean_type must be a class of brainstate.State; got {mean_type!r}.")
    if None not in (layer.running_steps, layer.param_steps) and layer.running_steps != layer.param_steps:
        raise OptionError(
            f"running_steps={layer.running_steps} and param_steps={layer.param_steps} are not the same number of steps."
        )
    if not layer.track_running_stats:
        return None, None
    asked = result_dtype([], dtype)
    kept = jnp.promote_types(brainstate.environ.dftype() if dtype is None else asked, jnp.float32)
    shape = feature_shape(layer.in_size, layer.feature_axes)
    shape = shape if layer.running_steps is None else (layer.running_steps, *shape)
    return mean_type(jnp.zeros(shape, kept)), mean_type(jnp.ones(shape, kept))


def counted_apart(layer: BatchNorm, x: QuantityLike) -> Shape:
    """Return the axes that statistics are not taken over: the channels, and time if each step has its own."""
    channels = tuple(axis - len(layer.in_size) for axis in layer.feature_axes)
    if layer.running_steps is None:
        return channels
    steps = steps_of_input(layer.running_steps, layer.in_size, x, "running_steps")
    return (*range(steps.ndim), *channels)


def running_of(layer: BatchNorm, x: QuantityLike) -> Statistics:
    """Return the running statistics of the steps of `x`, with their units; their count is not kept."""
    unit = units.UNITLESS if layer.unit is None else layer.unit
    kept = {"mean": layer.running_mean.value, "var": layer.running_var.value}
    if layer.running_steps is not None:
        kept = at_step(kept, layer.running_steps, layer.in_size, x, "running_steps")
    mean, var = units.restore(kept["mean"], unit), units.restore(kept["var"], unit**2)
    return Statistics(0, mean, var)  # type: ignore[arg-type]  # not kept


def known_to(layer: BatchNorm, x: QuantityLike) -> Statistics:
    """Return the running statistics that a layer evaluates by, and warn if nobody has touched them."""
    look(layer)
    return running_of(layer, x)


def remember(layer: BatchNorm, statistics: Statistics, x: QuantityLike) -> None:
    """Update the running statistics, once, by those of a call on `x`."""
    trust(layer)
    steps = None if layer.running_steps is None else _steps_to_update(layer.running_steps, layer, x)
    kept = update_running(running_of(layer, x), statistics, layer.momentum, layer.unbiased)
    check = _one_for_all(label(layer))
    for state, value in ((layer.running_mean, kept.mean), (layer.running_var, kept.var)):
        new = jnp.asarray(units.strip(value, None)[0])
        if steps is not None:
            new = state.value.at[steps].set(new.reshape(*steps.shape, *state.value.shape[1:]), mode="drop")
        state.value = check(new)


def _steps_to_update(num_steps: int, layer: BatchNorm, x: QuantityLike) -> jax.Array:
    """Return the steps of `x`, those that are not there as ones beyond the last.

    Raises
    ------
    AxisError
        If they are not those of one axis.
    OptionError
        If a step comes twice.
    """
    steps = steps_of_input(num_steps, layer.in_size, x, "running_steps")
    if steps.ndim > 1:
        raise AxisError(
            f"running_steps={num_steps}: the steps i of shape {steps.shape} have several axes. Time is one:"
            " give one step, or one for each entry of the leading axis."
        )
    known = known_steps()
    if known is not None and len(np.unique(known)) < known.size:
        raise OptionError(f"the steps i={known} name a step twice, and each gets one update a call. Call them apart.")
    return jnp.where(steps < 0, num_steps, steps)


def check_rank(layer: BatchNorm, spatial: int | None) -> None:
    """Raise unless the size of a layer has so many axes of space, where its name tells how many.

    Raises
    ------
    AxisError
        With a name that fits any number.
    """
    if spatial is not None and len(layer.in_size) != spatial + 1:
        raise AxisError(
            f"in_size must have {spatial + 1} axes, {spatial} of space and the channels; got"
            f" {layer.in_size}. Write BatchNorm(in_size) for any number of them."
        )


def check_one_unit(layer: BatchNorm, x: QuantityLike) -> None:
    """Raise if an input has a unit and the layer declares none: what is kept has one unit.

    Raises
    ------
    UnitError
        With the unit to declare.
    """
    if layer.unit is not None or not layer.track_running_stats:
        return
    unit = units.strip(x, None)[1]
    if not unit.is_unitless:
        raise UnitError(
            f"the running statistics have one unit: got an input in {unit}, but the norm has"
            f" unit=None. Build it with {type(layer).__name__}(..., unit=...)."
        )


class RunningReadOut:
    """A running statistic with its unit, to read: None if the layer keeps none, a plain array if it declares none."""

    def __init__(self, state: str, power: int) -> None:
        self.state, self.power = state, power

    def __get__(self, layer: BatchNorm | None, owner: type) -> Any:
        if layer is None:
            return self
        state = getattr(layer, self.state)
        return state if state is None else units.restore(state.value, (layer.unit or units.UNITLESS) ** self.power)


@functools.lru_cache(maxsize=256)
def _one_for_all(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return a function that returns what it gets, and raises where ``vmap`` would make a batch of it."""

    @jax.custom_batching.custom_vmap
    def one(kept: jax.Array) -> jax.Array:
        return kept

    @one.def_vmap
    def refuse(axis_size: int, in_batched: list[bool], kept: jax.Array) -> tuple[jax.Array, bool]:
        if in_batched[0]:
            with named(name):
                raise AxisNameError(
                    f"training under vmap would give each of the {axis_size} lanes running statistics of its own, and"
                    " there is one set of them. Name the mapped axis: build the norm with axis_name='batch' and write"
                    " brainstate.transform.vmap(f, axis_name='batch'); or call the norm on the whole batch."
                )
        return one(kept), False

    return one
