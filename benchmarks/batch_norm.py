"""Batch norms beside others: a training step, an evaluation, and a step in a loop."""

from collections.abc import Callable, Iterator
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import braindnorm

from .peers import Call, forward
from .timing import interleaved

SHAPES = ((100, 64, 512), (8192, 1024), (16, 32, 32, 256))
LOOP = (64, 128)
Row = tuple[str, dict[str, float]]
Contender = tuple[Callable[..., Any], Any, Any]  # of parameters, what is kept, and x; the parameters; what is kept


def batch_norms(rounds: int, quick: bool) -> Iterator[Row]:
    """Time a training step, with its gradients and what it keeps, and an evaluation beside x * a + b."""
    for shape in SHAPES:
        yield from beside(shape, max(5, rounds // 2) if np.prod(shape) > 5e6 else rounds)
    yield from loop(rounds, 200 if quick else 1000)


def beside(shape: tuple[int, ...], rounds: int) -> Iterator[Row]:
    """Time one shape; time and batch are pooled."""
    name = f"batch {'x'.join(map(str, shape))}"
    x, g = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0)))
    training, evaluation = (
        {"ours": _ours(shape, fit), "brainstate": _brainstate(shape, fit), "flax": _flax(shape, fit)}
        for fit in (True, False)
    )
    steps = {key: forward(_both(f), p, kept, x, g) for key, (f, p, kept) in training.items()}
    floor = {"x + g": forward(lambda x, g: x + g, x, g)}
    yield (
        f"{name} training",
        interleaved(steps | {"torch": _torch(shape, np.asarray(x), np.asarray(g))} | floor, rounds),
    )
    values = {key: forward(lambda p, kept, x, f=f: f(p, kept, x)[0], p, k, x) for key, (f, p, k) in evaluation.items()}
    a, b = (jax.random.normal(key, shape[-1:]) for key in jax.random.split(jax.random.key(1)))
    yield f"{name} evaluation", interleaved(values | {"x * a + b": forward(lambda x, a, b: x * a + b, x, a, b)}, rounds)


def loop(rounds: int, steps: int) -> Iterator[Row]:
    """Time a step of a recurrent network that trains a batch norm at every step, and BPTT through it."""
    contenders: dict[str, Contender] = {
        "none": (lambda p, kept, x: (x, kept), (), ()),
        "ours": _ours(LOOP, True),
        "brainstate": _brainstate(LOOP, True),
    }
    weight = jax.random.normal(jax.random.key(0), (LOOP[-1], LOOP[-1])) / 12
    drive = jax.random.normal(jax.random.key(1), (steps, *LOOP))
    for way in ("forward", "BPTT"):
        runs = {
            key: _network(f) if way == "forward" else jax.grad(_network(f), (0, 2), has_aux=True)
            for key, (f, _, _) in contenders.items()
        }
        calls = {key: forward(run, *contenders[key][1:], weight, drive) for key, run in runs.items()}
        times = interleaved(calls, max(3, rounds // 4))
        added = {key: (times[key] - times["none"]) / steps for key in ("ours", "brainstate")}
        yield f"batch loop {way}, added by the norm", added


def _network(norm: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives the loss, and what is kept at the end."""

    def run(p: Any, kept: Any, weight: jax.Array, drive: jax.Array) -> tuple[jax.Array, Any]:
        def step(carry: Any, current: jax.Array) -> Any:
            v, kept = carry
            spikes = jax.nn.sigmoid(4 * (v - 1))
            y, kept = norm(p, kept, current + spikes @ weight)
            return (0.9 * v + y - spikes, kept), jnp.mean(spikes)

        (_, after), rates = jax.lax.scan(step, (jnp.zeros(drive.shape[1:]), kept), drive)
        return jnp.sum(rates), after

    return run


def _module(layer: Any, fit: bool, size: tuple[int, ...]) -> Contender:
    graph, parameters, others = brainstate.graph.treefy_split(layer, brainstate.ParamState, ...)

    def call(p: Any, kept: Any, x: jax.Array) -> Any:
        copy = brainstate.graph.treefy_merge(graph, p, others)
        copy.running_mean.value, copy.running_var.value = kept
        with braindnorm.phase(fit):
            y = copy(x.reshape(size)).reshape(x.shape)
        return y, (copy.running_mean.value, copy.running_var.value)

    return call, parameters, (layer.running_mean.value, layer.running_var.value)


def _ours(shape: tuple[int, ...], fit: bool) -> Contender:
    return _module(braindnorm.BatchNorm(shape[-1]), fit, shape)


def _brainstate(shape: tuple[int, ...], fit: bool) -> Contender:
    """Its norms take one leading axis."""
    if len(shape) == 4:
        return _module(brainstate.nn.BatchNorm2d(shape[1:]), fit, shape)
    return _module(brainstate.nn.BatchNorm0d(shape[-1:]), fit, (-1, shape[-1]))


def _flax(shape: tuple[int, ...], fit: bool) -> Contender:
    ones, zeros = jnp.ones(shape[-1]), jnp.zeros(shape[-1])

    def call(p: Any, kept: Any, x: jax.Array) -> Any:
        module = nnx.BatchNorm(shape[-1], rngs=nnx.Rngs(0))
        module.scale, module.bias = nnx.Param(p["scale"]), nnx.Param(p["bias"])
        module.mean, module.var = nnx.BatchStat(kept["mean"]), nnx.BatchStat(kept["var"])
        y = module(x, use_running_average=not fit)
        return y, {"mean": module.mean[...], "var": module.var[...]}

    return call, {"scale": ones, "bias": zeros}, {"mean": zeros, "var": ones}


def _both(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives the value, every gradient, and what is kept."""

    def run(p: Any, kept: Any, x: jax.Array, g: jax.Array) -> Any:
        y, pull, after = jax.vjp(lambda p, x: function(p, kept, x), p, x, has_aux=True)
        return y, pull(g), after

    return run


def _torch(shape: tuple[int, ...], x: np.ndarray, g: np.ndarray) -> Call:
    leaf, cotangent = (torch.from_numpy(np.array(v)) for v in (x, g))
    if len(shape) == 4:
        layer: Any = torch.nn.BatchNorm2d(shape[-1])
        leaf, cotangent = leaf.movedim(-1, 1), cotangent.movedim(-1, 1)  # strides of channels last
    else:
        layer, leaf, cotangent = torch.nn.BatchNorm1d(shape[-1]), *(v.reshape(-1, shape[-1]) for v in (leaf, cotangent))
    leaf = leaf.requires_grad_(True)
    return lambda: torch.autograd.grad(layer(leaf), [leaf, *layer.parameters()], cotangent)
