"""What is measured: each function returns rows of a name and the seconds of every contender."""

from collections.abc import Callable, Iterator
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

import braindnorm
from braindnorm import cpu_kernels

from .batch_norm import batch_norms
from .peers import Case, both, data, forward, jax_peers, module, ours, torch_peer, without_kernels
from .timing import interleaved

SHAPES = ((64, 128), (256, 1024), (100, 64, 512), (8192, 1024), (32, 1024, 1024))
GROUPS = (Case("group", (16, 32, 32, 256)), Case("group", (16, 256, 32, 32), first=True))
MASKED = (100, 64, 512)
Row = tuple[str, dict[str, float]]


def norms(rounds: int, quick: bool) -> Iterator[Row]:
    """Time every norm forward, and forward and backward, beside the others and the floor."""
    shapes = SHAPES[:3] if quick else SHAPES
    cases = [Case(kind, shape) for kind in ("layer", "rms", "group") for shape in shapes]
    for case in [*cases, *GROUPS, Case("layer", (8192, 1024), dtype="bfloat16")]:
        few = max(5, rounds // 4) if np.prod(case.shape) > 1e7 else rounds
        yield from beside(case, few)


def beside(case: Case, rounds: int) -> Iterator[Row]:
    """Time one case."""
    x, g = data(case)
    contenders = {
        "ours": ours(case),
        "compensated": ours(case, use_fast_variance=False),
        "plain form": ours(case, masked_output="normalize"),  # which leaves the fast rule out
        **({"without kernels": without_kernels(case)} if cpu_kernels.enabled() else {}),
        **jax_peers(case),
    }
    values = {name: forward(f, p, x) for name, (f, p) in contenders.items()}
    gradients = {name: forward(both(f), p, x, g) for name, (f, p) in contenders.items()}
    values["torch"], gradients["torch"] = torch_peer(case)
    kept = np.empty(case.shape, np.float32)
    source = np.asarray(x, np.float32)
    floor = {"x + 1": forward(lambda x: x + 1, x), "copy": lambda: np.copyto(kept, source)}
    yield f"{case} forward", interleaved(values | floor, rounds)
    yield f"{case} forward+backward", interleaved(gradients | {"x + g": forward(lambda x, g: x + g, x, g)}, rounds)


def masked(rounds: int, quick: bool) -> Iterator[Row]:
    """Time a full mask and one of (time, batch, 1) beside no mask, and brainstate's with the same."""
    case = Case("layer", MASKED)
    x, g = data(case)
    (f, p), (f0, p0) = ours(case), jax_peers(case)["brainstate"]
    whole = jax.random.bernoulli(jax.random.key(1), 0.8, case.shape)
    for name, mask in (("full mask", whole), ("(T, B, 1) mask", whole[..., :1])):
        calls = {
            "ours": forward(under_mask(f), p, x, g, mask),
            "ours unmasked": forward(both(f), p, x, g),
            "brainstate": forward(under_mask(f0), p0, x, g, mask),
        }
        yield f"{case} {name} forward+backward", interleaved(calls, rounds)


def under_mask(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return value and gradients with the mask as an argument, so that nothing of it is known at compilation."""
    return lambda p, x, g, mask: both(lambda p, x: f(p, x, mask=mask))(p, x, g)


def eager(rounds: int, quick: bool) -> Iterator[Row]:
    """Time a call outside of jit, of an array and of a quantity."""
    x = jnp.ones((64, 128))
    layer, theirs, quantity = braindnorm.LayerNorm(128), brainstate.nn.LayerNorm((128,)), x * u.mV
    add = jax.jit(lambda x: x + 1)
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: jax.block_until_ready(layer(x)),
        "ours, a quantity": lambda: jax.block_until_ready(layer(quantity).mantissa),
        "brainstate": lambda: jax.block_until_ready(theirs(x)),
        "jitted x + 1": lambda: jax.block_until_ready(add(x)),
    }
    yield "eager layer 64x128", interleaved(calls, rounds)
    sent: dict[str, Callable[[], object]] = {
        "ours": lambda: layer(x),
        "ours, a quantity": lambda: layer(quantity),
        "brainstate": lambda: theirs(x),
        "jitted x + 1": lambda: add(x),
    }
    yield "eager layer 64x128, not waited for", interleaved(sent, rounds)


def growth(rounds: int, quick: bool) -> Iterator[Row]:
    """Double the rows, to show that the time grows with them and no faster."""
    for power in range(6, 15 if quick else 21, 2 if quick else 1):
        case = Case("layer", (2**power, 64))
        x, g = data(case)
        f, p = ours(case)
        few = max(3, rounds // 6)
        yield f"growth {2**power} rows", interleaved({"ours": forward(both(f), p, x, g)}, few)


def devices(rounds: int, quick: bool) -> Iterator[Row]:
    """Share the rows among the devices that there are."""
    case = Case("layer", (8192, 256))
    x, g = data(case)
    f, p = ours(case)
    for count in (1, 2, 4, 8):
        if count <= jax.device_count():
            mesh = jax.make_mesh((count,), ("d",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])
            rows = jax.sharding.NamedSharding(mesh, jax.P("d"))
            shared = [jax.device_put(v, rows) for v in (x, g)]
            yield f"devices {count}", interleaved({"ours": forward(both(f), p, *shared)}, max(3, rounds // 2))


def loop(rounds: int, quick: bool) -> Iterator[Row]:
    """Time a step of a spiking network: a leaky neuron, a recurrent product, and a norm (or none)."""
    steps, shape = (200 if quick else 1000), (64, 128)
    contenders: dict[str, Any] = {
        "none": (lambda p, x: x, ()),
        "ours": ours(Case("layer", shape)),
        "brainstate": module(brainstate.nn.LayerNorm(shape[1:])),
    }
    weight = jax.random.normal(jax.random.key(0), (128, 128)) / 12
    drive = jax.random.normal(jax.random.key(1), (steps, *shape))
    compiled: dict[str, Any] = {}
    for way in ("forward", "BPTT"):
        calls = {}
        for name, (norm, p) in contenders.items():
            run = network(norm) if way == "forward" else jax.grad(network(norm), (0, 1))
            compiled[name] = jax.jit(run).lower(p, weight, drive).compile()
            calls[name] = lambda run=compiled[name], p=p: jax.block_until_ready(run(p, weight, drive))
        times = interleaved(calls, max(3, rounds // 4))
        yield f"loop {way}, a step", {k: v if k == "rounds kept" else v / steps for k, v in times.items()}
        added = {k: (times[k] - times["none"]) / steps for k in ("ours", "brainstate")}
        yield f"loop {way}, added by the norm", added
    yield (
        "loop BPTT, bytes a step",
        {name: c.memory_analysis().temp_size_in_bytes / steps for name, c in compiled.items()},
    )


def network(norm: Callable[..., Any]) -> Callable[..., Any]:
    """Return the loss of a recurrent network of leaky neurons with a surrogate gradient."""

    def run(p: Any, weight: jax.Array, drive: jax.Array) -> jax.Array:
        def step(v: jax.Array, current: jax.Array) -> tuple[jax.Array, jax.Array]:
            spikes = jax.nn.sigmoid(4 * (v - 1))
            v = 0.9 * v + norm(p, current + spikes @ weight) - spikes
            return v, jnp.mean(spikes)

        return jnp.sum(jax.lax.scan(step, jnp.zeros(drive.shape[1:]), drive)[1])

    return run


def compile_time(rounds: int, quick: bool) -> Iterator[Row]:
    """Time the compilation of forward and backward."""
    case = Case("layer", (256, 1024))
    x, g = data(case)
    contenders = {"ours": ours(case), **jax_peers(case)}
    calls = {}
    for name, (f, p) in contenders.items():

        def build(f: Any = f, p: Any = p) -> object:
            jax.clear_caches()
            return jax.jit(both(f)).lower(p, x, g).compile()

        calls[name] = build
    yield f"compile {case} forward+backward", interleaved(calls, 3 if quick else 7)


ALL = (norms, batch_norms, masked, eager, loop, growth, devices, compile_time)
