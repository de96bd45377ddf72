"""On a GPU: the share of the bandwidth of a device copy that each norm reaches."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import torch

from .peers import Case, both, data, forward, jax_peers, ours, torch_peer
from .timing import interleaved

SHAPE = (8192, 4096)
Row = tuple[str, dict[str, float]]


def bandwidth(rounds: int, quick: bool) -> Iterator[Row]:
    """Time forward, and forward and backward, beside torch (eager and compiled) and a copy on the device."""
    for kind in ("layer", "rms"):
        for dtype in ("float32", "bfloat16"):
            case = Case(kind, SHAPE, dtype=dtype)
            x, g = data(case)
            contenders = {"ours": ours(case, dtype=jnp.dtype(dtype)), **jax_peers(case)}
            values = {name: forward(f, p, x) for name, (f, p) in contenders.items()}
            gradients = {name: forward(both(f), p, x, g) for name, (f, p) in contenders.items()}
            copy = {"copy": forward(lambda x: jax.lax.optimization_barrier(x) + 0, x)}
            if torch.cuda.is_available():
                for name, compiled in (("torch", False), ("torch compiled", True)):
                    values[name], gradients[name] = torch_peer(case, "cuda", compiled)
            yield f"{case} forward", interleaved(values | copy, rounds)
            yield f"{case} forward+backward", interleaved(gradients | copy, rounds)
