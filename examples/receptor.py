"""Predict the spikes of a grasshopper's auditory receptor from the sound, with a recurrent spiking network.

The network is trained on one recording by truncated backpropagation through time and tested on the other, whose sound
fluctuates four times as fast: with braindnorm (divisive gain control in Pa, currents normalized in nA), without norms,
and with brainstate.nn after the units are stripped. Run it with ``make demo-receptor``.
"""

import argparse
from pathlib import Path

import brainstate
import brainunit as u
import numpy as np
import optax
import receptor_data as data
import receptor_figure as figure
from receptor_network import ARMS, Receptor
from tqdm import tqdm

SEEDS = 3
TRAIN = 0  # which recording is trained on; the other one is scored alone, and never enters training
EPOCHS, BATCH = 160, 16
WINDOW, WINDOWS = 100, 8  # steps of one window of truncated backpropagation, windows of one epoch
CHECKS = 8  # how often the scores are taken on the way
LEARNING_RATE = 5e-3
HEADER = """\
| mean +- s.d. of the seeds | trained on, bits/spike | correlation     | tested on, bits/spike | correlation     |
| ------------------------- | ---------------------- | --------------- | --------------------- | --------------- |"""


class Trainer:
    """One network, compiled once and trained anew from each seed."""

    def __init__(self, arm: str, recordings: list[data.Recording]):
        self.arm, self.recordings = arm, recordings
        self.network = Receptor(ARMS[arm])
        brainstate.nn.init_all_states(self.network, batch_size=BATCH)
        self.parameters = self.network.states(brainstate.ParamState)
        decay = optax.cosine_decay_schedule(LEARNING_RATE, EPOCHS * (WINDOWS - 1))
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(decay))
        self.moments = brainstate.ShortTermState(self.optimizer.init(self.parameters.to_dict_values()))
        self.learn = brainstate.transform.jit(self._learn)
        self.listen = brainstate.transform.jit(self._listen)
        share = BATCH // len(recordings)
        self.sound = u.math.concatenate([data.pieces(r, share, WINDOW) for r in recordings], axis=1)

    def train(self, seed: int, bar: tqdm) -> tuple[np.ndarray, list]:
        """Train from one seed; return bits per spike at each check, (checks, recordings), and the last rates."""
        self._start(seed)
        rng = np.random.default_rng(seed)
        curve = []
        for epoch in range(EPOCHS):
            self._epoch(rng)
            bar.update()
            if (epoch + 1) % (EPOCHS // CHECKS) == 0:
                rates = self.predict()
                scores = zip(rates, self.recordings, strict=True)
                curve.append([data.bits_per_spike(rate, recording.spikes) for rate, recording in scores])
        return np.array(curve), rates

    def predict(self) -> list[u.Quantity]:
        """Return the predicted rate of each recording, (T,)."""
        brainstate.nn.reset_all_states(self.network, batch_size=BATCH)
        rates = self.listen(self.sound)[WINDOW:]
        return [rate.T.flatten() for rate in u.math.split(rates, len(self.recordings), axis=1)]

    def _start(self, seed: int) -> None:
        """Take the first parameters of a network with this seed."""
        with brainstate.random.seed_context(seed):
            other = Receptor(ARMS[self.arm]).states(brainstate.ParamState)
        for path, state in other.items():
            self.parameters[path].value = state.value
        self.moments.value = self.optimizer.init(self.parameters.to_dict_values())

    def _epoch(self, rng: np.random.Generator) -> None:
        """Learn from a batch of excerpts, window by window; the first window only fills the states."""
        recording = self.recordings[TRAIN]
        starts = rng.integers(0, len(recording.spikes) - WINDOW * WINDOWS, BATCH)
        brainstate.nn.reset_all_states(self.network, batch_size=BATCH)
        for window in range(WINDOWS):
            steps = starts + WINDOW * window + np.arange(WINDOW)[:, None]
            if window:
                self.learn(recording.sound[steps], recording.spikes[steps])
            else:
                self.listen(recording.sound[steps])

    def _listen(self, sound: u.Quantity) -> u.Quantity:
        with brainstate.environ.context(dt=data.STEP):
            return brainstate.transform.for_loop(self.network, sound)

    def _learn(self, sound: u.Quantity, spikes: np.ndarray) -> None:
        """Take one step; the gradient stops where the window begins."""

        def loss():
            return -data.log_likelihood(self._listen(sound), spikes)

        gradients = brainstate.transform.grad(loss, self.parameters)()
        values = self.parameters.to_dict_values()
        steps, self.moments.value = self.optimizer.update(dict(gradients), self.moments.value, values)
        self.parameters.assign_dict_values(optax.apply_updates(values, steps))


def row(arm: str, curves: np.ndarray, rates: list, recordings: list[data.Recording]) -> str:
    """Return a line of the table: the mean over the seeds and their standard deviation."""
    cells = []
    for number, recording in enumerate(recordings):
        bits = curves[:, -1, number]
        correlations = [data.correlation(rate[number], recording.spikes) for rate in rates]
        for values, width in ((bits, 22 - number), (correlations, 15)):
            cells.append(f"{np.mean(values):.3f} +- {np.std(values):.3f}".ljust(width))
    return f"| {arm:<25} | " + " | ".join(cells) + " |"


def main() -> None:
    """Train every arm from every seed, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path, default=figure.PATH, help="where the figure goes")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    recordings = [data.load(1), data.load(2)]
    curves, rates, rows = {}, {}, []
    with tqdm(total=len(ARMS) * arguments.seeds * EPOCHS, unit="epoch") as bar:
        for arm in ARMS:
            trainer = Trainer(arm, recordings)
            runs = []
            for seed in range(arguments.seeds):
                bar.set_description(f"{arm}, seed {seed}")
                runs.append(trainer.train(seed, bar))
            curves[arm] = np.array([curve for curve, _ in runs])
            rates[arm] = runs[0][1]
            rows.append(row(arm, curves[arm], [found for _, found in runs], recordings))
    print(HEADER, *rows, sep="\n")
    figure.draw(recordings[1], {arm: found[1] for arm, found in rates.items()}, curves, EPOCHS, arguments.figure)
    print(f"The figure is in {arguments.figure}.")


if __name__ == "__main__":
    main()
