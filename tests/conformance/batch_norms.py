"""What the tests of batch norms against other libraries share: cases, both our answers, the comparison."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import braindnorm
from braindnorm import BatchNorm
from tests.conformance.agreement import DTYPES, REST, ROUNDING
from tests.support import reference

# `value`, `x`, `scale` and `bias` in training: the output and the gradients of sum(value * g). The same in evaluation
# after it, as `evaluated`, `evaluated x` and so on. And `mean` and `var`, the running statistics between the two.
Answer = dict[str, np.ndarray]
Run = Callable[..., tuple[jax.Array, Any]]  # of learned, running and x: the output, the running statistics


class Case(NamedTuple):
    """A batch norm and its input, whose leading axis is a batch; the channels lie on axis 1, or on the last."""

    shape: tuple[int, ...]
    first: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.75
    affine: bool = True
    unbiased: bool = False
    masked: bool = False
    location: float = 0.5
    spread: float = 2.0
    dtype: str = "float32"

    @property
    def channels(self) -> int:
        return self.shape[1 if self.first else -1]

    @property
    def axes(self) -> tuple[int, ...]:
        """What is reduced: all axes but that of the channels."""
        channel = 1 if self.first else len(self.shape) - 1
        return tuple(axis for axis in range(len(self.shape)) if axis != channel)

    @property
    def aligned(self) -> tuple[int, ...]:
        """The shape of a number for each channel beside the input."""
        return tuple(1 if axis in self.axes else n for axis, n in enumerate(self.shape))

    def __str__(self) -> str:
        given = [f"{key}={value}" for key, value in self._asdict().items() if value != Case._field_defaults.get(key)]
        return " ".join(given)


ONES, ZEROS = np.ones(1), np.zeros(1)
ROWS = [Case((5, 8)), Case((300, 3), epsilon=1e-3, momentum=0.9), Case((7, 4), affine=False, epsilon=0.1)]
LAST = [*ROWS, Case((4, 5, 6)), Case((2, 4, 3, 6), epsilon=1e-3), Case((2, 2, 3, 2, 4), momentum=0.0)]
FIRST = [*ROWS, *(Case((4, 6, 5), True), Case((2, 6, 4, 3), True, 1e-3), Case((2, 4, 2, 3, 2), True, momentum=0.0))]
FIRST_AT_REST = [Case((64, 4), **REST), Case((8, 4, 9), True, **REST)]
LAST_AT_REST = [Case((64, 4), **REST), Case((8, 9, 4), **REST)]


def in_half(cases: list[Case]) -> list[Case]:
    """Return the cases in float32 and in half precision."""
    return [case._replace(dtype=dtype) for case in cases for dtype in DTYPES]


class Numbers(NamedTuple):
    """What a case is computed with: inputs and cotangents of training and evaluation, what is learned, what is kept."""

    x: jax.Array
    z: jax.Array
    g: jax.Array
    learned: dict[str, jax.Array]
    kept: dict[str, jax.Array]
    mask: jax.Array | None


@cache
def numbers(case: Case) -> Numbers:
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...], location: float, spread: float, dtype: str = case.dtype) -> jax.Array:
        return jnp.asarray(rng.normal(location, spread, shape).astype(np.float32), dtype)

    x, z = (draw(case.shape, case.location, case.spread) for _ in "xz")
    g, size = draw(case.shape, 0, 1), (case.channels,)
    mask = jnp.asarray(np.arange(np.prod(case.shape)).reshape(case.shape) % 5 > 1) if case.masked else None
    g = g if mask is None else jnp.where(mask, g, 0)  # what comes out where it is masked differs
    learned = {"scale": draw(size, 1, 0.5), "bias": draw(size, 0, 0.5)} if case.affine else {}
    var = case.spread**2 * (0.5 + jnp.abs(draw(size, 0, 1, "float32")))
    return Numbers(x, z, g, learned, {"mean": draw(size, case.location, case.spread, "float32"), "var": var}, mask)


def through_jax(case: Case, train: Run, evaluate: Run) -> Answer:
    """Return the answer of two compiled calls."""
    given = numbers(case)
    answer: dict[str, Any] = {}
    kept = given.kept
    for name, run, x in (("", train, given.x), ("evaluated ", evaluate, given.z)):
        call = jax.jit(lambda learned, x, run=run, kept=kept: run(learned, kept, x))
        y, pull, kept = jax.vjp(call, given.learned, x, has_aux=True)
        of_learned, of_x = pull(given.g.astype(y.dtype))
        answer |= {f"{name}value": y, f"{name}x": of_x, **{f"{name}{key}": v for key, v in of_learned.items()}}
        if not name:
            answer |= kept
    return as_numpy(case, answer)


def as_numpy(case: Case, answer: dict[str, Any]) -> Answer:
    """Return an answer in float64, its values 0 where they are masked."""
    wide = {key: np.asarray(v, float) for key, v in answer.items()}
    if (mask := numbers(case).mask) is not None:
        wide |= {key: np.where(mask, wide[key], 0) for key in ("value", "evaluated value")}
    return wide


@cache
def ours(case: Case) -> Answer:
    """Return the answer of braindnorm's layer, whose running statistics are written in one compiled call."""
    options: dict[str, Any] = {"epsilon": case.epsilon, "momentum": case.momentum, "unbiased": case.unbiased}

    def run(fit: bool) -> Run:
        def call(learned: dict[str, jax.Array], kept: dict[str, jax.Array], x: jax.Array) -> Any:
            layer = BatchNorm(case.shape[1:], 0 if case.first else -1, affine=case.affine, **options)
            shape = layer.running_mean.value.shape
            if case.affine:
                layer.weight.value = {key: v.reshape(shape) for key, v in learned.items()}
            layer.running_mean.value, layer.running_var.value = (kept[key].reshape(shape) for key in ("mean", "var"))
            with braindnorm.phase(fit):
                y = layer(x, mask=numbers(case).mask)
            states = layer.running_mean.value, layer.running_var.value
            assert all(v.dtype == jnp.float32 for v in states)
            return y, {key: v.reshape(-1) for key, v in zip(("mean", "var"), states, strict=True)}

        return call

    return through_jax(case, run(True), run(False))


@cache
def truth(case: Case) -> Answer:
    """Return the answer in float64, with gradients by complex steps."""
    given = numbers(case)
    mask = np.ones(case.shape, bool) if given.mask is None else np.asarray(given.mask)
    x, z, g = (np.asarray(v, float) for v in (given.x, given.z, given.g))
    learned = {key: np.asarray(v, float) for key, v in given.learned.items()}
    count = mask.sum(case.axes)
    mean = np.where(mask, x, 0).sum(case.axes) / count
    m2 = np.where(mask, x - mean.reshape(case.aligned), 0) ** 2
    found = {"mean": mean, "var": m2.sum(case.axes) / (count - 1 if case.unbiased else count)}
    kept = {
        key: case.momentum * np.asarray(given.kept[key], float) + (1 - case.momentum) * v for key, v in found.items()
    }

    def trained(x: Any, **learned: Any) -> Any:
        affine = {key: v.reshape(case.aligned) for key, v in learned.items()}
        return reference.layer_norm(x, case.axes, epsilon=case.epsilon, mask=mask, **affine)

    def evaluated(x: Any, scale: Any = ONES, bias: Any = ZEROS) -> Any:
        mean, var = (v.reshape(case.aligned) for v in kept.values())
        scale, bias = (v if v.size == 1 else v.reshape(case.aligned) for v in (scale, bias))
        return np.where(mask, (x - mean) / np.sqrt(var + case.epsilon) * scale + bias, 0)

    answer: Answer = dict(kept)
    for name, call, first in (("", trained, x), ("evaluated ", evaluated, z)):
        inputs = {"x": first, **learned}
        answer[f"{name}value"] = call(**inputs)
        for key in inputs:
            loss = lambda v, key=key, call=call, inputs=inputs: np.sum(call(**{**inputs, key: v}) * g)  # noqa: E731
            answer[f"{name}{key}"] = reference.jacobian(loss, inputs[key])
    return answer


def check(case: Case, theirs: Answer) -> None:
    """Assert that ours and theirs are right, and alike, in everything."""
    want, here = truth(case), ours(case)
    assert theirs.keys() == here.keys() == want.keys()
    for key, exact in want.items():
        mine, other = here[key].reshape(exact.shape), theirs[key].reshape(exact.shape)
        ours_off, theirs_off = tolerance(case, key, exact), tolerance(case, key, exact, once=False)
        for one, another, limit in (
            (mine, exact, ours_off),
            (other, exact, theirs_off),
            (mine, other, ours_off + theirs_off),
        ):
            assert (np.abs(one - another) <= limit).all(), f"{key}: off by up to {np.abs(one - another).max()}"


def tolerance(case: Case, key: str, exact: np.ndarray, *, once: bool = True) -> np.ndarray:
    """Return how far an answer may be off.

    By eight roundings of the largest number in float32, more where the mean is large beside the spread; in half
    precision the result is rounded on top of that, and others round on the way too, by up to three of the largest.
    What is kept is in float32 throughout.
    """
    largest = np.abs(exact).max()
    limit = np.full(exact.shape, 8 * ROUNDING["float32"] * largest)
    if key == "mean":
        return limit
    limit = limit * (1 + abs(case.location) / case.spread)
    if case.dtype == "float32" or key == "var":
        return limit
    return limit + ROUNDING[case.dtype] * (np.abs(exact) if once else np.full(exact.shape, 3 * largest))
