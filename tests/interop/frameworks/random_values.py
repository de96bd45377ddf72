"""The random numbers that the converters are tested with."""

from collections.abc import Sequence

import numpy as np


def normal(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Return float32 numbers with a mean of 0.5 and a spread of 2."""
    return (0.5 + 2 * np.random.default_rng(seed).standard_normal(tuple(shape))).astype(np.float32)
