"""A warning of the usual mistake with running statistics: a layer evaluates by them, and no call has updated them.

They are then as they were made, mean 0 and variance 1. No state says so, since a checkpoint has the states of
brainstate's layer: the values are compared, on the host, once a layer. Values cannot be read while a function is
compiled; the layer is then looked at when brainstate next asks for its phase, which it does at every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from .. import units
from ..masks._blocks import staged
from ._warn import warn_user
from ._wiring import label

if TYPE_CHECKING:
    from .batch_norm import BatchNorm

# no attributes of the layers: they are no part of a model's states, and a copy of a layer has its own
_SETTLED: WeakSet[BatchNorm] = WeakSet()
_UNSEEN: WeakSet[BatchNorm] = WeakSet()


def trust(layer: BatchNorm) -> None:
    """Take the running statistics of a layer as they are: a call has updated them, or a converter put them there."""
    if layer not in _SETTLED:
        _SETTLED.add(layer)
        _UNSEEN.discard(layer)


def look(layer: BatchNorm) -> None:
    """Warn, once, if a layer evaluates by running statistics that nobody has touched."""
    if layer.frozen or layer in _SETTLED:
        return
    mean, var = (None, None) if staged() else (units.known(s.value) for s in (layer.running_mean, layer.running_var))
    if mean is None or var is None:
        _UNSEEN.add(layer)
        return
    trust(layer)
    if not mean.any() and (var == 1).all():
        unit = "" if layer.unit is None else f" {layer.unit}"
        square = "" if layer.unit is None else f" {layer.unit**2}"
        warn_user(
            f"{label(layer)}: this evaluates by running statistics that no call has updated, mean 0{unit} and variance"
            f" 1{square}. Train first (with brainstate.environ.context(fit=True); in OverTime end_sequence() updates"
            " them), or load what was trained. If they are meant, build the norm with frozen=True."
        )


def look_if_unseen(layer: BatchNorm) -> None:
    """Do so for a layer that a compiled function evaluates, from outside of that function."""
    if layer in _UNSEEN:
        look(layer)
