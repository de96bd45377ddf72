"""Out of a norm: padding, dtype, unit on."""

import jax
import jax.numpy as jnp

from .. import units
from ._enter import Entry


def leave(y: jax.Array, entry: Entry) -> units.Result:
    """Return what the norm made of an input as the caller gets it."""
    y = y if y.dtype == entry.result else y.astype(entry.result)
    if entry.valid is not None and entry.padding is not None:
        y = jnp.where(entry.valid, y, entry.padding.astype(entry.result))
    return units.restore(y, entry.out_unit)
