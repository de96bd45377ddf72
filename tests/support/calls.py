"""Random calls of the norms: functions and layers with options, units, masks and dtypes of all kinds.

Every draw goes through `choose`, which picks one of a sequence: the fuzz run gives it a seeded generator, and the
property tests hypothesis, which then also finds the smallest call that fails.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import brainevent
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

import braindnorm
from braindnorm import functional
from tests.support.norms import float64

Choose = Callable[[Sequence[Any]], Any]

SHAPES = [(6,), (1,), (2, 6), (3, 6), (6, 6), (2, 3, 6), (2, 6, 3, 2), (2, 1, 6), (0, 6)]
FUNCTIONS = {"LayerNorm": "layer_norm", "RMSNorm": "rms_norm", "GroupNorm": "group_norm"}
DTYPES = ["float32", "float32", "float32", "float16", "bfloat16", "int32", "bool", "float64"]
PREFIXES = [[None], [u.mV, u.volt, u.uvolt], [u.nA, u.pA, u.mA]]
SPREADS = [("normal", 0.0, 1.0), ("membrane", -65.0, 4.0), ("rates", 30.0, 20.0), ("constant", 3.0, 0.0)]


class Call(NamedTuple):
    """One call: `form` is 'function' or 'layer', and `options` are those of a function of that kind.

    What a layer is built from is in `built` (its in_size and feature axes). `precision` is 32 or 64.
    """

    kind: str
    form: str
    x: Any
    options: dict[str, Any]
    built: dict[str, Any]
    precision: int
    compiled: bool


def draw_call(choose: Choose, *, compiled: bool = False) -> Call:
    """Draw a call that means something: it has to succeed."""
    kind, form = choose(list(FUNCTIONS)), choose(["function", "layer"])
    shape, dtype = choose(SHAPES), choose(DTYPES)
    if (form == "layer" and 0 in shape) or (kind == "GroupNorm" and 0 in shape):
        shape = (2, 6)
    rng = np.random.default_rng(choose(range(1000)))
    prefixes = choose(PREFIXES) if dtype.startswith("float") else [None]
    arriving = choose(prefixes)
    options: dict[str, Any] = {"use_fast_variance": choose([True, False])}
    built: dict[str, Any] = _sizes(choose, kind, shape, options, layer=form == "layer")
    if choose([True, False]):
        options["unit"] = choose(prefixes) or u.UNITLESS
    options["epsilon"] = _epsilon(choose, options.get("unit", arriving), prefixes)
    out_prefixes = _output(choose, kind, prefixes, options, options.get("unit", arriving))
    if choose([True, False, False]):
        options["dtype"] = choose(["float16", "bfloat16", "float32"])
    for key in ("scale", "bias")[: 1 + (kind != "RMSNorm")]:
        if choose([True, True, False]):
            options[key] = _parameter(choose, rng, shape, out_prefixes, built.get("parameter_shape"))
    values = _values(choose, rng, shape, dtype)
    if choose([True, False]):
        values, options["mask"] = _masked(choose, rng, values, dtype)
        options["masked_output"] = choose(["zero", "normalize", "input"])
        if options["masked_output"] == "input" and out_prefixes is not prefixes:
            options["masked_output"] = "zero"
    x = values if arriving is None else values * arriving
    return Call(kind, form, x, options, built, 64 if dtype == "float64" else 32, compiled)


def perform(call: Call) -> Any:
    """Make the call. A layer is built outside of ``jax.jit``, and then called inside if `compiled` asks for it."""
    with float64() if call.precision == 64 else nullcontext():
        norm = (
            _built(call) if call.form == "layer" else partial(getattr(functional, FUNCTIONS[call.kind]), **call.options)
        )
        return (jax.jit(norm) if call.compiled else norm)(call.x)


def _built(call: Call) -> Any:
    options = {**call.built, **call.options}
    options.pop("parameter_shape")
    update = {"mask": options.pop("mask")} if "mask" in options else {}
    for key in ("scale", "bias")[: 1 + (call.kind != "RMSNorm")]:
        options[f"use_{key}"] = key in options
        if key in options:
            options[f"{key}_init"] = options.pop(key)
    layer = getattr(braindnorm, call.kind)(**options)
    return lambda x: layer(x, **update)


def _sizes(
    choose: Choose, kind: str, shape: tuple[int, ...], options: dict[str, Any], *, layer: bool
) -> dict[str, Any]:
    """Draw axes (into the options) and, for a layer, in_size and feature axes."""
    axes = list(range(-len(shape), 0))
    several = tuple(axis for axis in axes if choose([True, False])) or (-1,)
    reduced: Any = choose([-1, several, list(several), tuple(axis % len(shape) for axis in several)])
    options["reduction_axes"] = choose([None, reduced]) if kind == "GroupNorm" else reduced
    in_size = shape[choose(range(len(shape))) :]
    feature = choose(range(-len(in_size) if layer else -len(shape), 0))
    if kind == "GroupNorm":
        channels = shape[feature]
        part = choose([n for n in range(1, channels + 1) if channels % n == 0] or [1])
        options.update(choose([{"num_groups": part}, {"num_groups": None, "group_size": part}]))
        if not layer:
            options["feature_axis"] = feature
    if not layer:
        return {}
    name = "feature_axis" if kind == "GroupNorm" else "feature_axes"
    kept = [n if axis == feature % len(in_size) else 1 for axis, n in enumerate(in_size)]
    return {"in_size": in_size, name: feature, "parameter_shape": tuple(kept)}


def _epsilon(choose: Choose, reference: Any, prefixes: list[Any]) -> Any:
    plain = choose([1e-6, 1e-2, 1, np.float32(0.1), jnp.asarray(0.5)])
    if reference is None or reference.is_unitless:
        return plain
    prefix = choose(prefixes)
    return choose([plain, 0.25 * prefix, 0.25 * prefix**2])


def _output(choose: Choose, kind: str, prefixes: list[Any], options: dict[str, Any], reference: Any) -> list[Any]:
    """Draw the unit of the output (into the options), and return the units that scale and bias may have."""
    chosen = choose([None, "same", u.UNITLESS, u.mA])
    if chosen is None:
        return prefixes if reference is not None else [None]
    options["out_unit"] = (choose(prefixes) or u.UNITLESS) if chosen == "same" else chosen
    if chosen == "same":
        return prefixes
    return [None] if chosen == u.UNITLESS else PREFIXES[2]


def _parameter(choose: Choose, rng: Any, shape: Any, prefixes: list[Any], layers_shape: Any) -> Any:
    if layers_shape is None:
        size = choose([(), shape, shape[-1:], tuple(1 if choose([True, False]) else n for n in shape)])
    else:
        size = choose([(), layers_shape])
    values = jnp.asarray(rng.normal(1, 0.5, size), choose(["float32", "float16", "bfloat16"]))
    unit = choose([None, *prefixes]) if prefixes != [None] else None
    return values if unit is None else values.astype("float32") * unit


def _values(choose: Choose, rng: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "bool":
        return rng.random(shape) < 0.3
    _, loc, scale = choose(SPREADS)
    values = rng.normal(loc, scale, shape)
    return np.asarray(np.round(values), dtype) if dtype == "int32" else np.asarray(values, jnp.dtype(dtype))


def _masked(choose: Choose, rng: Any, values: np.ndarray, dtype: str) -> tuple[np.ndarray, Any]:
    """Draw a mask that can be read in one way alone, and fill what it hides."""
    shape = values.shape
    size = tuple(1 if choose([True, False, False]) else n for n in shape)
    if choose([True, False]) and len(shape) > 1:
        size = size[choose(range(len(shape))) :]
        leading = all(m in (1, n) for m, n in zip(size, shape, strict=False))
        if leading and math.prod(size) != 1:
            size = (1,) * (len(shape) - len(size)) + size
    mask = rng.random(size) < choose([0.6, 0.6, 1.1, -1.0])
    filling = choose([0, 7, np.nan, np.inf, -np.inf]) if dtype not in ("int32", "bool") else 1
    values = np.where(mask, values, np.asarray(filling, values.dtype))
    form = choose(["bool", "int32", "uint8", "list", "events"])
    if form == "list":
        return values, mask.tolist() if mask.size else mask  # an empty list has no shape
    return values, brainevent.BinaryArray(jnp.asarray(mask)) if form == "events" else mask.astype(form)
