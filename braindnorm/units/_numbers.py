"""Read numbers at their true value: the one place where what a caller gives becomes an array.

JAX keeps 32 bits unless it is told otherwise, and wraps a numpy integer of 64 bits without a word: 2**32 nanoseconds
would be 0. Here such integers become floats, on the host, before JAX sees them.
"""

from typing import Any, TypeGuard

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

from ._types import Mantissa, QuantityLike

# what is wider than any dtype of JAX, by numpy's letters
NARROWED = {"g": np.float64, "G": np.complex128}


def numbers(value: QuantityLike) -> Mantissa | u.Quantity:
    """Return numbers as JAX can take them: an array of JAX or numpy, or a Python number.

    Integers that no integer of JAX holds become float64.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As :func:`exact`.
    """
    read = exact(value)
    if isinstance(read, int):
        bounds = np.iinfo(jnp.result_type(int))
        return read if bounds.min <= read <= bounds.max else float(read)
    if not isinstance(read, np.ndarray):
        return read
    if read.dtype.kind in "iu" and read.dtype.itemsize > jnp.result_type(int).itemsize:
        return read.astype(np.float64)
    return read.astype(NARROWED[read.dtype.char]) if read.dtype.char in NARROWED else read


def exact(value: QuantityLike) -> Mantissa | u.Quantity:
    """Return numbers without a unit as they are: an array of JAX, of numpy, or a Python number.

    Lists and tuples become arrays, an empty one of integers; quantities in them keep their unit.

    Raises
    ------
    TypeError, ValueError, OverflowError
        If these are not numbers, or are numpy's masked arrays, whose mask would be lost.
    """
    if isinstance(value, list | tuple):
        return _of_sequence(value)
    if isinstance(value, int | float | complex):
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise OverflowError("more than 64 bits")
        return value
    if is_masked(value) or isinstance(value, str | bytes):
        raise TypeError("text and numpy's masked arrays, whose mask would be lost, are not numbers")
    on_host = hasattr(value, "__array__") and not (isinstance(value, jax.Array) or hasattr(value, "__jax_array__"))
    array: Any = np.asarray(value) if on_host else jnp.asarray(value)  # of either: what both can do
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.number, jnp.bool_)) or array.dtype.kind in "mM":
        raise TypeError(f"{array.dtype} is not a dtype of numbers")
    # JAX reads one order of bytes
    native: Mantissa = array.astype(array.dtype.newbyteorder("=")) if on_host and not array.dtype.isnative else array
    return native


def is_masked(value: object) -> bool:
    """Tell whether there is a masked array of numpy in `value`, in a quantity, a list or a tuple too."""
    if isinstance(value, list | tuple):
        return any(map(is_masked, value))
    return isinstance(value.mantissa if isinstance(value, u.Quantity) else value, np.ma.MaskedArray)


def floating(value: Mantissa) -> jax.Array:
    """Return what :func:`numbers` has read as an array of floats that loses no digit that a float of JAX can hold.

    Integers of 32 bits and more become the widest float there is: float32 has 24 bits.
    """
    array: jax.Array = value if isinstance(value, jax.Array) else jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.inexact):
        return array
    return jnp.astype(array, jnp.result_type(float) if array.dtype.itemsize >= 4 else jnp.float32)


def known(value: Mantissa) -> np.ndarray | None:
    """Return real numbers on the host, in float64; None where they are traced, or on other hosts."""
    if isinstance(value, jax.core.Tracer) or (isinstance(value, jax.Array) and not value.is_fully_addressable):
        return None
    return np.asarray(value).astype(np.float64)


def _of_sequence(value: list[Any] | tuple[Any, ...]) -> Mantissa | u.Quantity:
    if is_masked(value):
        raise TypeError("numpy's masked arrays are not numbers: the mask would be lost")
    leaves = jax.tree.leaves(value, is_leaf=_is_quantity)
    if any(map(_is_quantity, leaves)):
        return u.Quantity(jax.tree.map(_in_quantity, value, is_leaf=_is_quantity))
    if any(isinstance(leaf, jax.Array) or hasattr(leaf, "__jax_array__") for leaf in leaves):
        return jnp.asarray(jax.tree.map(numbers, value))
    array = np.asarray(value)
    return exact(array) if leaves or array.size else array.astype(int)


def _is_quantity(value: object) -> TypeGuard[u.Quantity]:
    return isinstance(value, u.Quantity)


def _in_quantity(value: QuantityLike) -> Mantissa | u.Quantity:
    return u.Quantity(numbers(value.mantissa), unit=value.unit) if _is_quantity(value) else numbers(value)
