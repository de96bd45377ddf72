"""Masks: aligned, and built from what an experiment knows."""

from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import masks
from braindnorm.errors import MaskError
from braindnorm.masks._align import align

X = (5, 3, 4)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (3, 1), (3, 4), (5, 1, 1), (1, 3, 1), (5, 3, 4)], ids=str)
def test_masks_broadcast_from_the_right(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.5
    got = align(mask, X)
    assert got is not None
    assert got.dtype == bool
    np.testing.assert_array_equal(np.broadcast_to(got, X), np.broadcast_to(mask, X))


def test_no_mask_stays_none() -> None:
    assert align(None, X) is None


@pytest.mark.parametrize(
    ("shape", "x", "write"),
    [
        ((5, 3), X, r"mask[..., None]"),
        ((5,), X, r"mask[..., None, None]"),
        ((5, 1), X, r"mask[..., None]"),
        ((4,), (4, 4), r"mask[..., None]"),  # fits both
        ((4, 4), (4, 4, 4), r"mask[..., None]"),
    ],
    ids=str,
)
def test_leading_axes_are_not_guessed(shape: tuple[int, ...], x: tuple[int, ...], write: str) -> None:
    with pytest.raises(MaskError, match="fits the leading axes") as raised:
        align(np.ones(shape, bool), x)
    assert write in str(raised.value)
    assert ("its trailing axes too" in str(raised.value)) == (x != X)
    np.broadcast_shapes(np.empty(shape)[eval(f"np.s_[{write[5:-1]}]", {"np": np, "None": None})].shape, x)


@pytest.mark.parametrize("shape", [(1, 5, 3, 4), (2,), (2, 4), (5, 2, 4), (5, 3, 4, 1)], ids=str)
def test_masks_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskError, match="does not broadcast"):
        align(np.ones(shape, bool), X)


@pytest.mark.parametrize("lengths", [[5, 0, 2], np.array([5, 0, 2], np.uint8), jnp.array([5, 0, 2])], ids=type)
def test_from_lengths(lengths: Any) -> None:
    mask = masks.from_lengths(lengths, 5)
    assert (mask.shape, mask.dtype) == ((5, 3), bool)
    np.testing.assert_array_equal(mask.sum(0), [5, 0, 2])
    assert (np.diff(np.asarray(mask, int), axis=0) <= 0).all()
    np.testing.assert_array_equal(jax.jit(masks.from_lengths, static_argnums=1)(jnp.asarray(lengths), 5), mask)


def test_from_lengths_of_any_shape() -> None:
    assert masks.from_lengths(3, 5).tolist() == [True, True, True, False, False]
    assert masks.from_lengths(np.full((2, 3), 4), 5).shape == (5, 2, 3)
    assert masks.from_lengths(np.zeros(0, int), 5).shape == (5, 0)
    assert masks.from_lengths([0, 0], 0).shape == (0, 2)


def test_from_end_times_in_any_prefix() -> None:
    times = jnp.arange(5) * u.ms
    mask = masks.from_end_times(jnp.array([0.0, 2.0, 99.0]) * u.ms, times)
    assert (mask.shape, mask.dtype) == ((5, 3), bool)
    np.testing.assert_array_equal(mask.sum(0), [0, 2, 5])
    np.testing.assert_array_equal(masks.from_end_times(jnp.array([0.0, 0.002, 0.099]) * u.second, times), mask)
    np.testing.assert_array_equal(masks.from_end_times([0.0, 2.0, 99.0], np.arange(5)), mask)
    assert masks.from_end_times(2.0 * u.ms, times).shape == (5,)


def test_from_nan() -> None:
    x = np.array([[1, np.nan], [2, 3], [np.inf, 0]])
    np.testing.assert_array_equal(masks.from_nan(x), [[True, False], [True, True], [True, True]])
    np.testing.assert_array_equal(masks.from_nan(jnp.asarray(x) * u.mV, axes=-1), [[False], [True], [True]])
    np.testing.assert_array_equal(masks.from_nan(x, axes=(0, 1)), [[False]])
    assert masks.from_nan(np.arange(3)).all()
