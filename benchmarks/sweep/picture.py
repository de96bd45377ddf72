"""The worst cells as a table, and the worst ratio of each two choices as a heat map."""

import math
from typing import Any

from ..report import RESULTS
from .cells import AXES, INSIDE, KINDS, MASKS, SHAPES, Cell

Found = dict[tuple[Cell, str], dict[str, float]]
SHOWN = 25
# rows and columns of each picture: which choice of a cell, and its values
PICTURES: tuple[tuple[str, tuple[Any, ...], str, tuple[Any, ...]], ...] = (
    ("transform", tuple(INSIDE), "axes", tuple(AXES)),
    ("mask", tuple(MASKS), "axes", tuple(AXES)),
    ("kind", KINDS, "axes", tuple(AXES)),
    ("transform", tuple(INSIDE), "shape", SHAPES),
    ("mask", tuple(MASKS), "shape", SHAPES),
)


def ratio(times: dict[str, float], prefix: str = "") -> float:
    """Return our time over that of the faster of the others."""
    return times[f"{prefix}ours"] / min(
        times[prefix + name] for name in ("naive", "brainstate") if prefix + name in times
    )


def report(found: Found, label: str) -> None:
    """Print the worst cells, and keep the picture as `label`."""
    worst = sorted(found.items(), key=lambda item: -ratio(item[1]))
    for (cell, way), times in worst[:SHOWN]:
        print(f"{ratio(times):6.2f}  {cell}, {way}; compilation {ratio(times, 'compile '):.2f}")
    for way in ("forward", "both ways"):
        for prefix, limit in (("", 1.1), ("compile ", 1.3)):
            ratios = sorted(ratio(times, prefix) for (_, w), times in found.items() if w == way)
            if ratios:
                above = sum(r > limit for r in ratios)
                middle = ratios[len(ratios) // 2]
                print(f"{way} {prefix}: median {middle:.2f}, {above} of {len(ratios)} cells above {limit}")
    draw(found, label)


def draw(found: Found, label: str) -> None:
    """Draw the worst ratio of each two choices, forward on the left and both ways on the right."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import TwoSlopeNorm

    figure, panels = plt.subplots(len(PICTURES), 2, figsize=(15, 4 * len(PICTURES)), layout="constrained")
    for (row, rows, column, columns), pair in zip(PICTURES, panels, strict=True):
        for panel, way in zip(pair, ("forward", "both ways"), strict=True):
            table = [[_worst(found, way, {row: r, column: c}) for c in columns] for r in rows]
            logs = [[math.log2(v) if v else math.nan for v in line] for line in table]
            panel.imshow(logs, cmap="RdBu_r", norm=TwoSlopeNorm(0, -2, 2), aspect="auto")
            panel.set_xticks(range(len(columns)), [_name(c) for c in columns], rotation=30, ha="right")
            panel.set_yticks(range(len(rows)), [_name(r) for r in rows])
            panel.set_title(f"{way}: our time / the faster of naive and brainstate.nn, worst cell", fontsize=9)
            for i, line in enumerate(table):
                for j, v in enumerate(line):
                    panel.text(j, i, f"{v:.2f}" if v else "", ha="center", va="center", fontsize=8)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{label}.png", dpi=80)
    plt.close(figure)


def _worst(found: Found, way: str, choice: dict[str, Any]) -> float:
    some = (t for (cell, w), t in found.items() if w == way and all(getattr(cell, k) == v for k, v in choice.items()))
    return max(map(ratio, some), default=0.0)


def _name(choice: Any) -> str:
    return choice if isinstance(choice, str) else "x".join(map(str, choice))
