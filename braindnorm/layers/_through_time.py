"""A call of a norm with a memory, on one step or on a sequence: in, through time, out, and what is remembered."""

from typing import TYPE_CHECKING

import jax

from .. import units
from ..functional._divisive_over_time import divisive_norm_over_time
from ..functional._enter import enter
from ..functional._leave import leave
from ..functional._over_time import By, Clock
from ..functional._standardize import standardization
from ..units import MaskLike, QuantityLike, Result
from ._affine import check_features
from ._decay import rate_of
from ._norm import norm_options
from ._over_batch import arguments_of, by_of, evaluate, evaluates, remember_steps
from ._phase import held
from ._sequence import of_sequence
from ._time_arguments import check_declared_unit
from .divisive_norm import DivisiveNorm

if TYPE_CHECKING:
    from .over_time import OverTime


def normalize(
    layer: "OverTime", x: QuantityLike, mask: MaskLike | None, began: jax.Array | None, *, sequence: bool
) -> Result:
    """Normalize one step, or a sequence of them with time first, and remember it."""
    norm, shape = layer.norm, units.shape_of(x)
    if isinstance(norm, DivisiveNorm):
        return _respond(layer, norm, x, mask, began, sequence)
    check_features(norm, x, norm.affine_param)
    check_declared_unit(norm, x)
    if evaluates(layer):
        return evaluate(norm, x, mask)
    parameters = {"scale": None, "bias": None, **arguments_of(norm, x)}
    options = norm_options(norm, mask) | {"affine": parameters.pop("affine", None)}
    entry = enter(x, parameters, options)
    reduction = of_sequence(norm.reduction(shape[1:])) if sequence else norm.reduction(shape)
    spec = standardization(entry, reduction, options, centred=norm.centred)
    clock = Clock(layer._memory(), rate_of(layer.decay, layer.tau), began, sequence, by_of(layer, entry, x))
    y, last, seen = clock.standardize(entry, spec)
    if not layer.frozen:
        layer._state().value = last.arrays()
        remember_steps(layer, seen, entry, x)
    return leave(y, entry)


def _respond(
    layer: "OverTime",
    norm: DivisiveNorm,
    x: QuantityLike,
    mask: MaskLike | None,
    began: jax.Array | None,
    sequence: bool,
) -> Result:
    """Respond to the drive of one step, or of a sequence of them, by the pool of all steps so far."""
    check_declared_unit(norm, x)
    shape = units.shape_of(x)
    by = By(min_count=layer.min_count, frozen=held(layer))
    reduction = of_sequence(norm.reduction(shape[1:])) if sequence else norm.reduction(shape)
    clock = Clock(layer._memory(), rate_of(layer.decay, layer.tau), began, sequence, by)
    y, last = divisive_norm_over_time(clock, x, mask=mask, pool_axes=reduction.axes, **norm.arguments())
    if not layer.frozen:
        layer._state().value = last.arrays()
    return y
