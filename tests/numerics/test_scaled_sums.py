"""Sums of powers at any scale, by the scale that is known beforehand and by the largest number of each sum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm._numerics.powers import exponent_of, two_to
from braindnorm._numerics.scaled_sums import Powers, sum_of_powers
from tests.support.norms import float64

# more elements than are summed by the largest at once
ROWS, COLUMNS = 300, 8
SQUARES, SIGNED = Powers((1,), 2.0, True), Powers((1,), 2.5, False)


@jax.jit
def squares(x: Any, scale: Any, valid: Any) -> Any:
    (e, s), pull = jax.vjp(lambda x: sum_of_powers(SQUARES, x, scale, valid), x)
    return e, s, *pull((jnp.ones_like(e), jnp.ones_like(s)))


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    valid = rng.random((ROWS, COLUMNS)) < 0.8
    valid[3] = False
    return rng.normal(1, 2, (ROWS, COLUMNS)).astype(np.float32), valid


@pytest.mark.parametrize("beside", [1.0, 1e-3, 0.0, np.nan], ids=str)
@pytest.mark.parametrize("prefix", [1.0, 1e-30, 1e25])
def test_squares_of_any_size(prefix: float, beside: float) -> None:
    """Whatever scale is given, and where it is of no use, in values and in gradients."""
    x, valid = data()
    x, scale = np.float32(prefix) * x, np.full((1, 1), np.float32(prefix * beside))
    e, s, slope = squares(np.where(valid, x, np.nan), scale, valid)
    size = np.where(valid, np.maximum(x, 0), 0).astype(np.longdouble)
    two = np.longdouble(2) ** np.asarray(e, np.longdouble)
    np.testing.assert_allclose(np.asarray(s) * two**2, (size**2).sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(slope, (2 * size / two**2).astype(np.float32), rtol=1e-6)


def test_one_sum_that_leaves_the_range_is_right_and_so_are_the_others() -> None:
    x, valid = data()
    x[5], x[6], x[7, 2], valid[5:8] = 1e30, 1e-30, np.nan, True
    e, s, _ = squares(x, np.ones((1, 1), np.float32), valid)
    size = np.where(valid, np.maximum(x, 0), 0).astype(np.longdouble)
    found = np.asarray(s) * np.longdouble(2) ** (2 * np.asarray(e, np.longdouble))
    others = np.arange(ROWS) != 7
    np.testing.assert_allclose(found[others], (size**2).sum(1, keepdims=True)[others], rtol=1e-6)
    assert np.isnan(found[7])


def test_a_sum_that_is_lost_beside_the_scale_has_a_slope() -> None:
    """Its powers are 0 in single precision, and what one of them would be scaled up by is out of range."""
    x, valid = data()
    e, s, slope = squares(np.float32(1e-26) * x, np.ones((1, 1), np.float32), valid)
    size = np.where(valid, np.maximum(np.float32(1e-26) * x, 0), 0).astype(float)
    np.testing.assert_array_less(np.asarray(s, float) * 4.0 ** np.asarray(e, float), 1e-30)
    np.testing.assert_allclose(slope, 2 * size / 4.0 ** np.asarray(e, float), rtol=1e-6)
    assert np.max(slope) < 1


def test_lanes_share_one_choice() -> None:
    """Neither side of it is computed beside the other, and a lane has a scale of its own."""
    x, _ = data()
    lanes = np.stack([x, 1e3 * x, 0 * x])
    call = jax.jit(jax.vmap(lambda x, scale: sum_of_powers(SIGNED, x, scale, None)))
    scales = np.float32([1, 1e3, 1]).reshape(3, 1, 1)
    e, s = call(lanes, scales)
    want = (np.abs(lanes.astype(float)) ** 2.5).sum(2, keepdims=True)
    np.testing.assert_allclose(np.asarray(s, float) * 2.0 ** (2.5 * np.asarray(e, float)), want, rtol=2e-6)
    assert call.lower(lanes, scales).as_text().count("stablehlo.case") == 1


def test_powers_of_two_are_exact() -> None:
    binary = np.arange(-126, 128)
    with float64():
        for dtype in (np.float32, np.float64):
            np.testing.assert_array_equal(two_to(jnp.asarray(binary, dtype)), 2.0**binary)
            found = exponent_of(jnp.asarray(1.7 * 2.0 ** binary[1:-1], dtype))
            np.testing.assert_array_equal(found, binary[1:-1])
    np.testing.assert_array_equal(two_to(jnp.float32([-300, 200])), [0, np.inf])
