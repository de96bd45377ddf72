"""Moments: from data, merged, and as deviations."""

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braindnorm._numerics.moments import (
    Moments,
    Reduction,
    across_devices,
    at_least_one,
    deviations,
    local_count,
    local_sum,
    merge,
    rstd,
)


def moments_of(values: list[float]) -> Moments:
    array = np.asarray(values, np.float64)
    mean = array.mean() if array.size else 0.0
    return Moments(*map(jnp.asarray, (float(array.size), mean, float(((array - mean) ** 2).sum()))))


numbers = st.lists(st.floats(-100, 100), max_size=20)


@given(numbers, numbers, numbers)
def test_moments_merge_exactly_in_any_order(a: list[float], b: list[float], c: list[float]) -> None:
    with brainstate.environ.context(precision=64):
        parts = [moments_of(values) for values in (a, b, c)]
        left, right = merge(merge(*parts[:2]), parts[2]), merge(parts[0], merge(parts[2], parts[1]))
        whole = moments_of(a + b + c)
        for got in (left, right):
            np.testing.assert_allclose(got, whole, rtol=0, atol=1e-9)


def test_the_variance_of_nothing_is_zero() -> None:
    nothing = Moments(*map(jnp.asarray, (0.0, 0.0, 0.0)))
    assert nothing.var == 0
    assert merge(nothing, nothing) == (0, 0, 0)
    assert at_least_one(jnp.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "whole"])
@pytest.mark.parametrize("centred", [True, False], ids=["centred", "not centred"])
def test_deviations(masked: bool, centred: bool) -> None:
    rng = np.random.default_rng(0)
    x, valid = rng.normal(-65, 3, (4, 6, 8)), rng.random((4, 6, 8)) < 0.5
    valid[2, :, 4:] = False  # a group with nothing valid
    with brainstate.environ.context(precision=64):
        over = Reduction((1,), channel_axis=2, num_groups=2)
        found, deviation = deviations(jnp.asarray(x), over, jnp.asarray(valid) if masked else None, centred=centred)
        found, deviation = Moments(*map(np.asarray, found)), np.asarray(deviation)
    for batch in range(4):
        for group in (slice(0, 4), slice(4, 8)):
            chosen = x[batch, :, group][valid[batch, :, group]] if masked else x[batch, :, group].ravel()
            mean = chosen.mean() if centred and chosen.size else 0
            count = np.broadcast_to(found.count, (4, 1, 8))[batch, 0, group]
            assert np.all(count == chosen.size)
            if chosen.size:
                assert np.abs(found.mean[batch, 0, group] - mean).max() < 1e-12
                assert np.abs(found.m2[batch, 0, group] - ((chosen - mean) ** 2).sum()).max() < 1e-9
                assert np.abs(deviation[batch, :, group] - (x[batch, :, group] - mean)).max() < 1e-12
            else:
                assert np.all(found.m2[batch, 0, group] == 0)


def test_nothing_cancels() -> None:
    x = np.random.default_rng(1).normal(-65, 0.01, 4096).astype(np.float32)
    exact = x.astype(np.float64)
    found, deviation = deviations(jnp.asarray(x), Reduction((0,)))
    assert abs(float(found.var[0]) / exact.var() - 1) < 1e-5
    assert np.abs(np.asarray(deviation) - (exact - exact.mean())).max() < 1e-5 * exact.std()


def test_a_mask_is_counted_before_it_is_broadcast() -> None:
    mask = jnp.array([[[True], [False], [True]]])
    assert local_count((5, 3, 8), mask, Reduction((1, 2)), jnp.float32).tolist() == [[[16]]]
    assert local_count((5, 3, 8), mask, Reduction((0, 1), 2, 4), jnp.float32).tolist() == [[[20]]]
    assert local_count((5, 3, 8), None, Reduction((0, 1), 2, 4), jnp.float32).tolist() == 30


def test_each_channel_holds_the_sum_of_its_group() -> None:
    total = local_sum(jnp.arange(12.0).reshape(2, 6), Reduction((0,), 1, 3))
    assert total.tolist() == [[14, 14, 22, 22, 30, 30]]


def test_totals_without_a_name_stay_what_they_are() -> None:
    totals = [jnp.ones(2), jnp.zeros(3)]
    assert across_devices(totals, Reduction((0,))) is totals


def test_the_inverse_of_a_deviation_of_zero_is_zero() -> None:
    assert rstd(jnp.array([0.0, 3.0]), 1.0).tolist() == [1.0, 0.5]
    assert rstd(jnp.zeros(1), 0.0).tolist() == [0.0]
