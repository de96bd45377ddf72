"""The figure of the receptor: the sound, the recorded and predicted spikes, the learning curves."""

from pathlib import Path

import brainunit as u
import matplotlib.pyplot as plt
import numpy as np
from receptor_data import PARTS, STEP, Recording

PATH = Path(__file__).parents[1] / "build" / "figures" / "receptor.png"
EXCERPT = slice(6000, 6600)  # 300 ms
DRAWS = 6  # predicted spike trains of each arm
COLORS = {"braindnorm": "#c0392b", "no norm": "#7f8c8d", "brainstate.nn, no units": "#2471a3"}


def draw(recording: Recording, arms: dict, every: int, path: Path = PATH) -> None:
    """Draw the test recording with the first seed's predictions, and the bits per spike of every seed on each part.

    Of each arm: which look was chosen, and the runs. There are `every` epochs between two looks.
    """
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(9, 6.5), layout="constrained")
    grid = figure.add_gridspec(3, len(PARTS), height_ratios=[1, 1.7, 1.8])
    time = np.arange(EXCERPT.stop - EXCERPT.start) * STEP.to_decimal(u.ms)
    sound = figure.add_subplot(grid[0, :])
    sound.plot(time, recording.sound[EXCERPT, 0].to_decimal(u.mpascal), color="black", lw=0.8)
    sound.set(ylabel="amplitude (mPa)", title="Sound, recorded and predicted spikes of the test recording")
    sound.tick_params(labelbottom=False)
    rates = {arm: runs[0].rates[look] for arm, (look, runs) in arms.items()}
    _raster(figure.add_subplot(grid[1, :], sharex=sound), time, recording, rates)
    panels = []
    for number, part in enumerate(PARTS):
        panels.append(figure.add_subplot(grid[2, number], sharey=panels[0] if panels else None))
        _curves(panels[-1], arms, number, every)
        panels[-1].set(title=f"{part.capitalize()} part" if number < 2 else "Test recording", xlabel="epoch")
    panels[0].set_ylabel("bits per spike\nover a constant rate")
    panels[-1].legend(frameon=False, loc="upper right")
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


def _curves(axes, arms: dict, number: int, every: int) -> None:
    """Draw each seed thinly and their mean boldly, with a dot where training was stopped."""
    for arm, (look, runs) in arms.items():
        bits = np.array([run.scores[:, number, 0] for run in runs])
        epochs = every * np.arange(1, bits.shape[1] + 1)
        axes.plot(epochs, bits.T, color=COLORS[arm], lw=0.6, alpha=0.4)
        axes.plot(epochs, bits.mean(0), color=COLORS[arm], lw=2, label=arm)
        axes.plot(epochs[look], bits.mean(0)[look], "o", color=COLORS[arm])
    axes.axhline(0, color="black", lw=0.6, ls=":")  # the best constant rate
    axes.set_xlim(0, epochs[-1] + every / 2)
