"""What a call of `tests.support.calls` has to return: the reference, in SI units, with the error of rounding."""

import math
import operator
from contextlib import nullcontext
from typing import Any, NamedTuple

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

from tests.support import reference
from tests.support.calls import Call
from tests.support.norms import float64

# the factor to SI, and the dimension
SI = {"mV": (1e-3, "V"), "V": (1.0, "V"), "uV": (1e-6, "V"), "nA": (1e-9, "A"), "pA": (1e-12, "A"), "mA": (1e-3, "A")}
SI |= {f"{name}^2": (factor**2, f"{of}2") for name, (factor, of) in SI.items()}


class Expected(NamedTuple):
    """The values in the output's unit, how far off rounding may be at each, the dtype, and the unit's name."""

    values: np.ndarray
    tolerance: np.ndarray
    dtype: Any
    unit: str


def expected(call: Call) -> Expected:
    """Return what the call means, computed in float64 from the numbers as they are stored."""
    with np.errstate(invalid="ignore"):  # of what is not finite
        return _expected(call)


def _expected(call: Call) -> Expected:
    options = dict(call.options)
    for key in ("scale", "bias"):
        if call.form == "layer" and callable(options.get(key)):  # an initializer
            options[key] = options[key](call.built["parameter_shape"])
    mantissa, factor, unit = _read(call.x)
    declared = options.get("unit")
    ref_unit = unit if declared is None else _name(declared)
    ref_factor = _si(ref_unit)[0]
    x = mantissa * (factor / ref_factor)
    epsilon = _variance(options["epsilon"], ref_unit)
    mask = _mask(options.get("mask"), x.shape)
    parameters, out_unit = _parameters(options, ref_unit)
    z, r = _standardized(call, x, mask, epsilon)
    scale, bias = parameters["scale"], parameters["bias"]
    y = z * scale + bias
    mode = options.get("masked_output", "zero")
    if mode == "zero":
        y = np.where(mask, y, 0)
    elif mode == "input":
        y = np.where(mask, y, mantissa * (factor / _si(out_unit)[0]))
    dtype = _dtype(call, options)
    finite = np.where(np.isfinite(x), x, 0)
    largest = np.max(np.abs(finite), initial=1e-30)
    wide = np.finfo(np.float64 if np.float64 in (_kept(call), dtype) else np.float32).eps
    here = jnp.finfo(dtype).eps
    # a change of prefix rounds a scale or bias to its own dtype, float32
    units = {_name(u.get_unit(options[key])) for key in ("scale", "bias") if key in options} - {"", out_unit}
    given = np.finfo(np.float32).eps if units else wide
    # a mean is off by about one rounding of the largest number; z by that over the standard deviation
    off = 8 * wide * (largest * r + 2 * np.abs(z) + largest * largest * r * r * wide) * np.abs(scale)
    tolerance = off + (2 * here + 4 * given) * (np.abs(y) + np.abs(bias)) + float(jnp.finfo(dtype).smallest_subnormal)
    return Expected(y, np.broadcast_to(tolerance, y.shape), dtype, out_unit)


def compare(y: Any, want: Expected) -> str | None:
    """Return what is wrong with a result, or None."""
    mantissa, _, unit = _read(y)
    dtype = u.get_mantissa(y).dtype
    if mantissa.shape != want.values.shape:
        return f"shape {mantissa.shape}, not {want.values.shape}"
    if unit != want.unit:
        return f"unit {unit}, not {want.unit}"
    if dtype != want.dtype:
        return f"dtype {dtype}, not {want.dtype}"
    with np.errstate(over="ignore", invalid="ignore"):
        values = want.values.astype(want.dtype).astype(float)
        close = np.abs(mantissa - values) <= want.tolerance
    right = close | (mantissa == values) | (np.isnan(mantissa) & np.isnan(values))
    if right.all():
        return None
    where = np.unravel_index(np.argmin(right), right.shape)
    return f"{mantissa[where]!r} at {where}, not {values[where]!r} within {want.tolerance[where]:.2g}"


def _standardized(call: Call, x: np.ndarray, mask: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Return z everywhere, and 1 over the standard deviation at each element."""
    shape, axes = x.shape, call.options.get("reduction_axes", None if call.kind == "GroupNorm" else -1)
    if call.kind != "GroupNorm":
        return _by_axes(x, mask, _axes(axes, x.ndim), epsilon, call.kind != "RMSNorm")
    channel = call.options.get("feature_axis", -1)
    if call.form == "layer":
        channel = operator.index(call.built.get("feature_axis", -1)) % len(call.built["in_size"])
        channel -= len(call.built["in_size"])
    channel = operator.index(channel) % x.ndim
    groups = call.options.get("num_groups", 32)
    size = call.options.get("group_size")
    groups = shape[channel] // operator.index(size) if size is not None else operator.index(groups)
    along = set(range(1, x.ndim) if channel else range(x.ndim)) if axes is None else set(_axes(axes, x.ndim))
    parts = [
        _by_axes(
            np.take(x, channels, channel), np.take(mask, channels, channel), sorted(along | {channel}), epsilon, True
        )
        for channels in np.split(np.arange(shape[channel]), groups)
    ]
    return tuple(np.concatenate(part, channel) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def _by_axes(
    x: np.ndarray, mask: np.ndarray, axes: list[int], epsilon: float, centred: bool
) -> tuple[np.ndarray, np.ndarray]:
    valid = np.where(mask, x, 0)
    count = np.sum(mask, tuple(axes), keepdims=True)
    mean = np.sum(valid, tuple(axes), keepdims=True) / np.maximum(count, 1) * centred
    var = np.sum(np.where(mask, valid - mean, 0) ** 2, tuple(axes), keepdims=True) / np.maximum(count, 1)
    spread = var + epsilon != 0  # without any z is 0
    r = np.where((count > 0) & spread, 1 / np.sqrt(np.where(spread, var + epsilon, 1)), 0)
    norm = reference.layer_norm if centred else reference.rms_norm
    with np.errstate(invalid="ignore"):
        z = np.where(spread, norm(x, tuple(axes), epsilon=epsilon, mask=mask), 0)
    others = np.where(np.isfinite(x), x, 0) - mean
    return np.where(mask, z, others * r), np.broadcast_to(r, x.shape)


def _axes(axes: Any, ndim: int) -> list[int]:
    several = axes if isinstance(axes, list | tuple | np.ndarray) and np.ndim(axes) else [axes]
    counted = [range(ndim)[operator.index(axis)] for axis in several]
    assert len(set(counted)) == len(counted)
    return counted


def _mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(True if mask is None else getattr(mask, "value", mask))
    assert array.dtype.kind in "biu" or hasattr(mask, "value")
    return np.broadcast_to(array != 0, shape)


def _parameters(options: dict[str, Any], ref_unit: str) -> tuple[dict[str, Any], str]:
    """Return scale and bias in the output's unit, and its name."""
    given = {key: _read(options[key]) for key in ("scale", "bias") if options.get(key) is not None}
    for key, (values, *unit) in given.items():
        spare = next((axis for axis, n in enumerate(values.shape) if n != 1), values.ndim)  # axes of length 1
        given[key] = (values.reshape(values.shape[spare:]), *unit)
    united = [unit for _, _, unit in given.values() if unit]
    declared = options.get("out_unit")
    out_unit = _name(declared) if declared is not None else (united[0] if united else ref_unit)
    factor, dimension = _si(out_unit)
    assert all(_si(unit)[1] == dimension for unit in united)
    found: dict[str, Any] = {"scale": 1.0, "bias": 0.0}
    return found | {key: v * (f / factor if unit else 1.0) for key, (v, f, unit) in given.items()}, out_unit


def _variance(epsilon: Any, ref_unit: str) -> float:
    value, factor, unit = _read(epsilon)
    assert value.ndim == 0 and math.isfinite(value) and value >= 0
    ref_factor, dimension = _si(ref_unit)
    if not unit:
        return float(value)
    if _si(unit)[1] == dimension:
        return float(value * factor / ref_factor) ** 2
    assert _si(unit)[1] == f"{dimension}2"
    return float(value * factor / ref_factor**2)


def _kept(call: Call) -> Any:
    given = np.asarray(u.get_mantissa(call.x)).dtype
    return given if jnp.issubdtype(given, jnp.floating) else jnp.dtype("float32")


def _dtype(call: Call, options: dict[str, Any]) -> Any:
    if options.get("dtype") is not None:
        with float64() if call.precision == 64 else nullcontext():
            return jax.dtypes.canonicalize_dtype(jnp.dtype(options["dtype"]))
    arrays = [u.get_mantissa(options[key]) for key in ("scale", "bias") if options.get(key) is not None]
    arrays = [np.asarray(v) if isinstance(v, list | tuple | range) else v for v in arrays]
    if call.form == "layer":  # parameters are arrays with a dtype of their own
        arrays = [v if jnp.issubdtype(jnp.result_type(v), jnp.inexact) else np.float32(0) for v in arrays]
        arrays = [np.float32(0) if isinstance(v, float) else v for v in arrays]
    with float64() if call.precision == 64 else nullcontext():
        return jnp.result_type(_kept(call), *arrays)


def _read(value: Any) -> tuple[np.ndarray, float, str]:
    """Return the numbers in float64, the factor of their unit to SI, and its name ('' without a unit)."""
    name = _name(u.get_unit(value))
    return np.asarray(u.get_mantissa(value)).astype(float), _si(name)[0], name


def _name(unit: Any) -> str:
    return "" if unit.is_unitless else str(unit)


def _si(name: str) -> tuple[float, str]:
    return SI[name] if name else (1.0, "")
