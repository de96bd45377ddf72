"""Masks and lengths of integers: at their true value, whatever their width."""

from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import LayerNorm, masks
from braindnorm.errors import MaskError
from braindnorm.masks._align import align

X = np.arange(3.0)


@pytest.mark.parametrize(
    "mask",
    [
        np.array([2**32, 0, 2**40]),
        np.array([2**32, 0, 2**62], np.uint64),
        np.array([2**32, 0, 1], ">i8"),
        [2**32, 0, 2**62],
        [np.int64(2**32), 0, True],
        np.array([1, 0, -(2**32)], np.longlong),
        np.array([-1, 0, 1], np.int8),
        jnp.array([1, 0, 255], jnp.uint8),
    ],
    ids=str,
)
def test_what_is_not_zero_is_valid(mask: Any) -> None:
    np.testing.assert_allclose(LayerNorm(3)(X, mask=mask), [-1.0, 0.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize("mask", [2**32, np.int64(2**32), np.array(2**32), True], ids=repr)
def test_a_mask_of_one_number(mask: Any) -> None:
    want = LayerNorm(3)(X)
    np.testing.assert_array_equal(LayerNorm(3)(X, mask=mask), want)


def test_empty_masks() -> None:
    """An empty list has no dtype to be refused for."""
    for mask in ([[]], [], np.zeros(0, bool), np.zeros((1, 0), int)):
        assert align(mask, (2, 0)).shape[-1] == 0
    with pytest.raises(MaskError, match=r"a mask of shape \(0,\) does not broadcast"):
        LayerNorm(3)(X, mask=[])
    with pytest.raises(MaskError, match="dtype float32"):
        LayerNorm(3)(X, mask=np.zeros(0, np.float32))


def test_masked_arrays_are_no_masks() -> None:
    mask = np.ma.masked_array([1, 1, 0], [0, 1, 0])
    for form in (mask, mask.astype(bool), [mask, mask]):
        with pytest.raises(MaskError, match=r"the mask is a masked array of numpy.*Write mask\.filled\(False\)"):
            LayerNorm(3)(np.ones((2, 3)), mask=form)
        with pytest.raises(MaskError, match=r"spikes are a masked array of numpy.*\.filled\(0\)"):
            masks.spiked(form)
    with pytest.raises(MaskError, match=r"lengths are a masked array of numpy.*Write lengths\.filled\(0\)"):
        masks.from_lengths(mask, 3)


WANT = np.array([[1, 1], [0, 1], [0, 1], [0, 0]], bool)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", "longlong", ">i8"])
def test_lengths_of_any_width(dtype: str) -> None:
    lengths = np.array([1, 3], dtype)
    np.testing.assert_array_equal(masks.from_lengths(lengths, 4), WANT)
    # more steps than the lengths' type can count
    assert masks.from_lengths(lengths, 1000).sum(0).tolist() == [1, 3]
    if np.dtype(dtype).isnative:
        traced = jax.jit(masks.from_lengths, static_argnums=1)
        np.testing.assert_array_equal(traced(lengths, 4), WANT)
        assert traced(lengths, 1000).sum(0).tolist() == [1, 3]


@pytest.mark.parametrize("num_steps", [np.int8(4), np.uint8(4), np.array(4), jnp.int8(4), np.int64(4)], ids=repr)
def test_steps_of_any_width(num_steps: Any) -> None:
    np.testing.assert_array_equal(masks.from_lengths([1, 3], num_steps), WANT)
    np.testing.assert_array_equal(masks.from_lengths(np.int8([1, 3]), num_steps), WANT)


@pytest.mark.parametrize("lengths", [[2**32 + 1], np.array([2**32]), np.uint64([2**63]), [2**40], [-(2**40)]], ids=str)
def test_wide_lengths_are_refused(lengths: Any) -> None:
    with pytest.raises(MaskError, match=f"between 0 and num_steps=3; got {lengths[0]} to {lengths[0]}"):
        masks.from_lengths(lengths, 3)


def test_traced_lengths_beyond_the_steps() -> None:
    traced = jax.jit(masks.from_lengths, static_argnums=1)
    assert traced(jnp.array([2**32 - 1, 2], jnp.uint32), 3).sum(0).tolist() == [3, 2]
    assert traced(jnp.array([2**31 - 1, -5]), 3).sum(0).tolist() == [3, 0]
    with jax.enable_x64(True):
        assert traced(jnp.array([2**40, 2**32 + 1, 1]), 3).sum(0).tolist() == [3, 3, 1]


def test_lengths_known_in_a_trace_are_checked() -> None:
    lengths = jnp.array([1, 4])
    assert jax.jit(lambda x: x * masks.from_lengths(lengths, 4))(1.0).sum() == 5
    with pytest.raises(MaskError, match="got 1 to 4"):
        jax.jit(lambda x: x * masks.from_lengths(lengths, 3))(1.0)


def test_no_trials() -> None:
    assert masks.from_lengths([], 3).shape == (3, 0)
    assert masks.from_lengths([[], []], 3).shape == (3, 2, 0)


def test_lengths_with_a_unit() -> None:
    with pytest.raises(MaskError, match=r"numbers of steps, without a unit; .* from_end_times\(end_times, dt=dt"):
        masks.from_lengths(np.array([1, 3]) * u.ms, 3)


@pytest.mark.parametrize("lengths", ["a", None, [[1], [1, 2]], [2**70], [1.0], [True], 1j], ids=str)
def test_lengths_that_are_none(lengths: Any) -> None:
    with pytest.raises(MaskError, match="from_lengths: lengths must be integers"):
        masks.from_lengths(lengths, 3)


@pytest.mark.parametrize("num_steps", [True, np.True_, 3.0, "a", None, [3], -1, np.int8(-1)], ids=repr)
def test_steps_that_are_none(num_steps: Any) -> None:
    with pytest.raises(MaskError, match="num_steps must be an integer, zero or larger"):
        masks.from_lengths([1], num_steps)
