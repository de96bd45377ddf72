"""What GroupNorm has of its own."""

from typing import Any

import numpy as np
import pytest

from braindnorm import GroupNorm
from tests.support import reference
from tests.support.norms import draw, parameters, randomize


@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (5, 4, 6), (2, 3, 4, 6)], ids=str)
def test_every_axis_but_the_batch(shape: tuple[int, ...], num_groups: int) -> None:
    x = draw(*shape) * np.arange(1, 7, dtype=np.float32)
    layer = randomize(GroupNorm(6, num_groups=num_groups, epsilon=0.01))
    axes = tuple(range(1, len(shape) - 1))
    want = reference.group_norm(x, num_groups, reduction_axes=axes, epsilon=0.01, **parameters(layer))
    np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [-1, (), -2, (-3, -2), (0, 2), (0, 1, 2, 3)], ids=str)
def test_axes_may_leave_the_channels_out(axes: Any) -> None:
    """They are always reduced within their group."""
    x = draw(2, 3, 4, 6) * np.arange(1, 7, dtype=np.float32)
    y = GroupNorm(6, num_groups=3, reduction_axes=axes, epsilon=0.01)(x)
    want = reference.group_norm(x, 3, reduction_axes=axes, epsilon=0.01)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("feature_axis", [0, 1, 2, -2])
def test_channels_on_any_axis(feature_axis: int) -> None:
    x = draw(5, 6, 6, 6)
    layer = randomize(GroupNorm((6, 6, 6), feature_axis, num_groups=2))
    channel = feature_axis % 3 + 1
    assert parameters(layer)["scale"].shape == tuple(6 if axis + 1 == channel else 1 for axis in range(3))
    axes = tuple({1, 2, 3} - {channel})
    want = reference.group_norm(x, 2, channel, axes, **parameters(layer))
    np.testing.assert_allclose(layer(x), want, rtol=1e-4, atol=1e-5)


def test_how_channels_are_counted() -> None:
    layer = GroupNorm(6, group_size=2)
    assert (layer.num_groups, layer.group_size) == (3, 2)
    layer = GroupNorm((64, 5), feature_axis=0)
    assert (layer.num_groups, layer.group_size, layer.feature_axis) == (32, 2, -2)
