"""The figure: a raw sweep, the padded segments, the same segments normalized, and the learning curves."""

from pathlib import Path

import brainunit as u
import matplotlib.pyplot as plt
import numpy as np
import patch_clamp_data as data

from braindnorm import LayerNorm

PATH = Path(__file__).parents[1] / "build" / "figures" / "patch_clamp.png"
SWEEP = 7  # the one that is shown raw
LAYOUT = [["voltage", "voltage", "curves"], ["current", "current", "curves"], ["padded", "mask", "no mask"]]
# The curves of braindnorm without the mask and of brainstate.nn may lie on each other, so one is dashed.
LINES = {
    "braindnorm, mask": {"color": "#0072b2"},
    "braindnorm, no mask": {"color": "#e69f00"},
    "brainstate.nn, no units": {"color": "#a2336f", "linestyle": "--"},
    "no norm": {"color": "#555555"},
}


def draw(
    sweeps: data.Sweeps, segments: data.Segments, updates: np.ndarray, curves: dict, baseline: float, path: Path
) -> None:
    """Draw the figure and write it to a path; `curves` holds the accuracy (updates, seeds) of every arm."""
    style = {"font.size": 12, "axes.titlesize": 12, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        canvas, axes = plt.subplot_mosaic(LAYOUT, figsize=(15, 9), layout="constrained", height_ratios=[1.5, 0.7, 2.4])
        draw_sweep(axes["voltage"], axes["current"], sweeps)
        draw_curves(axes["curves"], updates, curves, baseline)
        draw_segments(axes, segments)
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, dpi=110)
        plt.close(canvas)


def draw_sweep(above, below, sweeps: data.Sweeps) -> None:
    """Draw the voltage and the current of one sweep over time."""
    time = np.arange(sweeps.voltage.shape[1]) * sweeps.dt
    above.plot(time.to_decimal(u.second), sweeps.voltage[SWEEP].to_decimal(u.mV), color="black", linewidth=0.6)
    below.plot(time.to_decimal(u.second), sweeps.current[SWEEP].to_decimal(u.pA), color="black", linewidth=0.6)
    above.axhline(data.THRESHOLD.to_decimal(u.mV), color="#d55e00", linewidth=1, linestyle=":", label="cut here")
    above.legend(loc="upper left", frameon=False)
    above.set(title=f"One sweep of cell {sweeps.cell_names[sweeps.cell[SWEEP]]}", ylabel="voltage (mV)")
    below.set(xlabel="time (s)", ylabel="current (pA)")
    above.sharex(below)
    above.tick_params(labelbottom=False)
    below.margins(x=0)
    below.figure.align_ylabels([above, below])


def draw_curves(axis, updates: np.ndarray, curves: dict, baseline: float) -> None:
    """Draw the mean over seeds of each arm's accuracy, with its standard deviation."""
    for name, accuracy in curves.items():
        mean, spread = accuracy.mean(axis=1), accuracy.std(axis=1, ddof=1)
        axis.plot(updates, mean, label=name, linewidth=2, **LINES[name])
        axis.fill_between(updates, mean - spread, mean + spread, color=LINES[name]["color"], alpha=0.15, linewidth=0)
    axis.axhline(baseline, color="black", linewidth=1, linestyle=":", label="least squares, 6 features")
    axis.set(title="Held-out sweeps", xlabel="update", ylabel="balanced accuracy", ylim=(0.3, 1.01))
    axis.margins(x=0)
    axis.legend(loc="lower right", frameon=False, fontsize=10)


def draw_segments(axes: dict, segments: data.Segments) -> None:
    """Draw the segments, longest below, as images: padded, and normalized with and without the mask."""
    voltage, mask = data.pad(segments, data.LONGEST)
    norm = LayerNorm(voltage.shape[-1], (-3, -1), unit=u.mV, out_unit=u.UNITLESS)
    order = np.argsort([len(piece) for piece in segments.pieces], kind="stable")
    extent = (0, data.LONGEST.to_decimal(u.ms), len(order), 0)

    def show(axis, values, label, title, **colours) -> None:
        rows = values.swapaxes(0, 1).reshape(len(order), -1)[order]
        picture = axis.imshow(rows, aspect="auto", extent=extent, interpolation="nearest", **colours)
        axis.set(title=title, xlabel="time since the spike (ms)")
        axis.figure.colorbar(picture, ax=axis, label=label, extend="both", pad=0.02)

    def without_padding(values) -> np.ma.MaskedArray:
        return np.ma.masked_array(values, ~mask)

    axes["padded"].set_ylabel("segment, by duration")
    padded = without_padding(voltage.to_decimal(u.mV))
    scores = {"vmin": -2, "vmax": 2, "cmap": "RdBu_r"}
    show(axes["padded"], padded, "voltage (mV)", "Segments, padded (grey)", vmin=-60, vmax=-20, cmap="viridis")
    show(axes["mask"], without_padding(norm(voltage, mask=mask)), "z-score", "Normalized with the mask", **scores)
    show(axes["no mask"], np.asarray(norm(voltage)), "z-score", "Normalized without the mask", **scores)
    for name in ("padded", "mask"):
        axes[name].set_facecolor("#bbbbbb")
