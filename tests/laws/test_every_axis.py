"""Laws L3, L6 and L8 over every combination of reduced axes and mask: values of a membrane at rest, and gradients."""

import itertools
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from braindnorm import functional
from tests.support.norms import draw

SHAPE = (20, 12, 64)
MASKS: dict[str, tuple[int, ...] | None] = {
    "none": None,
    "element": SHAPE,
    "step": (20, 12, 1),
    "feature": (1, 1, 64),
    "trial": (20, 1, 1),
}
CASES = [
    *itertools.product([(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ["element", "step"]),
    *itertools.product([(0, 1), (1, 2)], ["none", "feature", "trial"]),
]


def in_float64(x: np.ndarray, mask: Any, axes: tuple[int, ...], epsilon: float) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return z, 1/sqrt(var + epsilon) and the mean over the valid elements of the axes, as a function."""
    mask = np.broadcast_to(mask, x.shape)
    count = np.maximum(mask.sum(axes, keepdims=True), 1)

    def mean(v: np.ndarray) -> Any:
        return np.where(mask, v, 0).sum(axes, keepdims=True) / count

    deviation = np.where(mask, x - mean(x.astype(float)), 0)
    var = mean(deviation**2) + epsilon
    r = np.where(var > 0, 1 / np.sqrt(np.where(var > 0, var, 1)), 0)
    return deviation * r, r, mean


@partial(jax.jit, static_argnames="axes")
def value_and_gradients(x: Any, scale: Any, bias: Any, epsilon: Any, g: Any, mask: Any, *, axes: Any) -> Any:
    def norm(*p: Any) -> Any:
        return functional.layer_norm(*p, reduction_axes=axes, mask=mask, epsilon=epsilon)

    y, pull = jax.vjp(norm, x, scale, bias)
    return y, *pull(g)


def masks(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Some of all; nothing at the start of the time, and in one feature and one trial nothing at all."""
    some = np.random.default_rng(1).random(shape) < 0.8
    late = some.copy()
    late[: shape[0] // 2] &= shape[0] == 1
    late[..., 0] &= shape[2] == 1
    late[-1] &= shape[0] == 1
    return [some, late]


@pytest.mark.parametrize("axes, mask", CASES, ids=str)
def test_over_any_axes_under_any_mask(axes: tuple[int, ...], mask: str) -> None:
    keep(SHAPE, axes, MASKS[mask])


def test_few_rows_of_many_columns() -> None:
    keep((50, 1, 5000), (0,), (50, 1, 1))


def keep(shape: tuple[int, ...], axes: tuple[int, ...], mask_shape: tuple[int, ...] | None) -> None:
    """Hold one program to the laws, with a membrane at rest and with plain numbers, under two masks."""
    rest, plain, g = draw(*shape, loc=-65, scale=0.01), draw(*shape, seed=1, loc=0.5), draw(*shape, seed=2)
    scale, bias = draw(shape[-1], seed=3, loc=1), draw(shape[-1], seed=4)
    for mask in [None] if mask_shape is None else masks(mask_shape):
        valid = np.broadcast_to(True if mask is None else mask, shape)
        y = value_and_gradients(np.where(valid, rest, np.nan), 0 * scale + 1, 0 * bias, 0.0, g, mask, axes=axes)[0]
        assert np.abs(y - in_float64(rest, valid, axes, 0)[0]).max() < 2e-3

        y, gx, gscale, gbias = value_and_gradients(
            np.where(valid, plain, np.inf), scale, bias, np.float32(0.1), g, mask, axes=axes
        )
        z, r, mean = in_float64(plain, valid, axes, 0.1)
        close = {"rtol": 1e-5, "atol": 2e-5}
        np.testing.assert_allclose(y, np.where(valid, z * scale + bias, 0), **close)
        u = np.where(valid, g * scale.astype(float), 0)
        np.testing.assert_allclose(gx, np.where(valid, r * (u - mean(u) - z * mean(u * z)), 0), **close)
        np.testing.assert_allclose(gscale, np.where(valid, g * z, 0).sum((0, 1)), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gbias, np.where(valid, g.astype(float), 0).sum((0, 1)), rtol=1e-4, atol=1e-4)
        assert not np.any(np.asarray(gx)[~valid])
