"""Split a unit off, and attach one: the two crossings of the boundary."""

import functools
import re
from collections.abc import Mapping
from typing import Any, TypeGuard, TypeVar

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import DtypeError, UnitError
from ._numbers import floating, is_masked, numbers
from ._types import Events, Mantissa, QuantityLike, Shape, Unit

UNITLESS: Unit = u.UNITLESS
ArrayT = TypeVar("ArrayT", bound=Mantissa)
_NAME = r"[^\s\d*/()^.-][^\s*/()^]*"  # of a unit, where units are shown


def check_unit(unit: object, *, option: str) -> Unit | None:
    """Return `unit` if it is a unit or None.

    Raises
    ------
    UnitError
        If it is anything else, a quantity included.
    """
    if unit is None or isinstance(unit, u.Unit):
        return unit
    raise UnitError(
        f"{option} must be a brainunit Unit such as brainunit.mV, or None; got {unit!r} of type {type(unit).__name__}."
    )


@functools.lru_cache(maxsize=256)
def is_unitless(unit: Unit) -> bool:
    """Tell whether a unit is that of a plain number. Asked of brainunit once a unit, since it takes its time."""
    return bool(unit.is_unitless)


def is_event(x: object) -> TypeGuard[Events]:
    """Tell whether `x` wraps events, as ``brainevent.BinaryArray`` does: whatever the dtype, non-zero is an event."""
    arrays = (jax.Array, np.ndarray, np.generic, u.Quantity, brainstate.State)
    return not isinstance(x, arrays) and hasattr(x, "value") and hasattr(x, "dtype")


def unwrap(x: QuantityLike) -> QuantityLike:
    """Return the array (or quantity) inside an event array or a State; anything else as it is."""
    if is_event(x) or isinstance(x, brainstate.State):
        inside: QuantityLike = x.value
        return inside
    return x


def shape_of(x: QuantityLike) -> Shape:
    """Return the shape of an input of any accepted type.

    Raises
    ------
    DtypeError
        If it is not an array of numbers.
    """
    return tuple(jnp.shape(split(unwrap(x), "the input")[0]))


def parts(value: object) -> tuple[object, Unit]:
    """Return the mantissa and the unit of a quantity; anything else as it is, without a unit."""
    return (value.mantissa, value.unit) if isinstance(value, u.Quantity) else (value, UNITLESS)


def split(value: QuantityLike, what: str) -> tuple[Mantissa, Unit]:
    """Return mantissa and unit of what should be numbers."""
    inside, outside = (value.mantissa, value.unit) if isinstance(value, u.Quantity) else (value, UNITLESS)
    if isinstance(inside, jax.Array | float) and not _is_key(inside):  # nearly every call, in a tenth of the time
        return inside, outside
    if is_masked(value):
        raise DtypeError(
            f"{what} is a masked array of numpy, whose mask would be lost. Write x.filled(0) for it, and give"
            " mask=~numpy.ma.getmaskarray(x) to a norm."
        )
    try:
        read = numbers(inside)
    except (TypeError, ValueError, OverflowError) as error:
        raise DtypeError(f"{what} must be a number, an array of numbers or a quantity; got {value!r}.") from error
    return (read.mantissa, read.unit) if isinstance(read, u.Quantity) else (read, outside)  # a list may hold quantities


def _is_key(value: object) -> bool:
    return isinstance(value, jax.Array) and not isinstance(value.dtype, np.dtype)


def strip(x: QuantityLike, unit: Unit | None, *, what: str = "the input") -> tuple[Mantissa, Unit]:
    """Take the unit off `x`.

    Parameters
    ----------
    x : array_like or Quantity
        The input.
    unit : Unit or None
        The reference unit. With None, the unit that arrives is the reference.

    Returns
    -------
    tuple
        The mantissa of `x` in the reference unit, and that unit. Half precision is widened to be rescaled: 70 nA are
        70000 pA, more than float16 holds.

    Raises
    ------
    UnitError
        If `unit` is given and `x` is of another dimension, or a plain array and `unit` is not unitless.
    """
    mantissa, arrived = split(unwrap(x), what)
    if unit is None:
        return mantissa, arrived
    if is_unitless(arrived) and not is_unitless(unit):
        raise UnitError(
            f"the norm is declared with unit={unit}, but got a plain array without a unit. Attach it"
            f" (x * {spell(unit)}), or build the norm with unit=None. If it had one: x >> norm takes it off before"
            " the norm sees it; write norm(x)."
        )
    if not arrived.has_same_dim(unit):
        raise UnitError(
            f"the norm is declared with unit={unit}, but got an input in {arrived}, which is of another dimension."
            f" Pass a quantity that converts to {unit}, or build the norm with unit={arrived}."
        )
    return (mantissa if arrived == unit else convert(_at_least_float32(mantissa), arrived, unit)), unit


def spell(unit: Unit) -> str:
    """Return a unit as a program writes it, ``(brainunit.mV / brainunit.ms)``."""
    if unit.dim.is_dimensionless and not is_unitless(unit) and unit == u.Unit(scale=unit.scale):
        return f"brainunit.Unit(scale={unit.scale})"  # mV/V, which shows itself as 10.0^-3: to a program, a number
    names, known = re.findall(_NAME, str(unit)), _names()
    if re.search(r"\w \w", str(unit)) or not all(name in known for name in names):
        return f"brainunit.{known[str(unit)]}" if str(unit) in known else f"the unit {unit}"
    spelled = re.sub(_NAME, lambda name: f"brainunit.{known[name[0]]}", str(unit)).replace("^", "**")
    return spelled if len(names) == 1 and "/" not in spelled else f"({spelled})"


@functools.lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Return what brainunit calls each of its units, by what they show themselves as: m is ``brainunit.meter``."""
    names: dict[str, str] = {}
    for attribute, unit in sorted(vars(u).items()):
        if isinstance(unit, u.Unit):
            names.setdefault(str(unit), attribute)
    return names


def _at_least_float32(mantissa: Mantissa) -> jax.Array:
    array = floating(mantissa)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def convert(mantissa: Mantissa, source: Unit, target: Unit) -> Mantissa:
    """Rescale a mantissa between units of one dimension, without any arithmetic where they are equal."""
    if source == target:
        return mantissa
    return u.Quantity(mantissa, unit=source).to_decimal(target)


def in_si(value: QuantityLike, what: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return numbers in the unit of the SI of their dimension (V, A, s), on the host; plain ones as they are."""
    mantissa, unit = strip(value, None, what=what)
    numbers = np.asarray(mantissa, np.float64)
    return np.asarray(convert(numbers, unit, u.Unit(dim=unit.dim, scale=0)), np.float32)


def restore(y: ArrayT, unit: Unit) -> ArrayT | u.Quantity:
    """Attach `unit` to `y`; a unitless result stays a plain array."""
    return y if is_unitless(unit) else u.Quantity(y, unit=unit)


def strip_parameters(
    parameters: Mapping[str, QuantityLike | None], out_unit: Unit | None
) -> tuple[dict[str, Mantissa | None], Unit | None]:
    """Take the units off scale and bias, which are in the output's unit.

    Returns
    -------
    tuple
        The plain parameters, and the output's unit: `out_unit`, or else the unit of the first parameter that has one,
        or else None.

    Raises
    ------
    UnitError
        If a parameter is of another dimension than `out_unit`, or the parameters disagree.
    """
    plain: dict[str, Mantissa | None] = {}
    source = "out_unit"
    for key, value in parameters.items():
        if value is None:
            plain[key] = None
            continue
        mantissa, parameter_unit = split(value, key)
        if not is_unitless(parameter_unit):
            if out_unit is None:
                out_unit, source = parameter_unit, key
            if not parameter_unit.has_same_dim(out_unit):
                raise UnitError(
                    f"{key} is in {parameter_unit}, but {source} is in {out_unit}. Scale and bias are in the output's"
                    f" unit: give both in one dimension, and out_unit in the same or not at all."
                )
            mantissa = convert(mantissa, parameter_unit, out_unit)
        plain[key] = mantissa
    return plain, out_unit
