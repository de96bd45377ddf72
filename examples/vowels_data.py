"""The Japanese vowels: read from the wheel of aeon, padded, masked, cut into batches; and what is quick to beat.

Nine speakers say /ae/. An utterance is 7 to 29 frames of 12 LPC cepstrum coefficients, a frame every 6.4 ms; 270 of
them are for training and 370 for testing (M. Kudo, J. Toyama and M. Shimbo 1999, Multidimensional curve classification
using passing-through regions, Pattern Recognition Letters 20, 1103). The wheel of aeon holds the files. It is
downloaded, and nothing of it is installed or imported.
"""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import brainunit as u
import numpy as np

from braindnorm import masks

FOLDER = Path(__file__).parents[1] / "build" / "data"
PACKAGE = "aeon==1.6.0"
MEMBER = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"
FRAME = 6.4 * u.ms
CHANNELS, SPEAKERS, LONGEST = 12, 9, 29
PUBLISHED = {"passing-through regions (Kudo et al. 1999)": 0.941, "hidden Markov model, 5 states (there)": 0.962}


class Utterances(NamedTuple):
    """Utterances, each (frames, CHANNELS), and their speakers from 0."""

    frames: list[np.ndarray]
    speaker: np.ndarray


class Batches(NamedTuple):
    """Padded utterances in batches: (batches, T, batch, CHANNELS), whether they are valid, and the speakers."""

    x: np.ndarray
    mask: np.ndarray
    speaker: np.ndarray


def wheel(path: Path | None = None) -> Path:
    """Return the wheel: the given one, one that is there already, or one that pip downloads (6 MB)."""
    if path is not None:
        return path
    found = sorted(FOLDER.glob("aeon-*.whl"))
    if not found:
        print(f"Downloading {PACKAGE}, whose wheel holds the recordings, to {FOLDER}", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", PACKAGE]
        try:
            subprocess.run([*command, "--dest", str(FOLDER)], check=True)
        except subprocess.CalledProcessError:
            sys.exit(f"pip could not download {PACKAGE}. Get its wheel elsewhere, and write --wheel path/to/it.whl")
        found = sorted(FOLDER.glob("aeon-*.whl"))
    return found[0]


def load(path: Path) -> tuple[Utterances, Utterances]:
    """Read the utterances for training, and those for testing."""
    with zipfile.ZipFile(path) as archive:
        return tuple(parse(archive.read(MEMBER.format(part)).decode()) for part in ("TRAIN", "TEST"))


def parse(text: str) -> Utterances:
    """Read a .ts file: an utterance a line, the channels between colons, the speaker last."""
    lines = [line.split(":") for line in text.splitlines() if line and line[0] not in "#@"]
    frames = [np.array([channel.split(",") for channel in channels], np.float32).T for *channels, _ in lines]
    return Utterances(frames, np.array([int(speaker) - 1 for *_, speaker in lines]))


def scaled(utterances: Utterances, by: Utterances) -> Utterances:
    """Bring every channel to mean 0 and standard deviation 1 over all frames of another set."""
    frames = np.concatenate(by.frames)
    mean, spread = frames.mean(axis=0), frames.std(axis=0)
    return utterances._replace(frames=[(one - mean) / spread for one in utterances.frames])


def batches(utterances: Utterances, order: np.ndarray, size: int, steps: int = LONGEST) -> Batches:
    """Pad the utterances with 0 and cut them into batches; the last one is filled up from the start."""
    order = np.resize(order, -(-len(order) // size) * size)
    frames = [utterances.frames[index] for index in order]
    mask = np.asarray(masks.from_lengths([len(one) for one in frames], steps)).T  # (utterances, T)
    x = np.zeros((*mask.shape, CHANNELS), np.float32)
    x[mask] = np.concatenate(frames)
    cut = [array.reshape(-1, size, *array.shape[1:]).swapaxes(1, 2) for array in (x, mask[..., None])]
    return Batches(*cut, utterances.speaker[order].reshape(-1, size))


def nearest_centroid(train: Utterances, test: Utterances) -> float:
    """Return the accuracy of the nearest mean, of the means of the utterances."""
    means, unknown = (np.stack([one.mean(axis=0) for one in part.frames]) for part in (train, test))
    centroids = np.stack([means[train.speaker == speaker].mean(axis=0) for speaker in range(SPEAKERS)])
    distance = ((unknown[:, None] - centroids) ** 2).sum(axis=-1)
    return float((distance.argmin(axis=1) == test.speaker).mean())
