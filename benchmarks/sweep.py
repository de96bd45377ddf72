"""Every axis, mask, transform and size beside the norm that anyone writes: ``python -m benchmarks --sweep [--quick]``.

The worst cells come first; the heat map has the worst ratio of each pair of axes and transform.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from braindnorm import functional

from .timing import interleaved

AXES: dict[str, tuple[int, ...]] = {
    "trailing": (-1,),
    "leading": (-3,),
    "middle": (-2,),
    "two leading": (-3, -2),
    "two trailing": (-2, -1),
    "all": (-3, -2, -1),
}
# which axes of the input a mask has: that of an element, a step, a feature, a trial
MASKS: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]] | None] = {
    "no mask": None,
    "element": lambda shape: shape,
    "step": lambda shape: (*shape[:-1], 1),
    "feature": lambda shape: (1, 1, shape[-1]),
    "trial": lambda shape: (shape[0], 1, 1),
}
SHAPES = ((16, 16, 8), (37, 29, 61), (64, 128, 256), (64, 512, 128), (8, 1000, 1000))
TRANSFORMS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "none": lambda f: f,
    "vmap": lambda f: lambda x, *rest: jax.vmap(lambda x: f(x, *rest))(x[:, None])[:, 0],
    "vmap of both": lambda f: (
        lambda x, s, b, *mask: jax.vmap(lambda x, s, b: f(x, s, b, *mask))(
            x[:, None], *(jnp.broadcast_to(v, (len(x), *v.shape)) for v in (s, b))
        )[:, 0]
    ),
    "vmap of vmap": lambda f: (
        lambda x, *rest: jax.vmap(jax.vmap(lambda x: f(x[None], *rest)[0]))(x[:, :, None])[:, :, 0]
    ),
    "scan": lambda f: lambda x, *rest: jax.lax.scan(lambda c, x: (c, f(x[None], *rest)[0]), 0, x)[1],
    "remat": jax.checkpoint,
}
# the axes that are left within a lane
INSIDE = {"vmap": 2, "vmap of both": 2, "scan": 2, "vmap of vmap": 1}


class Cell(NamedTuple):
    """One case of the sweep."""

    kind: str
    axes: str
    mask: str
    transform: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind} {'x'.join(map(str, self.shape))} over {self.axes}, {self.mask}, {self.transform}"


def cells(quick: bool) -> Iterator[Cell]:
    """Return the cells whose parts go together: a mask is not mapped, and what is reduced lies within a lane."""
    shapes = SHAPES[2:3] if quick else SHAPES
    for kind, axes, mask, transform, shape in itertools.product(("layer", "rms"), AXES, MASKS, TRANSFORMS, shapes):
        inside = INSIDE.get(transform, 3)
        if max(-axis for axis in AXES[axes]) > inside or (inside < 3 and mask not in ("no mask", "feature")):
            continue
        if not quick or kind == "layer":
            yield Cell(kind, axes, mask, transform, shape)


def sweep(rounds: int, quick: bool) -> Iterator[tuple[str, dict[str, float]]]:
    """Time every cell, forward, and forward and backward; print the worst and the heat map at the end."""
    ratios: dict[tuple[Cell, str], float] = {}
    for cell in cells(quick):
        arguments = _arguments(cell)
        for way in ("forward", "both ways"):
            calls = {name: _call(f, way, arguments) for name, f in _contenders(cell).items()}
            if way == "both ways":
                calls["x + g"] = _call(lambda x, *_: x + x, "forward", arguments)
            times = interleaved(calls, rounds)
            ratios[cell, way] = times["ours"] / times["naive"]
            yield f"{cell}, {way}", times
    for (cell, way), ratio in sorted(ratios.items(), key=lambda item: -item[1])[:20]:
        print(f"{ratio:6.2f}  {cell}, {way}")
    print("\n".join(heat_map(ratios)))


def heat_map(ratios: dict[tuple[Cell, str], float]) -> Iterator[str]:
    """Return the worst ratio of each transform and each axes, as lines of text."""
    for way in ("forward", "both ways"):
        yield f"{way:14}" + "".join(f"{axes:>14}" for axes in AXES)
        for transform in TRANSFORMS:
            worst = [
                max(
                    (r for (c, w), r in ratios.items() if (c.axes, c.transform, w) == (axes, transform, way)), default=0
                )
                for axes in AXES
            ]
            yield f"{transform:14}" + "".join(f"{ratio:14.2f}" if ratio else " " * 14 for ratio in worst)


def _arguments(cell: Cell) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], cell.shape)
    parameters = jnp.ones(cell.shape[-1]), jnp.zeros(cell.shape[-1])
    shape = MASKS[cell.mask]
    return x, *parameters, *(() if shape is None else (jax.random.bernoulli(keys[1], 0.8, shape(cell.shape)),))


def _contenders(cell: Cell) -> dict[str, Callable[..., Any]]:
    axes, centred = AXES[cell.axes], cell.kind == "layer"

    def ours(x: Any, scale: Any, bias: Any, mask: Any = None) -> Any:
        if centred:
            return functional.layer_norm(x, scale, bias, reduction_axes=axes, mask=mask)
        return functional.rms_norm(x, scale, reduction_axes=axes, mask=mask)

    def naive(x: Any, scale: Any, bias: Any, mask: Any = True) -> Any:
        mask = jnp.broadcast_to(mask, x.shape)
        n = jnp.maximum(jnp.sum(mask, axes, keepdims=True), 1)
        if centred:
            x = x - jnp.sum(jnp.where(mask, x, 0), axes, keepdims=True) / n
        x = jnp.where(mask, x, 0)
        y = x * jax.lax.rsqrt(jnp.sum(x * x, axes, keepdims=True) / n + 1e-6) * scale
        return jnp.where(mask, y + bias if centred else y, 0)

    def unmasked(x: Any, scale: Any, bias: Any) -> Any:
        x = x - jnp.mean(x, axes, keepdims=True) if centred else x
        y = x * jax.lax.rsqrt(jnp.mean(x * x, axes, keepdims=True) + 1e-6) * scale
        return y + bias if centred else y

    change = TRANSFORMS[cell.transform]
    return {"ours": change(ours), "naive": change(unmasked if cell.mask == "no mask" else naive)}


def _call(f: Callable[..., Any], way: str, arguments: tuple[jax.Array, ...]) -> Callable[[], object]:
    def both(x: Any, scale: Any, bias: Any, *mask: Any) -> Any:
        y, pull = jax.vjp(lambda *p: f(*p, *mask), x, scale, bias)
        return y, pull(x)

    compiled = jax.jit(f if way == "forward" else both).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))
