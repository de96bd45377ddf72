"""Show and keep what was measured: a table of ratios, a file of numbers, a plot."""

import json
import math
import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"
Rows = dict[str, dict[str, float]]
LIBRARIES = ("jax", "jaxlib", "brainstate", "brainunit", "flax", "equinox", "torch")


def machine() -> dict[str, Any]:
    """Return where this was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load before": [round(load, 1) for load in os.getloadavg()],
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def line(name: str, times: dict[str, float]) -> str:
    """Return one row: our number, and each as a ratio, ours over theirs."""
    mine, unit, factor = times["ours"], *(("kB", 1e-3) if "bytes" in name else ("us", 1e6))
    beside = {k: t for k, t in times.items() if k not in ("ours", "rounds kept") and not k.startswith("compile ")}
    others = [f"{other} {mine / t:.2f}" for other, t in beside.items() if t]
    return f"{name:46s} {mine * factor:10.0f} {unit}   " + "   ".join(others)


def _elements(name: str) -> int:
    return math.prod(map(int, next(word for word in name.split() if "x" in word).split("x")))


def _both(name: str) -> bool:
    return name.endswith("forward+backward") and name.split()[0] in ("layer", "rms", "group") and "mask" not in name


def _forward(name: str) -> bool:
    return name.endswith(" forward") and name.split()[0] in ("layer", "rms", "group")


# What we hold ourselves to: the words, the rows it is about, whose time ours is divided by (the least of them), the
# most that it may be.
TARGETS: tuple[tuple[str, Callable[[str], bool], tuple[str, ...], float], ...] = (
    ("both ways, 0.1 MB and above", lambda n: _both(n) and _elements(n) > 8192, ("brainstate", "flax"), 0.6),
    ("both ways, 64x128", lambda n: _both(n) and _elements(n) == 8192, ("brainstate", "flax"), 0.8),
    (
        "both ways, layer and rms, 8 MB and above",
        lambda n: _both(n) and _elements(n) >= 2**21 and "group" not in n,
        ("torch",),
        1.0,
    ),
    ("both ways, layer and rms, 1 MB", lambda n: _both(n) and "256x1024" in n and "group" not in n, ("torch",), 1.5),
    ("both ways, group", lambda n: _both(n) and "group" in n, ("torch",), 1.2),
    ("forward", _forward, ("brainstate",), 1.0),
    ("forward in the loop", lambda n: n == "loop forward, a step", ("brainstate",), 1.0),
    ("forward, group", lambda n: _forward(n) and "group" in n, ("x + 1",), 2.5),
    ("both ways, masked", lambda n: "mask" in n, ("ours unmasked",), 1.5),
    ("both ways, masked", lambda n: "mask" in n, ("brainstate",), 0.4),
    ("added to a step of BPTT", lambda n: n == "loop BPTT, added by the norm", ("brainstate",), 0.35),
    (
        "a batch norm's training step",
        lambda n: n.startswith("batch") and n.endswith("training"),
        ("brainstate", "flax"),
        0.6,
    ),
    ("a batch norm's training step", lambda n: n.startswith("batch") and n.endswith("training"), ("torch",), 1.2),
    ("a batch norm's evaluation", lambda n: n.startswith("batch") and n.endswith("evaluation"), ("x * a + b",), 1.2),
    ("a batch norm, added to a step", lambda n: n.startswith("batch loop"), ("brainstate",), 0.5),
    ("an eager call", lambda n: n.startswith("eager"), ("brainstate",), 0.35),
    ("compilation", lambda n: n.startswith("compile"), ("brainstate",), 1.3),
)


def verdicts(rows: Rows) -> Iterator[str]:
    """Return a line for each target: whether it is met, by every case that it is about, and by which it is missed."""
    for words, about, others, limit in TARGETS:
        ratios = {
            name: row["ours"] / min(row[other] for other in others if other in row)
            for name, row in rows.items()
            if about(name) and any(other in row for other in others)
        }
        missed = {name: ratio for name, ratio in ratios.items() if ratio > limit}
        said = ", ".join(f"{name} {ratio:.2f}" for name, ratio in missed.items())
        verdict = f"missed by {len(missed)} of {len(ratios)}: {said}" if missed else f"met by all {len(ratios)}"
        yield f"{words}: at most {limit} of {' and '.join(others)}: {verdict}"
    compensated = {
        name: row["compensated"] / row["ours"] for name, row in rows.items() if "compensated" in row and _both(name)
    }
    missed = {name: ratio for name, ratio in compensated.items() if ratio > 1.4}
    said = ", ".join(f"{name} {ratio:.2f}" for name, ratio in missed.items())
    yield f"both ways, compensated: at most 1.4 of the default: missed by {len(missed)} of {len(compensated)}: {said}"


def keep(rows: Rows, where: dict[str, Any], label: str, *, plotted: bool = True) -> None:
    """Write the numbers, and the plot if they are to be `plotted`."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": where, "rows": rows}, indent=1)
    (RESULTS / f"{label}.json").write_text(text + "\n")
    if plotted:
        plot(rows, RESULTS / f"{label}.png")


def plot(rows: Rows, path: Path) -> None:
    """Draw the ratio of ours to each library, for forward and backward together."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    shown = {name: row for name, row in rows.items() if name.endswith("forward+backward") and "compile" not in name}
    figure, axes = plt.subplots(figsize=(8, 0.35 * len(shown) + 1.5), layout="constrained")
    for library, marker in (("brainstate", "o"), ("flax", "s"), ("equinox", "^"), ("torch", "D")):
        at = [(row["ours"] / row[library], i) for i, row in enumerate(shown.values()) if library in row]
        if at:
            axes.scatter(*zip(*at, strict=True), marker=marker, label=library)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set(xscale="log", xlabel="our time / their time (left of the line: ours is faster)")
    axes.set_yticks(range(len(shown)), [name.removesuffix(" forward+backward") for name in shown])
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
