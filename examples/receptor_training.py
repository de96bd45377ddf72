"""Train the receptor's network by truncated backpropagation, and score it on every part of the recordings."""

from typing import NamedTuple

import brainstate
import brainunit as u
import numpy as np
import optax
import receptor_data as data
from receptor_network import ARMS, Receptor
from tqdm import tqdm

EPOCHS, BATCH = 160, 16
WINDOW, WINDOWS = 100, 8  # steps of one window of truncated backpropagation, windows of one epoch
EVERY = 10  # epochs between two looks at the scores
LEARNING_RATE = 5e-3


class Run(NamedTuple):
    """One training: at each look, the scores (looks, parts, 2) and the rates predicted for the test recording."""

    scores: np.ndarray
    rates: list[u.Quantity]


class Trainer:
    """One network, compiled once and trained anew from each seed."""

    def __init__(self, arm: str, neurons: int, recordings: list[data.Recording]):
        self.arm, self.neurons, self.recordings = arm, neurons, recordings
        self.network = Receptor(ARMS[arm], neurons)
        brainstate.nn.init_all_states(self.network, batch_size=BATCH)
        self.parameters = self.network.states(brainstate.ParamState)
        decay = optax.cosine_decay_schedule(LEARNING_RATE, EPOCHS * (WINDOWS - 1))
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(decay))
        self.moments = brainstate.ShortTermState(self.optimizer.init(self.parameters.to_dict_values()))
        self.learn = brainstate.transform.jit(self._learn)
        self.listen = brainstate.transform.jit(self._listen)
        share = BATCH // len(recordings)
        self.sound = u.math.concatenate([data.pieces(r, share, WINDOW) for r in recordings], axis=1)

    def train(self, seed: int, bar: tqdm) -> Run:
        """Train from one seed."""
        self._start(seed)
        rng = np.random.default_rng(seed)
        run = Run([], [])
        for epoch in range(1, EPOCHS + 1):
            self._epoch(rng)
            bar.update()
            if epoch % EVERY == 0:
                rates = self.predict()
                run.scores.append(data.scores(rates, self.recordings))
                run.rates.append(rates[data.PARTS["test"][0]])
        return run._replace(scores=np.stack(run.scores))

    def predict(self) -> list[u.Quantity]:
        """Return the predicted rate of each recording, (T,)."""
        brainstate.nn.reset_all_states(self.network, batch_size=BATCH)
        rates = self.listen(self.sound)[WINDOW:]
        return [rate.T.flatten() for rate in u.math.split(rates, len(self.recordings), axis=1)]

    def _start(self, seed: int) -> None:
        """Take the first parameters of a network with this seed."""
        with brainstate.random.seed_context(seed):
            other = Receptor(ARMS[self.arm], self.neurons).states(brainstate.ParamState)
        for path, state in other.items():
            self.parameters[path].value = state.value
        self.moments.value = self.optimizer.init(self.parameters.to_dict_values())

    def _epoch(self, rng: np.random.Generator) -> None:
        """Learn from a batch of excerpts, window by window; the first window only fills the states."""
        recording, steps = self.excerpts(rng)
        brainstate.nn.reset_all_states(self.network, batch_size=BATCH)
        for number, window in enumerate(np.split(steps, WINDOWS)):
            if number:
                self.learn(recording.sound[window], recording.spikes[window])
            else:
                self.listen(recording.sound[window])

    def excerpts(self, rng: np.random.Generator) -> tuple[data.Recording, np.ndarray]:
        """Draw a batch of excerpts of the training part: the recording and the steps, (WINDOW * WINDOWS, BATCH)."""
        number, part = data.PARTS["training"]
        starts = rng.integers(part.start, part.stop - WINDOW * WINDOWS + 1, BATCH)
        return self.recordings[number], starts + np.arange(WINDOW * WINDOWS)[:, None]

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
