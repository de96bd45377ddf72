"""The norms in numpy, from the equations and in float64: what the tests measure against.

Everything here is analytic in x, so that a complex step gives derivatives to the last digit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Axes = int | Sequence[int]


def layer_norm(x: Any, reduction_axes: Axes = -1, **options: Any) -> np.ndarray:
    return _normalize(x, reduction_axes, centred=True, **options)


def rms_norm(x: Any, reduction_axes: Axes = -1, **options: Any) -> np.ndarray:
    return _normalize(x, reduction_axes, centred=False, **options)


def group_norm(
    x: Any, num_groups: int, feature_axis: int = -1, reduction_axes: Axes = (), *, mask: Any = True, **options: Any
) -> np.ndarray:
    """Normalize group after group, each over its channels and the axes given besides."""
    x = _wide(x)
    mask = np.broadcast_to(np.asarray(mask, bool), x.shape)
    scale, bias = (options.pop(key, default) for key, default in (("scale", 1.0), ("bias", 0.0)))
    axes = {axis % x.ndim for axis in _as_tuple(reduction_axes)} | {feature_axis % x.ndim}
    z = np.zeros(x.shape, np.result_type(x, options.get("epsilon", 0.0)))
    for channels in np.split(np.arange(x.shape[feature_axis]), num_groups):
        group = [slice(None)] * x.ndim
        group[feature_axis] = channels
        z[tuple(group)] = _normalize(x[tuple(group)], sorted(axes), centred=True, mask=mask[tuple(group)], **options)
    return np.where(mask, z * _wide(scale) + _wide(bias), 0)


def _normalize(
    x: Any,
    axes: Axes,
    *,
    centred: bool,
    epsilon: float = 1e-6,
    mask: Any = True,
    scale: Any = 1.0,
    bias: Any = 0.0,
) -> np.ndarray:
    x = _wide(x)
    mask = np.broadcast_to(np.asarray(mask, bool), x.shape)
    deviation = np.where(mask, x, 0)
    if centred:
        deviation = np.where(mask, deviation - _mean(deviation, axes, mask), 0)
    z = deviation / np.sqrt(_mean(deviation**2, axes, mask) + epsilon)
    return np.where(mask, z * _wide(scale) + _wide(bias), 0)


def _mean(v: np.ndarray, axes: Axes, mask: np.ndarray) -> np.ndarray:
    axes = _as_tuple(axes)
    return np.sum(v, axes, keepdims=True) / np.maximum(np.sum(mask, axes, keepdims=True), 1)


def directional(f: Callable[[np.ndarray], np.ndarray], x: Any, tangent: Any, step: float = 1e-30) -> np.ndarray:
    """Return the derivative of f along a tangent, by a complex step: nothing cancels."""
    return f(_wide(x) + 1j * step * np.asarray(tangent)).imag / step


def jacobian(f: Callable[[np.ndarray], np.ndarray], x: Any) -> np.ndarray:
    """Return df/dx, of shape (*f's, *x's)."""
    x = _wide(x)
    columns = [directional(f, x, one.reshape(x.shape)) for one in np.eye(x.size)]
    return np.stack(columns, axis=-1).reshape((*columns[0].shape, *x.shape))


def hessian(f: Callable[[np.ndarray], np.ndarray], x: Any, step: float = 1e-5) -> np.ndarray:
    """Return the second derivative of a scalar function, by central differences of its gradient."""
    x = _wide(x)
    ones = step * np.eye(x.size).reshape(x.size, *x.shape)
    rows = [(jacobian(f, x + one) - jacobian(f, x - one)) / (2 * step) for one in ones]
    return np.stack(rows).reshape((*x.shape, *x.shape))


def _wide(v: Any) -> np.ndarray:
    v = np.asarray(v)
    return v.astype(complex if np.iscomplexobj(v) else float)


def _as_tuple(axes: Axes) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes)
