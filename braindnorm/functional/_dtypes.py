"""Dtypes of a norm: of its input, of the arithmetic, of its result."""

import functools
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from ..errors import DtypeError
from ..units import Dtype, DtypeLike, Mantissa

REAL = frozenset(jnp.dtype(real) for real in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64))


def real_array(x: Mantissa) -> jax.Array:
    """Return numbers as an array of floats; integers and booleans (spikes) become float.

    Raises
    ------
    DtypeError
        If it is complex, or of a floating dtype that JAX promotes with no other (float8).
    """
    array = units.floating(x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise DtypeError(
            f"the input is complex ({array.dtype}), for which these norms are not defined. Normalize its real"
            " and imaginary parts, or its magnitude."
        )
    if array.dtype not in REAL:
        raise DtypeError(_narrow("the input is", array.dtype, "x.astype(jnp.float32)"))
    return array


def result_dtype(
    arrays: Sequence[Mantissa | None], dtype: DtypeLike | None, names: Collection[str] = ("scale", "bias")
) -> Dtype:
    """Return the dtype of the result: the one asked for, or the promotion of the input and the parameters.

    Raises
    ------
    DtypeError
        If the one asked for is not a real floating dtype, or a parameter is complex.
    """
    present = [a for a in arrays if a is not None]
    known = {a.dtype if isinstance(a, jax.Array) else None for a in present}
    shared = known.pop() if len(known) == 1 else None
    if dtype is None and shared is not None and shared in REAL:  # nearly every call
        return shared
    _check_kinds([getattr(a, "dtype", type(a)) for a in present], " or ".join(names))
    if dtype is None:
        return jnp.result_type(*present) if present else jnp.result_type(float)
    try:
        if isinstance(dtype, jax.Array | np.ndarray | np.generic):  # has a dtype, but is none
            raise TypeError("an array")
        asked = jnp.dtype(dtype)
    except (TypeError, ValueError):
        raise DtypeError(f"dtype={dtype!r} is not a dtype; give one such as jnp.float32, or None.") from None
    if not jnp.issubdtype(asked, jnp.floating):
        raise DtypeError(f"dtype={asked} cannot hold a normalized value; give a floating dtype, or None.")
    if asked not in REAL:
        raise DtypeError(_narrow("dtype is", asked, f"norm(x).astype(jnp.{asked})"))
    return asked


def _check_kinds(kinds: Sequence[Dtype | type], names: str) -> None:
    """Raise at a parameter of a kind of number that has no meaning here."""
    for kind in kinds:
        if jnp.issubdtype(kind, jnp.complexfloating):
            raise DtypeError(f"{names} is complex, for which these norms are not defined. Make it real.")
        if jnp.issubdtype(kind, jnp.bool_):
            raise DtypeError(f"{names} is boolean. A mask is given as mask=mask; else make it a number.")
        if jnp.issubdtype(kind, jnp.floating) and jnp.dtype(kind) not in REAL:
            raise DtypeError(_narrow(f"{names} is", jnp.dtype(kind), f"{names.split()[0]}.astype(jnp.float32)"))


def _narrow(what: str, dtype: Dtype, cure: str) -> str:
    return f"{what} {dtype}, which JAX combines with no other dtype. Convert explicitly: {cure}."


@functools.lru_cache(maxsize=64)
def arithmetic_dtype(arrived: Dtype, result: Dtype) -> Dtype:
    """Return the dtype of the arithmetic between an input and a result: float32, or what is wider."""
    return jnp.promote_types(jnp.promote_types(arrived, result), jnp.float32)
