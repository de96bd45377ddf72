"""Training: the networks of all runs side by side, and the accuracy of each on the sweeps that it has not seen."""

from dataclasses import dataclass, field

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import patch_clamp_data as data
from patch_clamp_network import Network
from tqdm import tqdm

SEEDS = (0, 1, 2)
UPDATES, BATCH = 150, 48
CHUNK = 30  # updates between two looks at the accuracy
LEARNING_RATE = 1e-2


class Task:
    """The padded segments, and the runs: every split with every seed, each with its own held-out sweeps."""

    def __init__(self, segments: data.Segments, splits=data.SPLITS, seeds=SEEDS):
        self.segments = segments
        self.voltage, self.mask = data.pad(segments, data.LONGEST)
        self.runs = [(split, seed) for seed in seeds for split in splits]
        self.held_out = [data.is_held_out(segments, split) for split, _ in self.runs]

    def draw(self, updates: int) -> np.ndarray:
        """Draw the training segments of every update, (updates, runs, batch), each sweep as often as any other."""
        draws = []
        for held_out, (_, seed) in zip(self.held_out, self.runs, strict=True):
            train = np.flatnonzero(~held_out)
            _, sweep, count = np.unique(self.segments.sweep[train], return_inverse=True, return_counts=True)
            chance = 1 / count[sweep] / len(count)
            draws.append(np.random.default_rng(seed).choice(train, (updates, BATCH), p=chance))
        return np.stack(draws, axis=1)

    def accuracy(self, predicted: np.ndarray) -> np.ndarray:
        """Return the balanced accuracy on the held-out sweeps of the predictions (runs, segments) of each run."""
        cell = self.segments.cell
        pairs = zip(predicted, self.held_out, strict=True)
        return np.array([data.balanced_accuracy(p[test], cell[test]) for p, test in pairs])


class Ensemble:
    """One network for each run, all of one arm; their parameters are stacked, and `jax.vmap` runs over them."""

    def __init__(self, arm: type, task: Task):
        self.task = task
        parameters = []
        for _, seed in task.runs:
            brainstate.random.seed(seed)
            self.graph, drawn = brainstate.graph.treefy_split(Network(arm))
            parameters.append(drawn)
        self.parameters = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parameters)
        schedule = optax.cosine_decay_schedule(LEARNING_RATE, UPDATES, alpha=0.05)
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
        self.moments = jax.vmap(self.optimizer.init)(self.parameters)
        self._train = jax.jit(self._train_runs)
        self._predict = jax.jit(self._predict_runs)

    def train(self, batches: np.ndarray) -> float:
        """Update all networks with the given batches (updates, runs, batch) and return the last loss."""
        task = self.task
        recordings = (task.voltage, task.mask, task.segments.cell)
        (self.parameters, self.moments), losses = self._train((self.parameters, self.moments), batches, recordings)
        return float(losses[-1].mean())

    def predict(self, voltage, mask) -> np.ndarray:
        """Return the cell that each network takes each segment to come from, (runs, segments)."""
        return np.asarray(self._predict(self.parameters, voltage, mask))

    def _evidence(self, parameters, voltage, mask):
        return brainstate.graph.treefy_merge(self.graph, parameters)(voltage, mask)

    def _train_runs(self, state, batches, recordings):
        voltage, mask, cell = recordings

        def loss(parameters, batch):
            evidence = self._evidence(parameters, voltage[:, batch], mask[:, batch])
            return optax.softmax_cross_entropy_with_integer_labels(evidence, cell[batch]).mean()

        def update(state, batch):
            parameters, moments = state
            value, gradient = jax.value_and_grad(loss)(parameters, batch)
            change, moments = self.optimizer.update(gradient, moments, parameters)
            return (optax.apply_updates(parameters, change), moments), value

        return jax.lax.scan(jax.vmap(update), state, batches)

    def _predict_runs(self, parameters, voltage, mask):
        def predict(parameters):
            return jnp.argmax(self._evidence(parameters, voltage, mask), axis=-1)

        return jax.lax.map(predict, parameters)


@dataclass
class Result:
    """Of one arm: the balanced accuracy of every run after each chunk, and at the end with twice the padding."""

    curve: list[np.ndarray] = field(default_factory=list)
    padded: np.ndarray | None = None

    @property
    def final(self) -> np.ndarray:
        """The balanced accuracy of every run at the end."""
        return self.curve[-1]


def train_arm(arm: type, task: Task, bar: tqdm) -> Result:
    """Train the networks of one arm."""
    ensemble, result = Ensemble(arm, task), Result()
    for batches in task.draw(UPDATES).reshape(-1, CHUNK, len(task.runs), BATCH):
        loss = ensemble.train(batches)
        result.curve.append(task.accuracy(ensemble.predict(task.voltage, task.mask)))
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{result.final.mean():.3f}")
        bar.update(CHUNK)
    longer = data.pad(task.segments, 2 * data.LONGEST)
    result.padded = task.accuracy(ensemble.predict(*longer))
    return result
