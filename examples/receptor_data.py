"""The recordings of a grasshopper's auditory receptor, and how a prediction of its spikes is scored.

Two recordings of 10 s: the sound amplitude (a 2.5 kHz carrier with a random envelope up to 200 Hz in the first, 800 Hz
in the second) and the times of the spikes. They ship with nitime (BSD) and come from the data set ia-1 of crcns.org
(A. Rokem, S. Watzl, T. Gollisch, M. Stemmler, A. V. M. Herz, I. Samengo, 2009, doi:10.6080/K0WP9SD4).
"""

from importlib.resources import files
from typing import NamedTuple

import brainunit as u
import jax.numpy as jnp
import numpy as np

STEP = 0.5 * u.ms
DURATION = 10_000 * u.ms
CHANNELS, FIRST, LAST = 12, 1 * u.ms, 15 * u.ms  # how many smooth windows on the past sound, and their centres
TRAINING = 7_500 * u.ms  # of the first recording; the rest of it, the validation part, says which network is taken
SMOOTH = 5 * u.ms  # the standard deviation of the Gaussian that makes a rate of spikes


PARTS = {  # which recording, and which of its steps
    "training": (0, slice(0, round(TRAINING / STEP))),
    "validation": (0, slice(round(TRAINING / STEP), None)),
    "test": (1, slice(None)),
}


class Recording(NamedTuple):
    """One recording in time steps: the sound through each window on the past, (T, CHANNELS), and the spikes (T,)."""

    sound: u.Quantity
    spikes: np.ndarray


def load(number: int) -> Recording:
    """Read recording 1 or 2."""
    folder = files("nitime") / "data"
    with (folder / f"grasshopper_stimulus{number}.txt").open() as file:
        amplitude = np.loadtxt(file, usecols=1)
    with (folder / f"grasshopper_spike_times{number}.txt").open() as file:
        times = np.loadtxt(file) * u.us
    steps = round(DURATION / STEP)
    binned = amplitude.reshape(steps, -1).mean(axis=1)
    sound = np.stack([np.convolve(binned, window)[:steps] for window in windows()], axis=1)
    spikes = np.bincount((times / STEP).astype(int), minlength=steps)
    return Recording(jnp.asarray(sound, jnp.float32) * u.pascal, spikes.astype(np.float32))


def windows() -> np.ndarray:
    """Return raised cosines in the logarithm of the lag, (CHANNELS, lags), each with a sum of 1.

    They are smooth, so that what is learned from slow sound has a meaning for fast sound too (J. W. Pillow et al. 2008,
    doi:10.1038/nature07140).
    """
    lags = np.log(np.arange(1, round(2 * LAST / STEP)))
    centres = np.linspace(np.log(float(FIRST / STEP)), np.log(float(LAST / STEP)), CHANNELS)
    phase = np.clip((lags - centres[:, None]) / (centres[1] - centres[0]), -2, 2) * np.pi / 2
    bumps = 1 + np.cos(phase)
    return bumps / bumps.sum(axis=1, keepdims=True)


def pieces(recording: Recording, number: int, before: int) -> u.Quantity:
    """Cut the sound into pieces to hear side by side, each with some steps before it: (steps, number, CHANNELS)."""
    length = len(recording.spikes) // number
    steps = np.arange(-before, length)[:, None] + length * np.arange(number)
    return recording.sound[np.maximum(steps, 0)]


def log_likelihood(rate: u.Quantity, spikes: np.ndarray) -> float:
    """Return the log-likelihood of spikes under a Poisson process of this rate, in nats a step."""
    expected = u.maybe_decimal(rate * STEP)
    return jnp.mean(spikes * jnp.log(expected) - expected)


def bits_per_spike(rate: u.Quantity, spikes: np.ndarray) -> float:
    """Return how many bits per spike the rate says more than the best constant rate does."""
    constant = jnp.full(spikes.shape, spikes.mean()) / STEP
    gained = log_likelihood(rate, spikes) - log_likelihood(constant, spikes)
    return float(gained / spikes.mean() / np.log(2))


def smooth(signal: np.ndarray) -> np.ndarray:
    """Smooth over time with a Gaussian."""
    width = float(SMOOTH / STEP)
    kernel = np.exp(-0.5 * (np.arange(-4 * width, 4 * width + 1) / width) ** 2)
    return np.convolve(signal, kernel / kernel.sum(), mode="same")


def correlation(rate: u.Quantity, spikes: np.ndarray) -> float:
    """Return the correlation of the predicted with the recorded rate, both smoothed."""
    return float(np.corrcoef(smooth(np.asarray(rate.to_decimal(u.Hz))), smooth(spikes))[0, 1])


def scores(rates: list[u.Quantity], recordings: list[Recording]) -> np.ndarray:
    """Return bits per spike and correlation of the rates predicted for both recordings, on each part: (PARTS, 2)."""
    cut = [(rates[number][steps], recordings[number].spikes[steps]) for number, steps in PARTS.values()]
    return np.array([[bits_per_spike(*pair), correlation(*pair)] for pair in cut])
