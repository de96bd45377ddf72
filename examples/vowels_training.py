"""Training, and the accuracy in both phases, in batches, one by one, and with twice the padding."""

from typing import NamedTuple

import brainstate
import numpy as np
import optax
import vowels_data as data
from tqdm import tqdm
from vowels_network import ARMS, Network

EPOCHS, BATCH = 30, 32
LEARNING_RATE = 5e-3
# how the test utterances come: how many at once, padded to how many steps
WAYS = {
    "batch 32": (BATCH, data.LONGEST),
    "batch 1": (1, data.LONGEST),
    "twice the padding": (BATCH, 2 * data.LONGEST),
}
PHASES = {"evaluation": False, "training": True}


class Run(NamedTuple):
    """One training: the loss of every epoch, the accuracy (phases, ways), and the states at the end."""

    loss: np.ndarray
    accuracy: np.ndarray
    states: dict


class Trainer:
    """One network, compiled once and trained anew from each seed."""

    def __init__(self, arm: str, train: data.Utterances, test: data.Utterances, epochs: int = EPOCHS):
        self.arm, self.train_set, self.test_set, self.epochs = arm, train, test, epochs
        self.network = Network(ARMS[arm])
        self.parameters = self.network.states(brainstate.ParamState)
        self.kept = self.network.states(brainstate.BatchState)
        decay = optax.cosine_decay_schedule(LEARNING_RATE, epochs * (len(train.frames) // BATCH), alpha=0.05)
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(decay))
        self.moments = brainstate.ShortTermState(self.optimizer.init(self.parameters.to_dict_values()))
        self.learn = brainstate.transform.jit(self._learn)
        # one for each phase: brainstate's norm does not notice that a compiled function changes it
        self.decide = {fit: brainstate.transform.jit(self._decide) for fit in PHASES.values()}

    def train(self, seed: int, bar: tqdm) -> Run:
        """Train from one seed, and test."""
        self._start(seed)
        rng = np.random.default_rng(seed)
        losses = []
        with brainstate.environ.context(fit=True):
            for _ in range(self.epochs):
                order = rng.permutation(len(self.train_set.frames))
                order = order[: len(order) // BATCH * BATCH]
                cut = data.batches(self.train_set, order, BATCH)
                losses.append(float(np.mean(self.learn(*cut))))
                bar.update()
        return Run(np.array(losses), self.test(), self.states())

    def test(self) -> np.ndarray:
        """Return the accuracy on the test utterances in both phases and every way, (phases, ways)."""
        found = np.zeros((len(PHASES), len(WAYS)))
        before = self.states()
        for row, fit in enumerate(PHASES.values()):
            for column, (size, steps) in enumerate(WAYS.values()):
                found[row, column] = self.accuracy(size, steps, fit)
                self.restore(before)  # training has moved what the norms keep
        return found

    def accuracy(self, size: int, steps: int, fit: bool) -> float:
        """Return the accuracy on the test utterances, so many at once."""
        number = len(self.test_set.frames)
        order = np.random.default_rng(0).permutation(number)  # the files go from speaker to speaker
        x, mask, speaker = data.batches(self.test_set, order, size, steps)
        with brainstate.environ.context(fit=fit):
            told = np.asarray(self.decide[fit](x, mask)).reshape(-1)
        return float(np.mean((told == speaker.reshape(-1))[:number]))

    def states(self) -> dict:
        """Return the values of all parameters and running statistics."""
        return {path: state.value for path, state in (*self.parameters.items(), *self.kept.items())}

    def restore(self, values: dict) -> None:
        """Put values back into the states."""
        for path, state in (*self.parameters.items(), *self.kept.items()):
            state.value = values[path]

    def _start(self, seed: int) -> None:
        """Take the first states of a network with this seed."""
        with brainstate.random.seed_context(seed):
            other = Network(ARMS[self.arm]).states(brainstate.ParamState, brainstate.BatchState)
        self.restore({path: state.value for states in other for path, state in states.items()})
        self.moments.value = self.optimizer.init(self.parameters.to_dict_values())

    def _decide(self, x: np.ndarray, mask: np.ndarray):
        """Return the speaker of every utterance, (batches, batch)."""
        return brainstate.transform.for_loop(lambda *one: self.network(*one).argmax(-1), x, mask)

    def _learn(self, x: np.ndarray, mask: np.ndarray, speaker: np.ndarray):
        """Take one step a batch, and return the losses."""
        return brainstate.transform.for_loop(self._step, x, mask, speaker)

    def _step(self, x, mask, speaker):
        def loss():
            return optax.softmax_cross_entropy_with_integer_labels(self.network(x, mask), speaker).mean()

        gradients, value = brainstate.transform.grad(loss, self.parameters, return_value=True)()
        values = self.parameters.to_dict_values()
        steps, self.moments.value = self.optimizer.update(dict(gradients), self.moments.value, values)
        self.parameters.assign_dict_values(optax.apply_updates(values, steps))
        return value
