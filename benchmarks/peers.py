"""The same norm from each library, as callables that wait for their result."""

from collections.abc import Callable
from typing import Any, NamedTuple

import brainstate
import equinox
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import braindnorm
from braindnorm import cpu_kernels

EPSILON = 1e-6
Call = Callable[[], object]


class Case(NamedTuple):
    """What is normalized: `kind` is layer, rms or group; `first` says that channels come first."""

    kind: str
    shape: tuple[int, ...]
    first: bool = False
    dtype: str = "float32"

    @property
    def channels(self) -> int:
        return self.shape[1 if self.first else -1]

    def __str__(self) -> str:
        extra = (" channels first" if self.first else "") + ("" if self.dtype == "float32" else f" {self.dtype}")
        return f"{self.kind} {'x'.join(map(str, self.shape))}{extra}"


def module(layer: Any) -> tuple[Callable[..., Any], Any]:
    """Return a brainstate layer as a function of its parameters and its input, and the parameters."""
    graph, parameters = brainstate.graph.treefy_split(layer)
    return (lambda p, x, **options: brainstate.graph.treefy_merge(graph, p)(x, **options)), parameters


def ours(case: Case, **options: Any) -> tuple[Callable[..., Any], Any]:
    """Return braindnorm's norm."""
    if case.kind == "group":
        size: Any = case.shape[1:] if case.first else case.channels
        axes = tuple(range(-len(case.shape) + 1, 0))
        axis = 0 if case.first else -1
        return module(braindnorm.GroupNorm(size, axis, 32, reduction_axes=axes, **options))
    layer = braindnorm.LayerNorm if case.kind == "layer" else braindnorm.RMSNorm
    return module(layer(case.channels, **options))


def without_kernels(case: Case) -> tuple[Callable[..., Any], Any]:
    """Return braindnorm's norm as it is without kernels for a CPU, whether they are in use or not."""
    f, parameters = ours(case)

    def call(*arguments: Any, **options: Any) -> Any:
        with cpu_kernels.disabled():
            return f(*arguments, **options)

    return call, parameters


def jax_peers(case: Case) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Return the norms of the JAX libraries that can do the case."""
    n, rngs = case.channels, nnx.Rngs(0)
    found: dict[str, Any] = {}
    if not case.first:
        found["brainstate"] = module(
            getattr(brainstate.nn, {"layer": "LayerNorm", "rms": "RMSNorm"}.get(case.kind, "GroupNorm"))((n,))
        )
        flax = (
            nnx.GroupNorm(n, 32, rngs=rngs)
            if case.kind == "group"
            else {"layer": nnx.LayerNorm, "rms": nnx.RMSNorm}[case.kind](n, rngs=rngs)
        )
        graph, parameters = nnx.split(flax)
        found["flax"] = (lambda p, x: nnx.merge(graph, p)(x)), parameters
    if case.kind != "group":
        norm = (equinox.nn.LayerNorm if case.kind == "layer" else equinox.nn.RMSNorm)(n, eps=EPSILON)
        found["equinox"] = _equinox(norm, len(case.shape) - 1)
    elif case.first:
        found["equinox"] = _equinox(equinox.nn.GroupNorm(32, n, eps=EPSILON), 1)
    return found


def _equinox(norm: Any, batch_axes: int) -> tuple[Callable[..., Any], Any]:
    parameters, static = equinox.partition(norm, equinox.is_array)

    def call(p: Any, x: jax.Array) -> Any:
        f: Any = equinox.combine(p, static)
        for _ in range(batch_axes):
            f = jax.vmap(f)
        return f(x)

    return call, parameters


def data(case: Case) -> tuple[jax.Array, jax.Array]:
    """Return an input, and a cotangent of its shape."""
    keys = jax.random.split(jax.random.key(0))
    x, g = (jax.random.normal(key, case.shape, jnp.float32).astype(case.dtype) for key in keys)
    return x, g


def forward(function: Callable[..., Any], *arguments: Any) -> Call:
    """Compile a function; return a call of it that waits."""
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


def both(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of (parameters, x, cotangent) that gives the value and every gradient."""

    def run(parameters: Any, x: jax.Array, g: jax.Array) -> Any:
        y, pull = jax.vjp(function, parameters, x)
        return y, pull(g.astype(y.dtype))

    return run


def torch_peer(case: Case, device: str = "cpu", compiled: bool = False) -> tuple[Call, Call]:
    """Return torch's forward, and its forward and backward."""
    x, g = (torch.from_numpy(np.array(v, np.float32)).to(device, getattr(torch, case.dtype)) for v in data(case))
    if case.kind == "group" and not case.first:
        x, g = x.movedim(-1, 1), g.movedim(-1, 1)  # strides of channels last, as torch calls it
    n = case.channels
    kind = {"layer": torch.nn.LayerNorm, "rms": torch.nn.RMSNorm}.get(case.kind)
    layer = kind(n, eps=EPSILON) if kind else torch.nn.GroupNorm(32, n, eps=EPSILON)
    layer = layer.to(device, x.dtype)
    run = torch.compile(layer) if compiled else layer
    leaf = x.clone().requires_grad_(True)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)

    def value() -> object:
        with torch.no_grad():
            run(x)
        return wait()

    def gradients() -> object:
        torch.autograd.grad(run(leaf), [leaf, *layer.parameters()], g)
        return wait()

    return value, gradients
