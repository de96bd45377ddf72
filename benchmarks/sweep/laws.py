"""Precision and derivatives in the cells of the sweep: ``python -m benchmarks --sweep --laws [--minutes 10]``.

In each cell of the smaller sizes the value, both gradients, a tangent and both orders of a product with the Hessian are
compared with those of the naive form in float64. The values are -65 with a spread of 0.01, then of mean 0 and variance
1; what divisive normalization would rectify to 0 is of the second kind in both.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import data
from .cells import Cell, cells
from .contenders import contenders

# the largest error, beside the largest number of the reference
FAR, NEAR = 2e-3, 1e-4
LARGEST = 2**17
Norm = Callable[..., Any]


def check(minutes: float) -> int:
    """Compare until the minutes are over; print the worst of each norm, and return how many cells break a law."""
    end, worst, broken, compared = time.monotonic() + 60 * minutes, dict[str, tuple[float, str]](), 0, 0
    for cell in cells():
        if time.monotonic() > end:
            break
        if math.prod(cell.shape) > LARGEST:
            continue
        compared += 1
        for name, error, allowed in errors(cell):
            line = f"{error:.1e} ({allowed:.0e} allowed)  {cell}: {name}"
            if not error <= allowed:  # as NaN is not
                broken += 1
                print("BROKEN", line, flush=True)
            key = f"{cell.kind}, {name}"
            worst[key] = max(worst.get(key, (0.0, "")), (error, line))
    for _, line in sorted(worst.values(), reverse=True):
        print(line)
    print(f"{compared} cells; {broken} broken laws")
    return broken


def errors(cell: Cell) -> list[tuple[str, float, float]]:
    """Return the name of each result, its error and what is allowed."""
    near = data(cell)
    x = np.asarray(near[0], np.float64)
    far = (near[0] if cell.kind == "divisive" else jnp.asarray(-65 + 0.01 * x, jnp.float32), *near[1:])
    found = []
    for arguments, kind, allowed, parts in ((far, "-65", FAR, first_order), (near, "0", NEAR, both_orders)):
        actual = computed(parts, cell, "ours", arguments)
        with jax.enable_x64(True):
            wide = [jnp.asarray(np.asarray(v), jnp.float64) if v.dtype == jnp.float32 else v for v in arguments]
            desired = computed(parts, cell, "naive", tuple(wide))
        for name, value in actual.items():
            found += [(f"{name} at {kind}", _error(a, d), allowed) for a, d in zip(value, desired[name], strict=True)]
    return found


def computed(parts: Callable[..., Any], cell: Cell, name: str, arguments: tuple[Any, ...]) -> dict[str, list[Any]]:
    """Return the leaves of each result of a contender."""
    fixed = arguments[3:] if cell.given == "constant" else ()
    f = contenders(cell)[name]
    results = jax.jit(lambda *some: parts(lambda *p: f(*p, *some[3:], *fixed), *some[:3]))(
        *arguments[: len(arguments) - len(fixed)]
    )
    return {name: jax.tree.leaves(value) for name, value in results.items()}


def first_order(f: Norm, x: Any, scale: Any, bias: Any) -> dict[str, Any]:
    """Return the value and the gradients."""
    y, pull = jax.vjp(f, x, 1.3 * scale, bias + 0.2)
    return {"value": y, "gradient": pull(jax.tree.map(_waves, y))}


def both_orders(f: Norm, x: Any, scale: Any, bias: Any) -> dict[str, Any]:
    """Return a tangent, that of a constant shift, and the Hessian of a loss times a vector in both orders."""

    def loss(x: Any) -> Any:
        return sum(jnp.sum(_waves(v) * v * v) for v in jax.tree.leaves(f(x, scale, bias)))

    step, gradient = _waves(x), jax.grad(loss)
    return {
        "tangent": jax.jvp(lambda x: f(x, scale, bias), (x,), (step,))[1],
        "tangent of a shift": jax.tree.map(
            lambda v, t: t / (1 + jnp.max(jnp.abs(v))), *jax.jvp(lambda x: f(x, scale, bias), (x,), (jnp.ones_like(x),))
        ),
        "forward over reverse": jax.jvp(gradient, (x,), (step,))[1],
        "reverse over reverse": jax.grad(lambda x: jnp.sum(gradient(x) * step))(x),
    }


def _waves(v: Any) -> Any:
    return jnp.cos(jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape)


def _error(actual: Any, desired: Any) -> float:
    """Return the largest error beside the largest number; one beside 0 is counted as it is."""
    actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64).reshape(np.shape(actual))
    size = np.abs(desired).max(initial=0)
    return float(np.abs(actual - desired).max(initial=0) / (size if size > 1e-6 else 1))
