"""A batch norm in evaluation as what it then is: a straight line for each channel."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .. import units
from ..layers import NormParam, OverTime
from ..layers._affine import is_plain
from ..units import Mantissa, QuantityLike, Shape, Unit
from ._batch_norm import BATCH_NORMS
from ._common import Foreign, refuse, unknown
from ._packages import check_ours
from ._replace import is_norm

Numbers = np.ndarray[Any, np.dtype[np.float64]]
# what normalizes by the input at hand, in evaluation too: by class names, brainstate's included
DEPENDENT = ("DivisiveNorm", "GroupNorm", "LayerNorm", "OverTime", "RMSNorm")


class Line(NamedTuple):
    """``y = slope * x + offset``, element by element, with x in `unit` and y in `out_unit`; in float64, on the host.

    Slope and offset broadcast to x from the right; `channels` are the axes, counted from the right, that they vary on.
    """

    slope: Numbers
    offset: Numbers
    unit: Unit
    out_unit: Unit
    channels: Shape


def line_of(norm: Foreign) -> Line:
    """Return what a norm does in evaluation.

    Raises
    ------
    ConversionError
        If it depends on the input there, or on the time step; or is of a class that is not known.
    """
    if type(norm) is OverTime and type(norm.norm) in BATCH_NORMS:
        norm = norm.norm  # in evaluation there is no other memory than the running statistics
    _check(norm)
    unit = units.UNITLESS if norm.unit is None else norm.unit
    out_unit = unit if norm.out_unit is None else norm.out_unit
    mean, var = on_host(norm.running_mean.value, "the running mean"), on_host(norm.running_var.value, "the variance")
    weights = {} if norm.weight is None else norm.weight.value
    scale = on_host(weights.get("scale", 1.0), "the scale")
    bias = on_host(weights.get("bias", 0.0), "the bias")
    slope = scale / np.sqrt(var + on_host(units.variance_of(norm.epsilon, unit), "epsilon"))
    channels = tuple(axis - len(norm.in_size) for axis in norm.feature_axes)
    return Line(slope, bias - mean * slope, unit, out_unit, channels)


def on_host(value: Mantissa, what: str) -> Numbers:
    """Return numbers in float64 that are known now.

    Raises
    ------
    ConversionError
        If they are traced.
    """
    numbers = units.known(value)
    if numbers is None:
        refuse(what, "is traced, and a layer is folded once, on the host", "Fold outside of compiled functions.")
    return numbers


def split(value: QuantityLike, what: str) -> tuple[Numbers, Unit]:
    """Return numbers in float64, and their unit."""
    mantissa, unit = units.strip(value, None, what=what)
    return on_host(mantissa, what), unit


def join(numbers: Numbers, unit: Unit, like: QuantityLike) -> QuantityLike:
    """Return numbers in a unit, in the dtype of `like`; what has no dimension (mV/V) as a plain array."""
    dtype = units.floating(units.strip(like, None)[0]).dtype
    if unit.dim.is_dimensionless:
        numbers, unit = np.asarray(units.convert(numbers, unit, units.UNITLESS)), units.UNITLESS
    return units.restore(jnp.asarray(numbers, dtype), unit)


def product(*factors: Unit, over: Unit = units.UNITLESS) -> Unit:
    """Return a product of units, divided by one."""
    result: Any = math.prod(factors, start=units.UNITLESS)
    return result / over  # type: ignore[no-any-return]  # of units alone, a unit


def first_of(channels: Sequence[int]) -> str:
    """Return channel numbers as a message shows them: ten at most."""
    shown = ", ".join(map(str, channels[:10]))
    return f"channel {shown}" if len(channels) == 1 else f"channels {shown}{', ...' if len(channels) > 10 else ''}"


def _check(norm: Foreign) -> None:
    kind = type(norm).__name__
    if type(norm) not in BATCH_NORMS:
        if any(base.__name__ in DEPENDENT for base in type(norm).__mro__):
            refuse(
                kind,
                "takes its statistics from each input, in evaluation too, so no fixed weights do the same",
                "Keep it in the model, or train with BatchNorm, which is a fixed scale and offset in evaluation.",
            )
        if is_norm(norm):
            check_ours(norm)
        unknown(norm, [norm.__name__ for norm in BATCH_NORMS])
    if not norm.track_running_stats:
        remedy = "Build the norm with track_running_stats=True, and train it."
        refuse(kind, "has track_running_stats=False, so that each call is normalized by its own statistics", remedy)
    for option in ("param_steps", "gain_steps", "running_steps"):
        if (steps := getattr(norm, option, None)) is not None:
            remedy = f"Build the norm with {option}=None."
            refuse(kind, f"has {option}={steps}: what it does changes from step to step", remedy)
    if norm.weight is not None and not is_plain(type(norm.weight)):
        remedy = f"Build the norm with the default param_type, {NormParam.__name__}."
        refuse(kind, f"has param_type={type(norm.weight).__name__}, which may compute something else", remedy)
