"""Show and keep what was measured: a table of ratios, a file of numbers, a plot."""

import json
import os
import platform
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
    others = [f"{other} {mine / t:.2f}" for other, t in times.items() if other not in ("ours", "rounds kept") and t]
    return f"{name:46s} {mine * factor:10.0f} {unit}   " + "   ".join(others)


def keep(rows: Rows, where: dict[str, Any], label: str) -> None:
    """Write the numbers and the plot."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": where, "rows": rows}, indent=1)
    (RESULTS / f"{label}.json").write_text(text + "\n")
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
