"""Out of a norm: padding, dtype, unit on."""

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from ._enter import Entry


def leave(y: jax.Array, entry: Entry, *, zeroed: bool = False) -> units.Result:
    """Return what the norm made of an input as the caller gets it; `zeroed` if it is 0 wherever it is masked.

    Then no padding of 0 is written again, which behind a kernel would read and write it all once more.
    """
    y = y if y.dtype == entry.result else y.astype(entry.result)
    # a padding of 0 is numpy's, and the input is an array of JAX
    padding = None if zeroed and isinstance(entry.padding, np.ndarray) else entry.padding
    if entry.valid is not None and padding is not None:
        y = jnp.where(entry.valid, y, padding.astype(entry.result))
    return units.restore(y, entry.out_unit)
