"""Make a call wrong: an option, the mask or the input replaced by what may not belong there."""

from collections.abc import Callable
from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

from tests.support.calls import Call, Choose

JUNK: list[Callable[[], Any]] = [
    lambda: None,
    lambda: "mV",
    lambda: b"",
    lambda: 0,
    lambda: -1,
    lambda: 3,
    lambda: 10**5,
    lambda: 2**70,
    lambda: True,
    lambda: 0.5,
    lambda: -0.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: 1j,
    lambda: np.int64(-1),
    lambda: np.float64(2.0),
    lambda: np.bool_(False),
    lambda: (),
    lambda: [],
    lambda: (1, 1),
    lambda: [-1, -2],
    lambda: [[1], [1, 0]],
    lambda: (0, "a"),
    lambda: {},
    lambda: {"a": 1},
    lambda: {1, 2},
    lambda: range(2),
    lambda: iter([1, 2]),
    lambda: slice(None),
    lambda: ...,
    lambda: object(),
    lambda: object,
    lambda: len,
    lambda: np.zeros(0),
    lambda: np.ones(6, bool),
    lambda: np.ones((2, 6), int),
    lambda: np.ones((2, 6), np.float32),
    lambda: np.full((2, 6), np.nan),
    lambda: np.ones((1, 1, 1, 1, 1), int),
    lambda: np.array(["a", "b"]),
    lambda: np.array([None, 1]),
    lambda: np.array(["2020-01-01"], "datetime64[D]"),
    lambda: jnp.ones(6, complex),
    lambda: jnp.array(-1),
    lambda: u.mV,
    lambda: u.UNITLESS,
    lambda: 1.0 * u.mV,
    lambda: -1.0 * u.nA,
    lambda: jnp.ones(6) * u.mV,
    lambda: np.ones((2, 6)) * u.second,
    lambda: jax.random.key(0),
    lambda: jnp.float32,
    lambda: "int8",
    lambda: np.dtype("datetime64[D]"),
]
EVERYWHERE = [
    "x", "reduction_axes", "epsilon", "mask", "masked_output", "unit", "out_unit", "axis_name", "axis_index_groups",
    "use_fast_variance", "dtype", "scale", "bias", "name",
]  # fmt: skip
FUNCTIONS = {"LayerNorm": [], "RMSNorm": [], "GroupNorm": ["num_groups", "group_size", "feature_axis"]}
LAYERS = {
    "LayerNorm": ["in_size", "feature_axes", "param_steps"],
    "RMSNorm": ["in_size", "feature_axes", "param_steps"],
    "GroupNorm": ["in_size", "feature_axis", "num_groups", "group_size", "param_steps"],
}
BUILT = ("in_size", "feature_axes")


def spoil(choose: Choose, call: Call) -> tuple[Call, dict[str, Any]]:
    """Put junk into one to three places of a call. Return it, and what was put where."""
    places = [*EVERYWHERE, *(LAYERS if call.form == "layer" else FUNCTIONS)[call.kind]]
    if call.kind == "RMSNorm":
        places.remove("bias")
    junk = {choose(places): choose(JUNK)() for _ in range(choose([1, 1, 2, 3]))}
    built, options = dict(call.built), dict(call.options)
    for key, value in junk.items():
        if key != "x":
            (built if key in BUILT or key in built else options)[key] = value
    return call._replace(x=junk.get("x", call.x), options=options, built=built, compiled=False), junk
