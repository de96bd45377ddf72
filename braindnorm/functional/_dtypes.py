"""Dtypes of a norm: of its input, of the arithmetic, of its result."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import DtypeError

_REAL = frozenset(jnp.dtype(real) for real in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64))


def real_array(x: Any, *, name: str) -> jax.Array:
    """Return numbers as an array of floats; integers and booleans (spikes) become float.

    Raises
    ------
    DtypeError
        If it is complex.
    """
    array = x if isinstance(x, jax.Array) else jnp.asarray(x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise DtypeError(
            f"{name}: the input is complex ({array.dtype}), for which these norms are not defined. Normalize its real"
            " and imaginary parts, or its magnitude."
        )
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


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
    if any(jnp.issubdtype(a.dtype if hasattr(a, "dtype") else type(a), jnp.complexfloating) for a in arrays):
        raise DtypeError(f"{name}: scale or bias is complex, for which these norms are not defined. Make them real.")
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
    return asked


@functools.lru_cache(maxsize=64)
def arithmetic_dtype(given: Any, result: Any) -> Any:
    """Return the dtype of the arithmetic between an input and a result: float32, or what is wider."""
    return jnp.promote_types(jnp.promote_types(given, result), jnp.float32)
