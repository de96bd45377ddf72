"""Zeros where a mask says so, by bits: what XLA for CPU chooses of numbers in memory it loads one by one.

That takes twice the time of the pass. Where something is differentiated, the tangent is chosen.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .barriers import unknown
from .deferred import Deferred, by_tangents, lanes_first
from .moments import zero_masked
from .shapes import Mask, Values


def cleared(x: Values, valid: Mask) -> Values:
    """Return `x` with zeros where it is not valid."""
    if valid is None or x.dtype.itemsize != 4 or jax.sharding.get_abstract_mesh().manual_axes:
        return zero_masked(x, valid)
    by_bits: jax.Array = _cleared(x, valid)
    return by_bits


def _by_bits(x: jax.Array, valid: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) & -unknown(valid).astype(jnp.int32)
    return jax.lax.bitcast_convert_type(bits, x.dtype)


def _batch_cleared(values: Sequence[Any], dims: Sequence[int | None]) -> tuple[jax.Array, int]:
    return _cleared(*lanes_first(values, dims)), 0


def _cleared_along(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[jax.Array, jax.Array]:
    return _cleared(*primals), zero_masked(tangents[0], primals[1])


_cleared: Deferred[jax.Array] = Deferred(
    "cleared",
    zero_masked,
    _by_bits,
    shape=jnp.broadcast_shapes,
    batch=_batch_cleared,
    differentiate=by_tangents(_cleared_along),
)
