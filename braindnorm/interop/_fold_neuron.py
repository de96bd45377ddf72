"""Fold a line into a spiking neuron: a norm of its membrane potential, or of its input current."""

import copy

import brainstate
import numpy as np

from .. import units
from ..units import QuantityLike, Unit
from ._common import Foreign, refuse
from ._line import Line, Numbers, first_of, join, product, split


def is_lif(layer: object) -> bool:
    """Tell whether a layer is ``brainpy.state.LIF``, without an import of it."""
    return (type(layer).__module__, type(layer).__name__) == ("brainpy.state", "LIF")


def fold_into_neuron(line: Line, neuron: Foreign, between: Unit) -> Foreign:
    """Return a neuron that does what the line and then the neuron do.

    The dimension of the line's output says which: a potential is compared with the threshold, a current flows in.
    """
    out_unit = product(line.out_unit, between)
    potential = split(neuron.V_th, "V_th")[1]
    current = product(potential, over=split(neuron.R, "R")[1])
    if potential.has_same_dim(current):
        refuse(
            "LIF",
            "has no units, so it cannot be told whether the norm is of its membrane potential or of its input current",
            "Give R and V_th their units, and the norm its unit and out_unit.",
        )
    line = line._replace(out_unit=out_unit)
    if out_unit.has_same_dim(potential) and line.unit.has_same_dim(potential):
        return _into_threshold(line, neuron)
    if out_unit.has_same_dim(current):
        return _into_input(line, neuron)
    remedy = f"Give the norm of a potential a unit and out_unit such as {potential}, that of a current its out_unit."
    made = f"and the norm makes {line.unit} {out_unit}"
    refuse("LIF", f"has potentials in {potential} and currents in {current}, {made}", remedy)


def _into_threshold(line: Line, neuron: Foreign) -> Foreign:
    """Fold a norm of the membrane potential: V_th' = (V_th - c) / a, where a > 0 for y = a V + c."""
    slope, offset = _to_size(line, neuron)
    if (slope <= 0).any():
        refuse(
            "LIF",
            "fires above its threshold, and where a scale is not positive the norm turns above into below:"
            f" {first_of(np.flatnonzero(slope <= 0).tolist())}",
            "Learn a scale that stays positive, or norm the input current, which folds with any scale.",
        )
    before = _in(neuron.V_th, line.out_unit)
    after = np.asarray(units.convert((before - offset) / slope, line.unit, line.out_unit), np.float64)
    reset = _in(neuron.V_reset, line.out_unit)
    if neuron.spk_reset == "soft":  # V_th - V_reset is then what a spike takes from the potential, and must stay
        reset = reset + (after - before)
    elif (after <= reset).any():
        refuse(
            "LIF",
            "is reset to V_reset, which the folded threshold must exceed, and does not in"
            f" {first_of(np.flatnonzero(after <= reset).tolist())}",
            "Use a lower V_reset, or keep the norm.",
        )
    return _with(neuron, V_th=join(after, line.out_unit, neuron.V_th), V_reset=join(reset, line.out_unit, neuron.V_th))


def _into_input(line: Line, neuron: Foreign) -> Foreign:
    """Fold a norm of the input current: R' = R a and V_rest' = V_rest + R c, for y = a I + c."""
    if neuron.current_inputs:
        remedy = "Add them up before the norm, or keep it."
        refuse("LIF", f"has other current inputs besides the norm's ({', '.join(neuron.current_inputs)})", remedy)
    slope, offset = _to_size(line, neuron)
    resistance, ohm = split(neuron.R, "R")
    rest, volt = split(neuron.V_rest, "V_rest")
    drop = units.convert(resistance * offset, product(ohm, line.out_unit), volt)
    return _with(
        neuron,
        R=join(resistance * slope, product(ohm, line.out_unit, over=line.unit), neuron.R),
        V_rest=join(rest + np.asarray(drop, np.float64), volt, neuron.V_rest),
    )


def _to_size(line: Line, neuron: Foreign) -> tuple[Numbers, Numbers]:
    try:
        return np.broadcast_to(line.slope, neuron.in_size), np.broadcast_to(line.offset, neuron.in_size)
    except ValueError:
        what = f"is of size {tuple(neuron.in_size)}, and the norm's channels are of shape {line.slope.shape}"
        refuse("LIF", what, "Give both the same in_size.")


def _in(value: QuantityLike, unit: Unit) -> Numbers:
    numbers, source = split(value, "V_th")
    return np.asarray(units.convert(numbers, source, unit), np.float64)


def _with(neuron: Foreign, **changed: QuantityLike) -> Foreign:
    """Return a copy of a neuron with other parameters, and with states of its own."""
    new = copy.copy(neuron)
    for name, value in vars(neuron).items():
        if isinstance(value, brainstate.State):
            setattr(new, name, type(value)(value.value))
    for name, value in changed.items():
        setattr(new, name, value)
    return new
