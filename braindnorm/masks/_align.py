"""Read a mask of any accepted type, and align it with the input."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import MaskError
from ..units import MaskLike, exact, is_event, is_masked, unwrap
from ._blocks import staged

Booleans = jax.Array | np.ndarray


def align(mask: MaskLike | None, shape: Sequence[int]) -> Booleans | None:
    """Return the mask as booleans with as many axes as the input, not yet broadcast; None stays None.

    It is an array of numpy if it is a constant of the program that is traced.

    Parameters
    ----------
    mask : array_like of bool or int, BinaryArray or None
        True or non-zero where the input is valid.
    shape : sequence of int
        The input's shape.

    Raises
    ------
    MaskError
        If the mask is of floats (a weight is not a mask), does not broadcast to `shape`, or has fewer axes than the
        input and fits its leading ones.
    """
    if mask is None:
        return None
    valid = _booleans(mask, "mask")
    padded = (1,) * (len(shape) - valid.ndim) + valid.shape
    fits_leading = valid.ndim < len(shape) and set(valid.shape) - {1} and broadcasts(valid.shape, shape)
    if fits_leading:
        write = ", ".join(["...", *["None"] * (len(shape) - valid.ndim)])
        both = " and its trailing axes too" if broadcasts(padded, shape) else ""
        raise MaskError(
            f"a mask of shape {valid.shape} fits the leading axes of an input of shape {tuple(shape)}{both},"
            f" but masks are aligned from the right. Write mask[{write}] if it masks the leading axes, or give it all"
            f" {len(shape)} axes."
        )
    if len(padded) > len(shape) or not broadcasts(padded, shape):
        raise MaskError(
            f"a mask of shape {valid.shape} does not broadcast to an input of shape {tuple(shape)}. Give it one"
            " entry, or 1, for each axis of the input."
        )
    aligned = valid.reshape(padded)
    return aligned if isinstance(aligned, np.ndarray) and staged() else jnp.asarray(aligned)


def as_booleans(mask: MaskLike, *, what: str = "mask") -> jax.Array:
    """Read a mask (or `what` else is one) of any accepted type as booleans, of the shape that it has."""
    return jnp.asarray(_booleans(mask, what))


def _booleans(mask: MaskLike, what: str) -> Booleans:
    inside = unwrap(mask)
    if is_masked(inside):
        raise MaskError(
            f"the {what} is a masked array of numpy, whose own mask would be lost. Write {what}.filled(False)."
        )
    try:
        array = exact(inside)
    except (TypeError, ValueError, OverflowError) as error:
        raise MaskError(f"the {what} must be an array of booleans or of integers 0 and 1; got {mask!r}.") from error
    array = array if isinstance(array, jax.Array) and not _is_constant(array) else np.asarray(array)
    if not (array.dtype == bool or jnp.issubdtype(array.dtype, jnp.integer) or is_event(mask)):
        raise MaskError(
            f"the {what} is of dtype {array.dtype}, but a mask is of booleans or integers, not weights. Write"
            f" {what} != 0, or {what} > 0.5 if it is a probability."
        )
    # compared before JAX sees it: it would wrap integers of 64 bits
    return array if array.dtype == bool else array != array.dtype.type(0)


def _is_constant(array: jax.Array) -> bool:
    """Tell whether an array of one device is a constant of the program that is traced."""
    known = not isinstance(array, jax.core.Tracer) and len(array.sharding.device_set) == 1
    return known and array.is_fully_addressable and staged()


def broadcasts(mask_shape: Sequence[int], shape: Sequence[int]) -> bool:
    """Tell whether each axis of the mask is 1 or as long as the array's, counted from the left."""
    return all(m in (1, n) for m, n in zip(mask_shape, shape, strict=False))
