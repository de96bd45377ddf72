"""The figure of the receptor: the sound, the recorded and predicted spikes, the learning curves."""

from pathlib import Path

import brainunit as u
import matplotlib.pyplot as plt
import numpy as np
from receptor_data import STEP, Recording

PATH = Path(__file__).parent / "figures" / "receptor.png"
EXCERPT = slice(6000, 6600)  # 300 ms
DRAWS = 6  # predicted spike trains of each arm
COLORS = {"braindnorm": "#c0392b", "no norm": "#7f8c8d", "brainstate.nn, no units": "#2471a3"}


def draw(recording: Recording, rates: dict, curves: dict, epochs: int, path: Path = PATH) -> None:
    """Draw the test recording with the first seed's predictions, and the bits per spike of every seed."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(9, 6.5), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=[1, 1.7, 1.8])
    time = np.arange(EXCERPT.stop - EXCERPT.start) * STEP.to_decimal(u.ms)
    sound = figure.add_subplot(grid[0, :])
    sound.plot(time, recording.sound[EXCERPT, 0].to_decimal(u.mpascal), color="black", lw=0.8)
    sound.set(ylabel="amplitude (mPa)", title="Sound, recorded and predicted spikes of the test recording")
    sound.tick_params(labelbottom=False)
    _raster(figure.add_subplot(grid[1, :], sharex=sound), time, recording, rates)
    panels = [figure.add_subplot(grid[2, 0])]
    panels.append(figure.add_subplot(grid[2, 1], sharey=panels[0]))
    for number, (panel, title) in enumerate(
        zip(panels, ("Trained on: recording 1", "Tested on: recording 2"), strict=True)
    ):
        _curves(panel, curves, number, epochs)
        panel.set(title=title, xlabel="epoch")
    panels[0].set_ylabel("bits per spike\nover a constant rate")
    panels[1].legend(frameon=False, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _raster(axes, time: np.ndarray, recording: Recording, rates: dict) -> None:
    """Draw the recorded spikes, and spike trains drawn from each predicted rate."""
    rng = np.random.default_rng(0)
    axes.eventplot(time[recording.spikes[EXCERPT] > 0], lineoffsets=0, linelengths=1.6, colors="black")
    ticks, labels, offset = [0], ["recorded"], -1.6
    for arm, rate in rates.items():
        chance = np.asarray(u.maybe_decimal(rate[EXCERPT] * STEP))
        trains = [time[rng.random(len(time)) < chance] for _ in range(DRAWS)]
        offsets = offset - 0.7 * np.arange(DRAWS)
        axes.eventplot(trains, lineoffsets=offsets, linelengths=0.55, linewidths=1.1, colors=COLORS[arm])
        ticks.append(offsets.mean())
        labels.append(arm)
        offset = offsets[-1] - 1.2
    axes.set(yticks=ticks, yticklabels=labels, xlabel="time (ms)", xlim=(0, time[-1]))
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)


def _curves(axes, curves: dict, number: int, epochs: int) -> None:
    """Draw each seed thinly and their mean boldly."""
    for arm, scores in curves.items():
        checks = epochs / scores.shape[1] * np.arange(1, scores.shape[1] + 1)
        axes.plot(checks, scores[:, :, number].T, color=COLORS[arm], lw=0.6, alpha=0.6)
        axes.plot(checks, scores[:, :, number].mean(0), color=COLORS[arm], lw=2, label=arm)
    axes.axhline(0, color="black", lw=0.6, ls=":")  # the best constant rate
    axes.set_xlim(0, epochs)
