"""The figure of the vowels: utterances and their padding, the accuracy in every way to test, spikes when folded."""

from pathlib import Path

import brainunit as u
import matplotlib.pyplot as plt
import numpy as np
import vowels_data as data

PATH = Path(__file__).parents[1] / "build" / "figures" / "vowels.png"
COLORS = ["#0072b2", "#56b4e9", "#e69f00", "#a2336f", "#009e73", "#555555"]
LAYOUT = [["padded", "padded", "spikes", "spikes"], ["evaluation", "evaluation", "training", "training"]]


def draw(test: data.Utterances, accuracy: dict, ways: list[str], phases: list[str], spikes: tuple, path: Path) -> None:
    """Draw the figure; `accuracy` holds (seeds, phases, ways) of every arm, `spikes` those of one utterance, twice."""
    style = {"font.size": 10, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        canvas, axes = plt.subplot_mosaic(LAYOUT, figsize=(11, 7), layout="constrained", height_ratios=[1, 1.2])
        draw_padding(axes["padded"], test)
        draw_spikes(axes["spikes"], *spikes)
        for number, phase in enumerate(phases):
            draw_accuracy(axes[phase], {arm: found[:, number] for arm, found in accuracy.items()}, ways)
            axes[phase].set(title=f"Accuracy in {phase} mode", ylabel="test utterances told right")
        canvas.legend(*axes["training"].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, dpi=110)
        plt.close(canvas)


def draw_padding(axis, test: data.Utterances) -> None:
    """Draw the first coefficient of every test utterance, the shortest on top."""
    order = np.argsort([len(frames) for frames in test.frames], kind="stable")
    picture = np.full((len(order), data.LONGEST), np.nan)
    for row, index in enumerate(order):
        picture[row, : len(test.frames[index])] = test.frames[index][:, 0]
    end = (data.LONGEST * data.FRAME).to_decimal(u.ms)
    image = axis.imshow(picture, aspect="auto", extent=(0, end, len(order), 0), vmin=-2, vmax=2, cmap="RdBu_r")
    axis.set(title="First coefficient of the test utterances, padding grey", xlabel="time (ms)", ylabel="utterance")
    axis.set_facecolor("#bbbbbb")
    axis.figure.colorbar(image, ax=axis, label="z-score", extend="both", pad=0.02)


def draw_spikes(axis, before: np.ndarray, after: np.ndarray) -> None:
    """Draw the spikes of one utterance (time, neurons) of the model with its norms, and of the folded one."""
    for spikes, marker, label in ((before, "o", "with norms"), (after, "|", "folded")):
        time, neuron = np.nonzero(spikes)
        faces = {"facecolors": "none", "edgecolors": "#0072b2"} if marker == "o" else {"color": "black"}
        axis.scatter(time * data.FRAME.to_decimal(u.ms), neuron, s=22, marker=marker, lw=0.8, label=label, **faces)
    axis.set(title="Spikes of the last layer for one utterance", xlabel="time (ms)", ylabel="neuron")
    axis.set_ylim(-2, before.shape[1] + 10)
    axis.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)


def draw_accuracy(axis, accuracy: dict, ways: list[str]) -> None:
    """Draw a group of bars for each way to test, a bar for each arm and a dot for each seed."""
    width = 0.8 / len(accuracy)
    for number, (arm, found) in enumerate(accuracy.items()):
        places = np.arange(len(ways)) + (number - (len(accuracy) - 1) / 2) * width
        axis.bar(places, found.mean(axis=0), width * 0.9, color=COLORS[number], label=arm)
        axis.plot(np.broadcast_to(places, found.shape), found, ".", color="black", ms=2)
    axis.axhline(1 / data.SPEAKERS, color="black", lw=0.8, ls=":")  # chance
    axis.set(xticks=range(len(ways)), xticklabels=ways, ylim=(0, 1.02))
