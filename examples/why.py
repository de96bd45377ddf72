"""Draw what a mask and careful arithmetic change on real recordings, and print by how much. It takes seconds.

Left, padding: one interspike segment, padded with zeros to 160 ms and normalized with and without its mask.
Right, precision: 10 ms of a neuron at rest, normalized in float32 by brainstate.nn and by braindnorm.
The recordings and their notice are in examples/data. Run it from anywhere with ``python examples/why.py``.
"""

import argparse
from pathlib import Path

import brainstate
import matplotlib.pyplot as plt
import numpy as np

import braindnorm
from braindnorm.masks import from_lengths

HERE = Path(__file__).parent
PATH = HERE.parent / "build" / "figures" / "why.png"
OURS, OTHER, TRUTH = "#0072b2", "#d55e00", "0.25"

LONGEST = 640  # samples: 160 ms
SHORTEST = 40  # samples: 10 ms
REST_ENDS = 2800  # samples: 0.7 s, when the current step begins


def interspike_segments(voltage):
    """Cut sweeps at the upward crossings of -20 mV; keep what lasts 10 to 160 ms."""
    segments = []
    for sweep in voltage:
        crossings = np.flatnonzero((sweep[:-1] < -20) & (sweep[1:] >= -20)) + 1
        pieces = np.split(sweep, crossings)[1:-1]
        segments += [piece for piece in pieces if SHORTEST <= len(piece) <= LONGEST]
    return segments


def padded(segments):
    batch = np.zeros((len(segments), LONGEST), np.float32)
    for row, segment in zip(batch, segments, strict=True):
        row[: len(segment)] = segment
    return batch


def exact(x):
    """Layer normalization of the last axis in float64."""
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def draw_padding(ax, voltage, dt):
    segments = interspike_segments(voltage)
    lengths = [len(segment) for segment in segments]
    batch, mask = padded(segments), from_lengths(lengths, LONGEST).T
    layer = braindnorm.LayerNorm(LONGEST)
    with_mask, without = layer(batch, mask=mask), layer(batch)
    rows = zip(np.asarray(without), lengths, segments, strict=True)
    error = np.mean([np.abs(row[:n] - exact(segment)).mean() for row, n, segment in rows])

    shown = int(np.argsort(lengths)[len(lengths) // 2])
    time = np.arange(LONGEST) * dt
    n = lengths[shown]
    alone = exact(segments[shown])
    ax.axvspan(time[n], time[-1], color="0.93", lw=0)
    ax.text(50, -2.2, f"padding, to {LONGEST * dt:.0f} ms", color="0.4", ha="center")
    ax.plot(time[:n], alone, color=TRUTH, lw=5, alpha=0.35, label="the segment alone, float64")
    ax.plot(time, with_mask[shown], color=OURS, label="padded, with the mask")
    ax.plot(time, without[shown], color=OTHER, label="padded, without")
    ax.set(xlabel="time (ms)", ylabel="normalized voltage", xlim=(0, 70))
    ax.set_title(f"An interspike segment of {n * dt:.0f} ms, padded")
    ax.legend(loc="upper right", frameon=False)
    return error


def draw_precision(ax, voltage, dt):
    rest = voltage[:, :REST_ENDS].reshape(-1, SHORTEST)
    ours = np.asarray(braindnorm.LayerNorm(SHORTEST)(rest))
    theirs = np.asarray(brainstate.nn.LayerNorm(SHORTEST)(rest))
    off_ours, off_theirs = (np.abs(z - exact(rest)).max(-1) for z in (ours, theirs))

    shown = int(off_theirs.argmax())
    time = np.arange(SHORTEST) * dt
    ax.plot(time, exact(rest[shown]), color=TRUTH, lw=5, alpha=0.35, label="float64")
    ax.plot(time, ours[shown], color=OURS, label="braindnorm, float32")
    ax.plot(time, theirs[shown], color=OTHER, label="brainstate.nn, float32")
    ax.set(xlabel="time (ms)", xlim=(0, time[-1]), ylim=(-5, 9))
    ax.set_title(f"At rest: \N{MINUS SIGN}{-rest[shown].mean():.1f} mV, spread {rest[shown].std():.2f} mV")
    ax.legend(loc="upper right", frameon=False)
    return off_ours, off_theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=PATH, help="where the figure goes (%(default)s)")
    picture = parser.parse_args().figure
    data = np.load(HERE / "data" / "patch_clamp.npz")
    voltage, dt = data["voltage_mV"], float(data["dt_ms"])
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained", width_ratios=(3, 2))
    unmasked = draw_padding(left, voltage, dt)
    off_ours, off_theirs = draw_precision(right, voltage, dt)
    picture.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(picture, dpi=150)
    print(f"without the mask: wrong by {unmasked:.1f} standard deviations, mean over all segments")
    for name, off in (("braindnorm", off_ours), ("brainstate", off_theirs)):
        print(f"{name}, {len(off)} windows: off by at most {off.max():.1g}, median {np.median(off):.1g}")
    print(f"The figure is in {picture}.")


if __name__ == "__main__":
    main()
