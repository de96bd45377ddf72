"""Time several callables side by side, so that a disturbance meets all of them."""

import math
import statistics
import time
from collections.abc import Callable, Mapping

# A round in which the slowest call took this many times its own median was disturbed by other load.
DISTURBED = 1.5

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_clock = CLOCKS["wall"]


def choose_clock(name: str) -> None:
    """Choose between wall time and the time of all processors, which other load on the machine disturbs less."""
    global _clock
    _clock = CLOCKS[name]


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, budget: float = 2e-3) -> dict[str, float]:
    """Return the median seconds of each call.

    In each round every call is timed once, in an order that turns from round to round. Each waits until no thread of
    the call before it still spins, and is repeated for about `budget` seconds, once before the clock starts and once
    while it runs: so it finds its own caches. Rounds in which any call is far above its median are left out, and the
    medians are taken again over the rest.
    """
    for call in calls.values():
        call()  # compiles
    repeats = {name: max(1, math.ceil(budget / _seconds(call, 1))) for name, call in calls.items()}
    names, table = list(calls), []
    for _ in range(rounds):
        names = names[1:] + names[:1]
        table.append({name: _warm_seconds(calls[name], repeats[name]) for name in names})
    middle = {name: statistics.median(row[name] for row in table) for name in calls}
    calm = [row for row in table if all(row[name] < DISTURBED * middle[name] for name in calls)]
    kept = calm if len(calm) >= 3 else table
    return {name: statistics.median(row[name] for row in kept) for name in calls} | {"rounds kept": len(kept) / rounds}


def _warm_seconds(call: Callable[[], object], repeats: int) -> float:
    _wait_for_threads()
    _seconds(call, repeats)
    return _seconds(call, repeats)


def _wait_for_threads() -> None:
    """Wait until the other threads of this process rest, 0.1 s at most: those of torch spin for some milliseconds."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(1e-3)
        if time.process_time() - before < 2e-4:
            return


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = _clock()
    for _ in range(repeats):
        call()
    return max(_clock() - start, 1e-9) / repeats
