"""The running statistics of a layer: how they are made, read and updated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import brainstate
import jax
import jax.numpy as jnp

from .. import units
from ..errors import AxisError, AxisNameError, OptionError, UnitError, named
from ..functional import Statistics, update_running
from ..functional._dtypes import result_dtype
from ..units import DtypeLike, QuantityLike
from ._never_updated import look, trust
from ._wiring import label

if TYPE_CHECKING:
    from .batch_norm import BatchNorm


def make_running(
    layer: BatchNorm, shape: Sequence[int], dtype: DtypeLike | None, mean_type: object
) -> tuple[brainstate.State[Any], brainstate.State[Any]]:
    """Return the states of the running mean and variance, 0 and 1, in float32 at least.

    Raises
    ------
    OptionError
        If `mean_type` is no State.
    """
    if not (isinstance(mean_type, type) and issubclass(mean_type, brainstate.State)):
        raise OptionError(f"mean_type must be a class of brainstate.State; got {mean_type!r}.")
    asked = result_dtype([], dtype)
    kept = jnp.promote_types(brainstate.environ.dftype() if dtype is None else asked, jnp.float32)
    return mean_type(jnp.zeros(shape, kept)), mean_type(jnp.ones(shape, kept))


def running_of(layer: BatchNorm) -> Statistics:
    """Return the running statistics, with their units; how many elements they are of is not kept."""
    unit = units.UNITLESS if layer.unit is None else layer.unit
    mean, var = layer.running_mean.value, layer.running_var.value
    return Statistics(0, units.restore(mean, unit), units.restore(var, unit**2))  # type: ignore[arg-type]  # not kept


def known_to(layer: BatchNorm) -> Statistics:
    """Return the running statistics that a layer evaluates by, and warn if nobody has touched them."""
    look(layer)
    return running_of(layer)


def remember(layer: BatchNorm, statistics: Statistics) -> None:
    """Update the running statistics, once, by those of a call."""
    trust(layer)
    kept = update_running(running_of(layer), statistics, layer.momentum, layer.unbiased)
    check = _one_for_all(label(layer))
    for state, value in ((layer.running_mean, kept.mean), (layer.running_var, kept.var)):
        state.value = check(jnp.asarray(units.strip(value, None)[0]))


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
