"""Every norm, axis, mask, transform and size: ``python -m benchmarks --sweep [--quick] [--minutes 10]``.

Too many to measure all: the cells are chosen so that every pair of choices is met soonest, until the time is over. The
ratios are our time over that of the faster of the naive form and brainstate.nn; the worst cells come first. A cell that
seems slow is measured again, in more rounds, and the second time counts.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ..timing import interleaved
from . import picture
from .cells import SHAPES, Cell, all_pairs, cells
from .contenders import contenders

WAYS = ("forward", "both ways")
AGAIN = 1.1
Times = dict[str, float]


def sweep(rounds: int, quick: bool, *, minutes: float, label: str) -> Iterator[tuple[str, Times]]:
    """Time cells until the minutes are over; print the worst, and draw the worst of each pair to `label`."""
    end, found = time.monotonic() + 60 * minutes, dict[tuple[Cell, str], Times]()
    every = all_pairs()
    missing = set(every)
    for cell in cells():
        if time.monotonic() > end:
            break
        if quick and cell.shape not in SHAPES[:4]:
            continue
        for way in WAYS:
            times = measure(cell, way, max(3, rounds // 4))
            if picture.ratio(times) > AGAIN:
                times = measure(cell, way, rounds)
            found[cell, way] = times
            yield f"{cell}, {way}", times
        missing -= cell.pairs
    print(f"{len(found) // 2} cells; {len(missing)} of {len(every)} pairs of choices were not met")
    picture.report(found, label)


def measure(cell: Cell, way: str, rounds: int) -> Times:
    """Return seconds a call, and of compilation."""
    arguments, calls, compilation = data(cell), {}, {}
    for name, f in contenders(cell).items():
        start = time.process_time()
        try:
            calls[name] = compiled(f, way, cell, arguments)
        except Exception:
            if name != "brainstate":  # which cannot do some of them
                raise
        compilation[f"compile {name}"] = time.process_time() - start
    return interleaved(calls, rounds) | {name: t for name, t in compilation.items() if name.split()[1] in calls}


def data(cell: Cell) -> tuple[Any, ...]:
    """Return x, scale, bias and the mask, if there is one."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], cell.shape)
    mask = cell.mask_shape
    parameters = jnp.ones(cell.shape[-1]), jnp.zeros(cell.shape[-1])
    return x, *parameters, *(() if mask is None else (jax.random.bernoulli(keys[1], 0.8, mask),))


def compiled(f: Callable[..., Any], way: str, cell: Cell, arguments: tuple[Any, ...]) -> Callable[[], object]:
    """Compile a contender; return a call of it that waits."""
    fixed = arguments[3:] if cell.given == "constant" else ()
    arguments = arguments[: len(arguments) - len(fixed)]

    def both(x: Any, scale: Any, bias: Any, *mask: Any) -> Any:
        y, pull = jax.vjp(lambda *p: f(*p, *mask, *fixed), x, scale, bias)
        return y, pull(y)

    run = (lambda *p: f(*p, *fixed)) if way == "forward" else both
    program = jax.jit(run).lower(*arguments).compile()
    return lambda: jax.block_until_ready(program(*arguments))
