"""Each norm of a cell, beside what anyone writes in a few lines of jax.numpy, and brainstate.nn's."""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

import braindnorm
from braindnorm import functional

from ..peers import module
from .cells import AXES, Cell, Shape

Norm = Callable[..., Any]
DECAY = 0.9


def contenders(cell: Cell) -> dict[str, Norm]:
    """Return functions of x, scale, bias and, under a mask, the mask."""
    axes = AXES[cell.axes]
    found = {"ours": ours(cell.kind, axes, cell.shape), "naive": naive(cell.kind, axes, cell.shape)}
    if cell.kind in ("layer", "rms") and cell.transform in ("none", "vmap", "vmap2"):
        found["brainstate"] = theirs(cell.kind, axes, cell.shape)
    return {name: TRANSFORMS[cell.transform](f) for name, f in found.items()}


def ours(kind: str, axes: Shape, shape: Shape) -> Norm:
    """Return braindnorm's."""
    groups = num_groups(shape[-1])

    def over_time(x: Any, scale: Any, bias: Any) -> Any:
        norm = braindnorm.OverTime(braindnorm.LayerNorm(shape[-1]), decay=DECAY)
        norm.init_state(shape[1])
        return norm.update_sequence(x) * scale + bias

    norms: dict[str, Norm] = {
        "layer": lambda x, s, b, m=None: functional.layer_norm(x, s, b, reduction_axes=axes, mask=m),
        "rms": lambda x, s, b, m=None: functional.rms_norm(x, s, reduction_axes=axes, mask=m),
        "group": lambda x, s, b, m=None: functional.group_norm(x, groups, s, b, reduction_axes=axes, mask=m),
        "batch": lambda x, s, b, m=None: functional.batch_norm(x, s, b, mask=m)[0],
        "divisive": lambda x, s, b, m=None: functional.divisive_norm(x, 1.0, s, pool_axes=axes, mask=m),
        "moments": lambda x, s, b, m=None: functional.moments(x, axes, mask=m, keepdims=True)[1:],
        "over time": over_time,
    }
    return norms[kind]


def naive(kind: str, axes: Shape, shape: Shape) -> Norm:
    """Return the two passes that anyone writes: what is masked is left out of the sums, and 0 in the result."""

    def mean(v: Any, mask: Any) -> Any:
        if mask is None:
            return jnp.mean(v, axes, keepdims=True)
        count = jnp.maximum(jnp.sum(jnp.broadcast_to(mask, v.shape), axes, keepdims=True), 1)
        return jnp.sum(jnp.where(mask, v, 0), axes, keepdims=True) / count

    def masked(y: Any, mask: Any) -> Any:
        return y if mask is None else jnp.where(mask, y, 0)

    def moments(x: Any, s: Any, b: Any, mask: Any = None) -> Any:
        m = mean(x, mask)
        return m, mean(masked(x - m, mask) ** 2, mask)

    def layer(x: Any, s: Any, b: Any, mask: Any = None) -> Any:
        m, var = moments(x, s, b, mask)
        return masked((x - m) * jax.lax.rsqrt(var + 1e-6) * s + b, mask)

    def rms(x: Any, s: Any, b: Any, mask: Any = None) -> Any:
        x = masked(x, mask)
        return x * jax.lax.rsqrt(mean(x * x, mask) + 1e-6) * s

    def divisive(x: Any, s: Any, b: Any, mask: Any = None) -> Any:
        drive = masked(jnp.maximum(x, 0) ** 2, mask)
        return s * drive / (1 + mean(drive, mask))

    def group(x: Any, s: Any, b: Any, mask: Any = None) -> Any:
        groups = num_groups(shape[-1])
        inner = naive("layer", (*(axis - 1 for axis in axes[:-1]), -1), shape)
        parts = (v.reshape(*v.shape[:-1], groups if v.shape[-1] > 1 else 1, -1) for v in (x, s, b) if v is not None)
        split = mask if mask is None else mask.reshape(*mask.shape[:-1], groups if mask.shape[-1] > 1 else 1, -1)
        return inner(*parts, split).reshape(x.shape)

    norms = {"layer": layer, "rms": rms, "divisive": divisive, "group": group, "batch": layer, "moments": moments}
    return over_time if kind == "over time" else norms[kind]


def over_time(x: Any, scale: Any, bias: Any) -> Any:
    """Return layer normalization with statistics that forget, by a scan over sums."""

    def step(sums: Any, x: Any) -> Any:
        n, s, q = (DECAY * v for v in sums)
        n, s, q = n + x.shape[-1], s + x.sum(-1, keepdims=True), q + (x * x).sum(-1, keepdims=True)
        y = (x - s / n) * jax.lax.rsqrt(jnp.maximum(q / n - (s / n) ** 2, 0) + 1e-6)
        return (n, s, q), y * scale + bias

    empty = jnp.zeros((x.shape[1], 1))
    return jax.lax.scan(step, (jnp.zeros(()), empty, empty), x)[1]


def theirs(kind: str, axes: Shape, shape: Shape) -> Norm:
    """Return brainstate.nn's."""
    layer = {"layer": brainstate.nn.LayerNorm, "rms": brainstate.nn.RMSNorm}[kind]
    f, parameters = module(layer((shape[-1],), reduction_axes=axes))

    def call(x: Any, scale: Any, bias: Any, mask: Any = None) -> Any:
        leaves, tree = jax.tree.flatten(parameters)
        given = [bias, scale] if len(leaves) == 2 else [scale]
        return f(tree.unflatten(given), x, mask=mask)

    return call


def num_groups(channels: int) -> int:
    """Return a number of groups of several channels each."""
    return next(n for n in (8, 7, 4, 2, 1) if channels % n == 0 and channels > n)


def _lanes(map_: Callable[..., Any], f: Norm, parameters: bool = False) -> Norm:
    def call(x: Any, scale: Any, bias: Any, *mask: Any) -> Any:
        if parameters:
            scale, bias = (jnp.broadcast_to(v, (len(x), *v.shape)) for v in (scale, bias))
        mapped = tuple(0 if len(m) > 1 else None for m in mask)
        own = 0 if parameters else None
        rows = [m[:, None] if len(m) > 1 else m for m in mask]
        return map_(f, in_axes=(0, own, own, *mapped))(x[:, None], scale, bias, *rows)

    return call


def _scanned(loop: Callable[..., Any], f: Norm) -> Norm:
    def call(x: Any, scale: Any, bias: Any, *mask: Any) -> Any:
        seen = (x, *(jnp.broadcast_to(m, (len(x), *m.shape[1:])) for m in mask))
        return loop(lambda x, *m: jax.tree.map(lambda v: v[0], f(x[None], scale, bias, *(v[None] for v in m))), seen)

    return call


def _inner(f: Norm) -> Norm:
    """Return the norm mapped over the middle axis."""

    def call(x: Any, scale: Any, bias: Any, *mask: Any) -> Any:
        mapped = tuple(1 if m.shape[1] > 1 else None for m in mask)
        rows = [m[:, :, None] if m.shape[1] > 1 else m for m in mask]
        return jax.vmap(f, in_axes=(1, None, None, *mapped), out_axes=1)(x[:, :, None], scale, bias, *rows)

    return call


def _for_loop(f: Callable[..., Any], xs: Any) -> Any:
    return brainstate.transform.for_loop(f, *xs)


def _scan(f: Callable[..., Any], xs: Any) -> Any:
    return jax.lax.scan(lambda carry, x: (carry, f(*x)), 0, xs)[1]


TRANSFORMS: dict[str, Callable[[Norm], Norm]] = {
    "none": lambda f: f,
    "remat": jax.checkpoint,
    "vmap": lambda f: _lanes(jax.vmap, f),
    "vmap2": lambda f: _lanes(brainstate.transform.vmap2, f),
    "vmap of both": lambda f: _lanes(jax.vmap, f, parameters=True),
    "vmap of vmap": lambda f: _lanes(jax.vmap, _inner(f)),
    "scan": lambda f: _scanned(_scan, f),
    "vmap in for_loop": lambda f: _scanned(_for_loop, _inner(f)),
}
