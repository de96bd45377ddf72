"""What the tests against other libraries share: cases, our answer, the float64 answer, and how they are compared."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from braindnorm import GroupNorm, LayerNorm, RMSNorm
from tests.support import reference

Answer = dict[str, np.ndarray]  # the value, and the gradients of sum(value * g)
Call = Callable[[dict[str, jax.Array], jax.Array], jax.Array]  # of the parameters and the input
DTYPES = ("float32", "float16", "bfloat16")
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


class Case(NamedTuple):
    """A norm and its input, with axes from the right; the leading axis of the input is a batch.

    `axes` are reduced: in groups besides the channels, which lie along `features`. Scale and bias vary along `features`
    (along `axes`, where there are none).
    """

    kind: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] = (-1,)
    features: tuple[int, ...] = ()
    groups: int = 1
    epsilon: float = 1e-6
    learned: tuple[str, ...] = ("scale", "bias")
    masked: bool = False
    location: float = 0.5
    spread: float = 2.0
    dtype: str = "float32"

    @property
    def learned_axes(self) -> tuple[int, ...]:
        return self.features or self.axes

    @property
    def size(self) -> tuple[int, ...]:
        """How long the learned axes are."""
        return tuple(self.shape[axis] for axis in sorted(self.learned_axes))

    def __str__(self) -> str:
        given = [f"{key}={value}" for key, value in self._asdict().items() if value != Case._field_defaults.get(key)]
        return " ".join(given)


REST = {"location": -65.0, "spread": 0.01}  # a membrane at rest, in mV
SCALE: dict[str, Any] = {"learned": ("scale",)}
# Elementwise scale and bias along trailing axes that are reduced: what every library can do.
TRAILING = [
    Case("layer", (5, 8)),
    Case("layer", (1, 300), epsilon=1e-5),
    Case("layer", (2, 5, 33), epsilon=0.1),
    Case("layer", (2, 5, 3, 8), (-2, -1), epsilon=1e-3),
    Case("layer", (2, 3, 4, 5), (-3, -2, -1), epsilon=1e-12),
    Case("layer", (4, 6), learned=()),
    Case("rms", (5, 8), **SCALE),
    Case("rms", (1, 300), epsilon=1e-5, **SCALE),
    Case("rms", (2, 5, 3, 8), (-2, -1), epsilon=0.1, **SCALE),
]
AT_REST = [Case("layer", (4, 128), **REST), Case("layer", (2, 4, 8, 5), (-3, -2, -1), **REST)]
# The same along axes that are not the trailing ones.
ANYWHERE = [
    Case("layer", (5, 17, 8), (-2,)),
    Case("layer", (2, 5, 3, 8), (-3, -1), epsilon=1e-3),
    Case("layer", (2, 5, 3, 8), (-3, -2), epsilon=0.1),
]
CHANNELS_LAST = [
    Case("group", (2, 5, 6), (-2,), (-1,), 3),
    Case("group", (2, 4, 3, 6), (-3, -2), (-1,), 2, 1e-3),
    Case("group", (2, 3, 2, 3, 6), (-4, -3, -2), (-1,), 6, 1e-5),
    Case("group", (3, 3, 6), (-2,), (-1,), 1, 0.1),
    Case("group", (5, 12), (), (-1,), 2),
]
CHANNELS_FIRST = [
    Case("group", (2, 6, 5), (-1,), (-2,), 3),
    Case("group", (2, 6, 4, 3), (-2, -1), (-3,), 2, 1e-3),
    Case("group", (2, 6, 3, 2, 3), (-3, -2, -1), (-4,), 6, 1e-5),
    Case("group", (3, 6, 3), (-1,), (-2,), 1, 0.1),
    Case("group", (5, 12), (), (-1,), 2),
]
GROUPS_AT_REST = [Case("group", (2, 8, 5, 5), (-2, -1), (-3,), 4, **REST)]


class Numbers(NamedTuple):
    """What a case is computed with, all in its dtype."""

    x: jax.Array
    g: jax.Array
    learned: dict[str, jax.Array]
    mask: np.ndarray | None


@cache
def numbers(case: Case) -> Numbers:
    """Draw an input, a cotangent, scale and bias; a mask keeps three of five elements, some of them in every group."""
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...], location: float, spread: float) -> jax.Array:
        return jnp.asarray(rng.normal(location, spread, shape).astype(np.float32), case.dtype)

    x, g = draw(case.shape, case.location, case.spread), draw(case.shape, 0, 1)
    learned = {key: draw(case.size, float(key == "scale"), 0.5) for key in case.learned}
    mask = np.arange(np.prod(case.shape)).reshape(case.shape) % 5 > 1 if case.masked else None
    return Numbers(x, g, learned, mask)


def through_jax(case: Case, call: Call) -> Answer:
    """Return the value of a compiled call, and its gradients."""
    x, g, learned, _ = numbers(case)
    y, pull = jax.vjp(jax.jit(call), learned, x)
    of_learned, of_x = pull(g.astype(y.dtype))
    return {key: np.asarray(v, float) for key, v in {"value": y, "x": of_x, **of_learned}.items()}


@cache
def ours(case: Case) -> Answer:
    """Return the answer of braindnorm's layer."""
    options: dict[str, Any] = {"epsilon": case.epsilon, "reduction_axes": case.axes}
    options["use_scale"] = "scale" in case.learned
    if case.kind != "rms":
        options["use_bias"] = "bias" in case.learned
    if case.kind == "group":
        layer: Any = GroupNorm(case.shape[1:], case.features[0], case.groups, **options)
    else:
        kind = LayerNorm if case.kind == "layer" else RMSNorm
        layer = kind(case.shape[1:], feature_axes=case.learned_axes, **options)
    graph, state = brainstate.graph.treefy_split(layer)
    leaves, tree = jax.tree.flatten(state)
    mask = numbers(case).mask

    def call(learned: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        given = [learned[key].reshape(leaf.shape) for key, leaf in zip(sorted(learned), leaves, strict=True)]
        return brainstate.graph.treefy_merge(graph, jax.tree.unflatten(tree, given))(x, mask=mask)

    return through_jax(case, call)


@cache
def truth(case: Case) -> Answer:
    """Return the answer in float64, with gradients by complex steps."""
    x, g, learned, mask = numbers(case)
    aligned = [n if axis - len(case.shape) in case.learned_axes else 1 for axis, n in enumerate(case.shape)]
    options: dict[str, Any] = {"epsilon": case.epsilon, "reduction_axes": case.axes}
    if case.kind == "group":
        options |= {"num_groups": case.groups, "feature_axis": case.features[0]}
    norm = getattr(reference, f"{case.kind}_norm")
    inputs = {"x": np.asarray(x, float), **{key: np.asarray(v, float) for key, v in learned.items()}}

    def value(**changed: Any) -> np.ndarray:
        given = inputs | changed
        affine = {key: given[key].reshape(aligned) for key in learned}
        return norm(given["x"], mask=True if mask is None else mask, **affine, **options)

    wide = np.asarray(g, float)
    gradients = {
        key: reference.jacobian(lambda v, key=key: np.sum(value(**{key: v}) * wide), inputs[key]) for key in inputs
    }
    return {"value": value(), **gradients}


def check(case: Case, theirs: Answer) -> None:
    """Assert that ours and theirs are right, and alike."""
    want, here = truth(case), ours(case)
    assert theirs.keys() == want.keys()
    for key, exact in want.items():
        ours_off, theirs_off = tolerance(case, exact), tolerance(case, exact, once=key == "value")
        assert here[key].shape == theirs[key].shape == exact.shape
        for one, other, limit in (
            (here[key], exact, ours_off),
            (theirs[key], exact, theirs_off),
            (here[key], theirs[key], ours_off + theirs_off),
        ):
            assert (np.abs(one - other) <= limit).all(), f"{key}: off by up to {np.abs(one - other).max()}"


def tolerance(case: Case, exact: np.ndarray, *, once: bool = True) -> np.ndarray:
    """Return how far an answer may be off.

    By eight roundings of the largest number in float32, more where the mean is large beside the spread, since it is
    rounded first. In half precision the result is rounded on top of that. `once` is for ours, and for every value; the
    gradients of most libraries are rounded on the way too, which makes up to three of the largest.
    """
    largest = np.abs(exact).max()
    limit = 8 * ROUNDING["float32"] * (1 + abs(case.location) / case.spread) * largest
    if case.dtype == "float32":
        return np.full(exact.shape, limit)
    return limit + ROUNDING[case.dtype] * (np.abs(exact) if once else np.full(exact.shape, 3 * largest))


def gradients_rounded_once(case: Case, answer: Answer) -> bool:
    """Say whether every gradient is what one rounding of the exact one allows, as ours are."""
    want = truth(case)
    return all((np.abs(answer[key] - want[key]) <= tolerance(case, want[key])).all() for key in ("x", *case.learned))


def in_half(cases: list[Case]) -> list[Case]:
    """Return the cases in float32 and in half precision."""
    return [case._replace(dtype=dtype) for case in cases for dtype in DTYPES]
