"""The recordings: loaded with their units, cut at the spikes, padded, masked, and split by sweep."""

from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import brainunit as u
import numpy as np

from braindnorm import masks

PATH = Path(__file__).parent / "data" / "patch_clamp.npz"
THRESHOLD = -20 * u.mV  # a spike is an upward crossing
SHORTEST, LONGEST = 10 * u.ms, 160 * u.ms
STEP = 1 * u.ms  # of the network
EVERY_SPLIT = tuple(product(range(5), range(5, 10)))  # one held-out sweep of each cell
# Trained and tested here: neither sweep is of its cell's weakest or strongest current, so that nothing is extrapolated.
SPLITS = ((1, 6), (2, 7), (3, 8))


@dataclass(frozen=True)
class Sweeps:
    """Current-clamp sweeps: voltage and current of shape (sweeps, samples), the cell (0 or 1) of each and its name."""

    voltage: u.Quantity
    current: u.Quantity
    cell: np.ndarray
    cell_names: tuple[str, ...]
    names: tuple[str, ...]
    dt: u.Quantity


@dataclass(frozen=True)
class Segments:
    """Interspike segments, each a piece of voltage, and the index of the sweep and of the cell it came from."""

    pieces: list[u.Quantity]
    sweep: np.ndarray
    cell: np.ndarray
    dt: u.Quantity

    @property
    def duration(self) -> u.Quantity:
        """How long each segment lasts."""
        return np.array([len(piece) for piece in self.pieces]) * self.dt


def load() -> Sweeps:
    """Read the ten sweeps of the cells B6 and B8."""
    with np.load(PATH) as file:
        cells, cell = np.unique(file["cell"], return_inverse=True)
        names = [f"{name}/{number}" for name, number in zip(file["cell"], file["sweep"], strict=True)]
        voltage, current = file["voltage_mV"] * u.mV, file["current_pA"] * u.pA
        return Sweeps(voltage, current, cell, tuple(cells), tuple(names), float(file["dt_ms"]) * u.ms)


def cut(sweeps: Sweeps) -> Segments:
    """Cut every sweep at its spikes and keep the segments of 10 to 160 ms."""
    pieces, origin = [], []
    for index, voltage in enumerate(sweeps.voltage):
        spikes = 1 + np.flatnonzero((voltage[:-1] < THRESHOLD) & (voltage[1:] >= THRESHOLD))
        for start, end in pairwise(spikes):
            if SHORTEST <= (end - start) * sweeps.dt <= LONGEST:
                pieces.append(voltage[start:end])
                origin.append(index)
    sweep = np.array(origin)
    return Segments(pieces, sweep, sweeps.cell[sweep], sweeps.dt)


def pad(segments: Segments, duration: u.Quantity) -> tuple[u.Quantity, np.ndarray]:
    """Pad the segments with 0 mV to one duration.

    Returns the voltage and the mask, of shape (steps, segments, samples per step): a step of the network is longer than
    a sample, and averaging over it would flatten the spike, so the samples of a step become its input channels.
    """
    per_step = round(float(STEP / segments.dt))
    num_steps = round(float(duration / STEP))
    lengths = np.array([len(piece) for piece in segments.pieces])
    mask = np.asarray(masks.from_lengths(lengths, num_steps * per_step)).T
    voltage = np.zeros(mask.shape, np.float32)
    voltage[mask] = np.concatenate([piece.to_decimal(u.mV) for piece in segments.pieces])
    shape = (len(lengths), num_steps, per_step)
    return voltage.reshape(shape).swapaxes(0, 1) * u.mV, mask.reshape(shape).swapaxes(0, 1)


def is_held_out(segments: Segments, split: tuple[int, int]) -> np.ndarray:
    """Tell which segments come from the held-out sweeps of a split."""
    return np.isin(segments.sweep, split)


def balanced_accuracy(predicted: np.ndarray, cell: np.ndarray) -> float:
    """Return the mean over cells of the fraction of their segments that was told right."""
    return float(np.mean([np.mean(predicted[cell == which] == which) for which in np.unique(cell)]))


def summary_features(segments: Segments) -> np.ndarray:
    """Return duration (ms), minimum, maximum, mean, standard deviation and median (mV) of each segment."""
    pieces = [np.asarray(piece.to_decimal(u.mV), np.float64) for piece in segments.pieces]
    statistics = [(p.min(), p.max(), p.mean(), p.std(), np.median(p)) for p in pieces]
    return np.column_stack([segments.duration.to_decimal(u.ms), statistics])


def baseline(segments: Segments, split: tuple[int, int]) -> float:
    """Return the balanced accuracy of least squares on the summary features, on the held-out sweeps of a split."""
    test = is_held_out(segments, split)
    features = summary_features(segments)
    design = np.column_stack([features, np.ones(len(features))])
    weights, *_ = np.linalg.lstsq(design[~test], 2.0 * segments.cell[~test] - 1, rcond=None)
    return balanced_accuracy(design[test] @ weights > 0, segments.cell[test])
