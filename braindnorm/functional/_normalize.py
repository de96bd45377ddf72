"""One call of a norm, from the unit that comes off to the unit that goes on."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.axes import Axes, canonical_axes, single_axis, split_groups
from .._numerics.collectives import AxisName
from .._numerics.moments import Reduction
from ..errors import DtypeError, OptionError, UnitError
from ..masks._align import align
from ._standardize import Affine, Standardization, standardize

_REAL = frozenset(jnp.dtype(real) for real in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64))


class NormOptions(TypedDict, total=False):
    """The options that every norm shares, as :mod:`braindnorm.functional` documents them."""

    epsilon: Any
    mask: Any
    masked_output: str
    unit: Any
    out_unit: Any
    axis_name: AxisName | None
    axis_index_groups: Sequence[Sequence[int]] | None
    use_fast_variance: bool
    dtype: Any
    affine: Affine | None
    name: str


def normalize(
    x: Any,
    scale: Any,
    bias: Any,
    *,
    reduction_axes: Axes | None,
    feature_axis: int | None = None,
    groups: tuple[int | None, int | None] | None = None,
    centred: bool = True,
    epsilon: Any = 1e-6,
    mask: Any = None,
    masked_output: str = "zero",
    unit: Any = None,
    out_unit: Any = None,
    axis_name: AxisName | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    use_fast_variance: bool = True,
    dtype: Any = None,
    affine: Affine | None = None,
    name: str = "normalize",
    standardize: Callable[..., jax.Array] = standardize,
) -> Any:
    """Normalize `x`: the way that all norms share. The options are those of :mod:`braindnorm.functional`.

    `standardize` makes z and applies scale and bias: a norm with a memory brings its own.
    """
    check_choices(masked_output, use_fast_variance, name=name)
    check_axis_name(axis_name, axis_index_groups, name=name)
    mantissa, reference = units.strip(x, units.check_unit(unit, option="unit", name=name), name=name)
    out_unit = units.check_unit(out_unit, option="out_unit", name=name)
    learned, out_unit = units.strip_parameters({"scale": scale, "bias": bias}, out_unit, name=name)
    out_unit = reference if out_unit is None else out_unit
    array = real_array(mantissa, name=name)
    over = reduction_of(array.shape, reduction_axes, feature_axis, groups, name=name)
    over = over._replace(axis_name=axis_name, axis_index_groups=axis_index_groups)
    valid = align(mask, array.shape, name=name)
    padding = padding_of(array, masked_output, reference, out_unit, name)
    # a change of prefix may have widened it
    given = array if unit is None else real_array(units.strip(x, None, name=name)[0], name=name)
    result = result_dtype([given, *learned.values(), *jax.tree.leaves(affine and affine.value)], dtype, name=name)
    how = Standardization(
        over,
        units.variance_of(epsilon, reference, name=name),
        centred,
        use_fast_variance,
        keep_padding=padding is None and valid is not None,
    )
    y = standardize(array, valid, how, arithmetic_dtype(array.dtype, result), affine=affine, **learned)
    y = y if y.dtype == result else y.astype(result)
    if valid is not None and padding is not None:
        y = jnp.where(valid, y, padding.astype(result))
    return units.restore(y, out_unit)


def real_array(x: Any, *, name: str) -> jax.Array:
    """Return numbers as an array of floats; integers and booleans (spikes) become float.

    Raises
    ------
    DtypeError
        If it is complex, or of a floating dtype that JAX promotes with no other (float8).
    """
    array = units.floating(x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise DtypeError(
            f"{name}: the input is complex ({array.dtype}), for which these norms are not defined. Normalize its real"
            " and imaginary parts, or its magnitude."
        )
    if array.dtype not in _REAL:
        raise DtypeError(_narrow("the input is", array.dtype, "x.astype(jnp.float32)", name))
    return array


def result_dtype(arrays: Sequence[Any], dtype: Any, *, name: str) -> Any:
    """Return the dtype of the result: the one asked for, or the promotion of the input and the parameters.

    Raises
    ------
    DtypeError
        If the one asked for is not a real floating dtype, or a parameter is complex.
    """
    arrays = [a for a in arrays if a is not None]
    known = {a.dtype if isinstance(a, jax.Array) else None for a in arrays}
    if dtype is None and len(known) == 1 and known <= _REAL:  # nearly every call
        return known.pop()
    _check_kinds([getattr(a, "dtype", type(a)) for a in arrays], name)
    if dtype is None:
        return jnp.result_type(*arrays) if arrays else None
    try:
        if isinstance(dtype, jax.Array | np.ndarray | np.generic):  # has a dtype, but is none
            raise TypeError("an array")
        asked = jnp.dtype(dtype)
    except (TypeError, ValueError):
        raise DtypeError(f"{name}: dtype={dtype!r} is no dtype; give one such as jnp.float32, or None.") from None
    if not jnp.issubdtype(asked, jnp.floating):
        raise DtypeError(f"{name}: dtype={asked} cannot hold a normalized value; give a floating dtype, or None.")
    if asked not in _REAL:
        raise DtypeError(_narrow("dtype is", asked, f"norm(x).astype(jnp.{asked})", name))
    return asked


def _check_kinds(kinds: Sequence[Any], name: str) -> None:
    """Raise at scale or bias of a kind of number that has no meaning here."""
    for kind in kinds:
        if jnp.issubdtype(kind, jnp.complexfloating):
            raise DtypeError(f"{name}: scale or bias is complex, for which these norms are not defined. Make it real.")
        if jnp.issubdtype(kind, jnp.bool_):
            raise DtypeError(f"{name}: scale or bias is boolean. A mask is given as mask=mask; else make it a number.")
        if jnp.issubdtype(kind, jnp.floating) and jnp.dtype(kind) not in _REAL:
            raise DtypeError(_narrow("scale or bias is", jnp.dtype(kind), "scale.astype(jnp.float32)", name))


def _narrow(what: str, dtype: Any, cure: str, name: str) -> str:
    return f"{name}: {what} {dtype}, which JAX combines with no other dtype. Convert explicitly: {cure}."


@functools.lru_cache(maxsize=64)
def arithmetic_dtype(given: Any, result: Any) -> Any:
    """Return the dtype of the arithmetic between an input and a result: float32, or what is wider."""
    return jnp.promote_types(jnp.promote_types(given, result), jnp.float32)


def check_choices(masked_output: Any, use_fast_variance: Any, *, name: str) -> None:
    """Raise unless `masked_output` is one of its three modes, and `use_fast_variance` a boolean."""
    if not isinstance(use_fast_variance, bool | np.bool_):
        raise OptionError(f"{name}: use_fast_variance must be True or False; got {use_fast_variance!r}.")
    if not isinstance(masked_output, str) or masked_output not in ("zero", "input", "normalize"):
        raise OptionError(f"{name}: masked_output must be 'zero', 'input' or 'normalize'; got {masked_output!r}.")


def check_axis_name(axis_name: Any, groups: Any, *, name: str) -> None:
    """Raise if `axis_name` cannot be the name of a mapped axis, or names; to JAX an integer is a place."""
    if axis_name is None and groups is not None:
        raise OptionError(
            f"{name}: axis_index_groups={groups!r} divides a mapped axis, but axis_name is None. Name the axis, or"
            " leave the groups out."
        )
    for one in axis_name if isinstance(axis_name, tuple) else (axis_name,):
        if isinstance(one, int | np.integer) or not isinstance(one, Hashable):
            raise OptionError(
                f"{name}: axis_name must be the name of a mapped axis such as 'batch', a tuple of names or None; got"
                f" {axis_name!r}. Axes of the input go to reduction_axes."
            )


def reduction_of(
    shape: Sequence[int], axes: Axes | None, feature_axis: Any, groups: tuple[Any, Any] | None, *, name: str
) -> Reduction:
    """Return what the statistics of an input of this shape run over; without `groups` no axis is split."""
    if groups is None:
        return Reduction(canonical_axes(axes, len(shape), option="reduction_axes", name=name), name=name)
    channel = single_axis(canonical_axes(feature_axis, len(shape), option="feature_axis", name=name), name=name)
    num_groups, _ = split_groups(shape[channel], *groups, name=name)
    if axes is None:
        batch = 0 if channel else None
        reduced: Sequence[int] = [axis for axis in range(len(shape)) if axis != batch]
    else:
        reduced = canonical_axes(axes, len(shape), option="reduction_axes", name=name)
    return Reduction(tuple(axis for axis in reduced if axis != channel), channel, num_groups, name=name)


def padding_of(array: jax.Array, masked_output: str, reference: Any, out_unit: Any, name: str) -> Any:
    """Return what comes out at masked positions; None where it is the normalized input."""
    if masked_output == "zero":
        return np.zeros((), array.dtype)
    if masked_output == "normalize":
        return None
    if not reference.has_same_dim(out_unit):
        output = "a plain output" if out_unit.is_unitless else f"an output in {out_unit}"
        raise UnitError(
            f"{name}: masked_output='input' would pass an input in {reference} through to {output}. Use 'zero' or"
            " 'normalize', or an out_unit of the input's dimension."
        )
    if reference != out_unit:  # half precision holds no other prefix
        array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return jnp.asarray(units.convert(array, reference, out_unit))
