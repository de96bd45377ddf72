"""Which axes, and which sizes."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braindnorm._numerics import axes as _axes
from braindnorm.errors import AxisError, OptionError


@pytest.mark.parametrize(
    ("axes", "want"),
    [(-1, (2,)), ((-1, 0), (0, 2)), ([1], (1,)), (np.int64(-3), (0,)), (np.array([2, 0]), (0, 2)), ((), ())],
    ids=str,
)
def test_axes_are_counted_from_the_left(axes: Any, want: tuple[int, ...]) -> None:
    assert _axes.canonical_axes(axes, 3, option="axes") == want


@given(st.lists(st.integers(-4, 3), max_size=4))
def test_axes_mean_what_numpy_means(axes: list[int]) -> None:
    """They reduce the axes that numpy reduces, and are refused where numpy refuses them."""
    x = np.zeros((2, 3, 4, 5))
    try:
        want = x.sum(tuple(axes)).shape
    except ValueError:
        with pytest.raises(AxisError):
            _axes.canonical_axes(axes, 4, option="axes")
    else:
        assert x.sum(_axes.canonical_axes(axes, 4, option="axes")).shape == want


@pytest.mark.parametrize(("size", "want"), [(3, (3,)), ([2, 3], (2, 3)), (np.int32(4), (4,)), ((5,), (5,))], ids=str)
def test_sizes(size: Any, want: tuple[int, ...]) -> None:
    assert _axes.as_size(size) == want


def test_parameters_vary_along_the_feature_axes() -> None:
    assert _axes.feature_shape((2, 3, 4), (0, 2)) == (2, 1, 4)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_groups_are_summed_alone(channel: int) -> None:
    v = np.random.default_rng(0).integers(0, 9, (6, 6, 6))
    got = np.moveaxis(_axes.sum_groups(jnp.asarray(v), channel, 3), channel, -1)
    pairs = np.moveaxis(v, channel, -1).reshape(6, 6, 3, 2).sum(-1)
    np.testing.assert_array_equal(got, np.repeat(pairs, 2, axis=-1))


@pytest.mark.parametrize(
    ("groups", "want"),
    [
        ((32, None), (32, 2)),
        ((4, None), (4, 16)),
        ((None, 4), (16, 4)),
        ((_axes.DEFAULT_GROUPS, None), (32, 2)),
        ((_axes.DEFAULT_GROUPS, 4), (16, 4)),
        ((np.int8(2), None), (2, 32)),
    ],
    ids=str,
)
def test_groups(groups: tuple[Any, Any], want: tuple[int, int]) -> None:
    assert _axes.split_groups(64, *groups) == want


@pytest.mark.parametrize("groups", [(0, None), (-2, None), (5, None), (None, 5), (None, 0), (True, None)], ids=str)
def test_groups_that_do_not_divide(groups: tuple[Any, Any]) -> None:
    with pytest.raises(OptionError):
        _axes.split_groups(64, *groups)


def test_parameters_fit_from_the_right() -> None:
    assert _axes.fit_parameter(np.ones((1, 1, 4)), (3, 4), option="scale").shape == (1, 4)
    assert _axes.fit_parameter(2.0, (3, 4), option="scale").shape == ()
    for shape in [(3,), (2, 3, 4), (4, 3), (5, 4)]:
        with pytest.raises(AxisError, match="scale of shape"):
            _axes.fit_parameter(np.ones(shape), (3, 4), option="scale")
