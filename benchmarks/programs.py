"""A digest of the program that XLA is given in each of the benchmark's cases: ``python -m benchmarks.programs``.

Run it before and after a change that should leave the programs as they are, and compare the lines. It needs braindnorm
alone.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

import braindnorm

SHAPES = ((64, 128), (256, 1024), (100, 64, 512), (8192, 1024), (32, 1024, 1024))
SPACE = (16, 32, 32, 256)
STEPS = 10


def digests() -> Iterator[tuple[str, str]]:
    """Return the name and the digest of every program."""
    for name, layer, shape in _layers():
        graph, parameters = brainstate.graph.treefy_split(layer)
        for dtype in ("float32", "bfloat16"):
            x = jax.ShapeDtypeStruct(shape, dtype)
            for masked in (None, shape, (*shape[:-1], 1)):
                mask = None if masked is None else jax.ShapeDtypeStruct(masked, bool)
                label = f"{name} {dtype} {'no mask' if masked is None else f'mask {masked}'}"
                yield f"{label} forward", _digest(_forward(graph), parameters, x, mask)
                yield f"{label} forward+backward", _digest(_both(graph), parameters, x, mask)
    yield "over time, step by step", _digest(*_over_time(sequence=False))
    yield "over time, a sequence", _digest(*_over_time(sequence=True))


def _layers() -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    for shape in SHAPES:
        for fast in (True, False):
            options: dict[str, Any] = {"use_fast_variance": fast}
            text = f"{'x'.join(map(str, shape))}{'' if fast else ' compensated'}"
            yield f"layer {text}", braindnorm.LayerNorm(shape[-1], **options), shape
            yield f"rms {text}", braindnorm.RMSNorm(shape[-1], **options), shape
            yield f"group {text}", braindnorm.GroupNorm(shape[-1], num_groups=32, **options), shape
    yield "group with space", braindnorm.GroupNorm(SPACE[1:]), SPACE
    yield "layer of columns", braindnorm.LayerNorm(512, reduction_axes=(0, 1)), (100, 64, 512)


def _forward(graph: Any) -> Callable[..., Any]:
    return lambda p, x, mask: brainstate.graph.treefy_merge(graph, p)(x, mask=mask)


def _both(graph: Any) -> Callable[..., Any]:
    def run(p: Any, x: Any, mask: Any) -> Any:
        y, pull = jax.vjp(lambda p, x: _forward(graph)(p, x, mask), p, x)
        return y, pull(jnp.ones_like(y))

    return run


def _over_time(sequence: bool) -> tuple[Callable[..., Any], Any]:
    def run(xs: Any) -> Any:
        norm = braindnorm.OverTime(braindnorm.LayerNorm(128), decay=0.9)
        norm.init_state(64)
        return norm.update_sequence(xs) if sequence else brainstate.transform.for_loop(norm, xs)

    return run, jax.ShapeDtypeStruct((STEPS, 64, 128), jnp.float32)


def _digest(function: Callable[..., Any], *arguments: Any) -> str:
    text = jax.jit(function).lower(*arguments).as_text()
    return hashlib.sha256(re.sub(r"@[\w.]+", "@f", text).encode()).hexdigest()[:16]


if __name__ == "__main__":
    for name, digest in digests():
        print(f"{digest}  {name}", flush=True)
