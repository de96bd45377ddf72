"""What hypothesis draws: calls that mean something, and inputs with masks in which something is hidden."""

from typing import Any, NamedTuple

import hypothesis.strategies as st
import numpy as np

from tests.support.calls import Call, draw_call
from tests.support.norms import NORMS

kinds = st.sampled_from(list(NORMS))
seeds = st.integers(0, 2**16)


@st.composite
def calls(draw: Any) -> Call:
    """Draw a call that has to succeed; the choices shrink towards the first of each."""
    return draw_call(lambda options: draw(st.sampled_from(options)), compiled=True)


class Masked(NamedTuple):
    """Numbers, which of them are valid, and the same numbers with something else where they are not."""

    x: np.ndarray
    mask: np.ndarray
    other: np.ndarray


@st.composite
def masked_inputs(draw: Any, shape: tuple[int, ...] = (3, 4, 6)) -> Masked:
    """Draw an input of float32 around any mean, with a mask of any density, none and all included."""
    rng = np.random.default_rng(draw(seeds))
    loc, scale = draw(st.sampled_from([(0.0, 1.0), (-65.0, 4.0), (30.0, 20.0), (0.0, 1e-3)]))
    x = rng.normal(loc, scale, shape).astype(np.float32)
    mask = rng.random(shape) < draw(st.sampled_from([0.7, 0.2, 1.1, -1.0]))
    filling = draw(st.sampled_from([0.0, 1e30, -1e30, np.nan, np.inf]))
    return Masked(x, mask, np.where(mask, x, np.float32(filling)))


@st.composite
def negative_axes(draw: Any, ndim: int = 2) -> tuple[int, ...]:
    """Draw some of the last axes, counted from the right."""
    return tuple(draw(st.sets(st.integers(-ndim, -1), min_size=1)))
