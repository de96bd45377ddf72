"""Into a norm: checks, unit off, dtype, mask aligned. What goes in comes out again in :mod:`._leave`."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.collectives import AxisName
from ..errors import OptionError, UnitError
from ..masks._align import align
from ..units import Dtype, DtypeLike, Mantissa, MaskLike, QuantityLike, Unit
from ._dtypes import arithmetic_dtype, real_array, result_dtype

MaskedOutput = Literal["zero", "input", "normalize"]


class Affine(Protocol):
    """What applies scale and bias: a ParamState whose `execute` may be more than arithmetic."""

    value: Any

    def execute(self, x: jax.Array) -> jax.Array:
        """Apply scale and bias to z."""


class NormOptions(TypedDict, total=False):
    """The options that every norm shares, as :mod:`braindnorm.functional` documents them."""

    epsilon: QuantityLike
    mask: MaskLike | None
    masked_output: MaskedOutput
    unit: Unit | None
    out_unit: Unit | None
    axis_name: AxisName | None
    axis_index_groups: Sequence[Sequence[int]] | None
    use_fast_variance: bool
    stop_statistics_gradient: bool
    dtype: DtypeLike | None
    affine: Affine | None
    name: str


OPTIONS = NormOptions.__annotations__.keys()


class Entry(NamedTuple):
    """An input inside a norm: plain arrays, and what has to be put back on the way out.

    `x` is the mantissa in `unit`, of a floating dtype; `valid` the mask with as many axes, or None, and `constant` the
    same of numpy where it is a constant of the program that is traced; `parameters` are plain arrays in `out_unit`,
    which `affine` applies if there is one, and `input_parameters` plain arrays in `unit`.
    The arithmetic is done in `dtype`; the result is of dtype `result`, in `out_unit`, with `padding` at masked
    positions (None where these are normalized like the others).
    """

    x: jax.Array
    valid: jax.Array | None
    parameters: dict[str, Mantissa | None]
    input_parameters: dict[str, Mantissa]
    affine: Affine | None
    unit: Unit
    out_unit: Unit
    dtype: Dtype
    result: Dtype
    padding: jax.Array | np.ndarray | None
    constant: np.ndarray | None = None


def enter(
    x: QuantityLike,
    parameters: Mapping[str, QuantityLike | None],
    options: NormOptions,
    input_parameters: Mapping[str, QuantityLike] = MappingProxyType({}),
) -> Entry:
    """Take an input and its parameters into a norm.

    Parameters
    ----------
    x : array_like or Quantity
        The input.
    parameters : mapping of str to array_like, Quantity or None
        What is expressed in the unit of the output: scale and bias.
    options : NormOptions
        Those of the call, all but the ones that are left at their default.
    input_parameters : mapping of str to array_like or Quantity
        What is expressed in the unit of the input: a semi-saturation constant.

    Raises
    ------
    NormError
        If one of them does not go with another.
    """
    mantissa, unit = units.strip(x, units.check_unit(options.get("unit"), option="unit"))
    out_unit = units.check_unit(options.get("out_unit"), option="out_unit")
    plain, out_unit = units.strip_parameters(parameters, out_unit)
    out_unit = unit if out_unit is None else out_unit
    array = real_array(mantissa)
    # a change of prefix may have widened it
    arrived = array if options.get("unit") is None else real_array(units.strip(x, None)[0])
    affine = options.get("affine")
    beside = {name: in_unit_of_input(value, unit, name) for name, value in input_parameters.items()}
    arrays = [arrived, *plain.values(), *beside.values(), *(() if affine is None else jax.tree.leaves(affine.value))]
    result = result_dtype(arrays, options.get("dtype"), (*parameters, *beside))
    padding = padding_of(array, options.get("masked_output", "zero"), unit, out_unit)
    valid = align(options.get("mask"), array.shape)
    dtype = arithmetic_dtype(array.dtype, result)
    constant = valid if isinstance(valid, np.ndarray) else None
    valid = valid if valid is None else jnp.asarray(valid)
    return Entry(array, valid, plain, beside, affine, unit, out_unit, dtype, result, padding, constant)


def in_unit_of_input(value: QuantityLike, unit: Unit, name: str) -> Mantissa:
    """Return a parameter that is added to the input as plain numbers in the input's unit.

    Raises
    ------
    UnitError
        If it is of another dimension.
    """
    mantissa, source = units.strip(value, None, what=name)
    if units.is_unitless(source):
        return mantissa
    if not source.has_same_dim(unit):
        raise UnitError(
            f"{name} is in {source}, but the input is in {unit}. Give {name} in the input's unit, or as a plain number,"
            " which is then in that unit."
        )
    return units.convert(mantissa, source, unit)


def padding_of(
    array: jax.Array, masked_output: MaskedOutput, unit: Unit, out_unit: Unit
) -> jax.Array | np.ndarray | None:
    """Return what comes out at masked positions; None where it is the normalized input."""
    check_masked_output(masked_output)
    if masked_output == "zero":
        return np.zeros((), array.dtype)
    if masked_output == "normalize":
        return None
    if not unit.has_same_dim(out_unit):
        output = "a plain output" if out_unit.is_unitless else f"an output in {out_unit}"
        raise UnitError(
            f"masked_output='input' would pass an input in {unit} through to {output}. Use 'zero' or"
            " 'normalize', or an out_unit of the input's dimension."
        )
    if unit != out_unit:  # half precision holds no other prefix
        array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return jnp.asarray(units.convert(array, unit, out_unit))


def check_flag(option: str, value: object) -> None:
    """Raise unless an option is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise OptionError(f"{option} must be True or False; got {value!r}.")


def check_masked_output(masked_output: object) -> None:
    """Raise unless `masked_output` is one of its three modes."""
    if not isinstance(masked_output, str) or masked_output not in ("zero", "input", "normalize"):
        raise OptionError(f"masked_output must be 'zero', 'input' or 'normalize'; got {masked_output!r}.")
