"""Does a network with a norm learn online? The same network, trained by D-RTRL and by backpropagation through time.

Leaky units with recurrent weights predict the spikes of a grasshopper's auditory receptor from the sound of the last
2 ms; what was before, they have to remember. All networks see the same excerpts in the same order and take the same
steps of the same optimizer; the gradient alone differs. They learn from one recording, and the table says how many bits
per spike they predict in the other, where the sound fluctuates four times as fast, and in the last quarter of the
first. ``make demo-online`` runs it, in about five minutes on 2 cores.
"""

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import brainstate
import braintrace
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import optax
import receptor_data as data
from receptor_network import FASTEST, FLOOR, LOUDNESS
from tqdm import tqdm

import braindnorm
from braindnorm import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from braindnorm.interop.braintrace import ETraceNormParam

UNITS, RECENT = 32, 4  # units, and windows on the recent sound
FASTEST_UNIT, SLOWEST_UNIT = 1 * u.ms, 20 * u.ms
UPDATES, BATCH, BEFORE, STEPS = 400, 16, 50, 150  # steps of an excerpt that only fill the memory, and that are learned
LEARNING_RATE = 1e-2
SETTLING = 600  # steps in which a batch norm that is frozen takes its statistics first
ONLINE: dict[str, Any] = {"param_type": ETraceNormParam}
STOPPED: dict[str, Any] = {**ONLINE, "stop_statistics_gradient": True}
NORMS: dict[str, Callable[[], Any]] = {
    "no norm": lambda: None,
    "LayerNorm": lambda: LayerNorm(UNITS, **ONLINE),
    "LayerNorm, stopped": lambda: LayerNorm(UNITS, **STOPPED),
    "RMSNorm": lambda: RMSNorm(UNITS, **ONLINE),
    "RMSNorm, stopped": lambda: RMSNorm(UNITS, **STOPPED),
    "GroupNorm": lambda: GroupNorm(UNITS, num_groups=4, reduction_axes=-1, **ONLINE),
    "GroupNorm, stopped": lambda: GroupNorm(UNITS, num_groups=4, reduction_axes=-1, **STOPPED),
    "BatchNorm": lambda: BatchNorm(UNITS, **ONLINE),
    "BatchNorm, stopped": lambda: BatchNorm(UNITS, **STOPPED),
    "BatchNorm, frozen": lambda: BatchNorm(UNITS, frozen=True, **ONLINE),
}
RULES = ("BPTT", "D-RTRL")
HEARD = ("validation", "test")


class Network(brainstate.nn.Module):
    """Leaky units of different time constants behind a matrix and a norm, and the rate that they predict."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm
        rng = brainstate.random
        self.matrix = brainstate.ParamState(rng.randn(RECENT + UNITS, UNITS) / np.sqrt(RECENT + UNITS))
        self.readout = brainstate.nn.Linear(UNITS, 1)
        tau = jnp.geomspace(float(FASTEST_UNIT / data.STEP), float(SLOWEST_UNIT / data.STEP), UNITS)
        self.decay = jnp.exp(-1 / tau)

    def init_state(self, batch_size: int | None = None, **_: Any) -> None:
        self.hidden = brainstate.HiddenState(jnp.zeros((batch_size, UNITS)))

    def reset_state(self, batch_size: int | None = None, **_: Any) -> None:
        self.hidden.value = jnp.zeros((batch_size, UNITS))

    def update(self, sound: jax.Array) -> u.Quantity:
        """Return the rate (batch,) at this step, from the sound (batch, RECENT) as a part of the mean loudness."""
        drive = braintrace.matmul(jnp.concatenate([sound - 1, jnp.tanh(self.hidden.value)], -1), self.matrix.value)
        drive = drive if self.norm is None else self.norm(drive)
        self.hidden.value = self.decay * self.hidden.value + jnp.sqrt(1 - self.decay**2) * drive
        return FASTEST * jax.nn.sigmoid(self.readout(jnp.tanh(self.hidden.value))[..., 0] - 1.5) + FLOOR


class Trainer:
    """One network and one rule, compiled once and trained anew from each seed."""

    def __init__(self, norm: str, rule: str, recordings: list[data.Recording]) -> None:
        self.kind, self.rule = norm, rule
        self.recordings = recordings
        self.sound = [recent(recording) for recording in recordings]
        self.network = Network(NORMS[norm]())
        brainstate.nn.init_all_states(self.network, batch_size=BATCH)
        if rule == "D-RTRL":
            with braindnorm.phase(fit=True):
                example = jnp.ones((BATCH, RECENT))
                self.learner = braintrace.compile(self.network, "d_rtrl", example, batch_size=BATCH)
        self.parameters = self.network.states(brainstate.ParamState)
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, UPDATES))
        )
        self.moments = brainstate.ShortTermState(self.optimizer.init(self.parameters.to_dict_values()))
        self.learn = brainstate.transform.jit(self._learn)
        self.listen = brainstate.transform.jit(lambda sound: brainstate.transform.for_loop(self.network, sound))

    def train(self, seed: int, updates: int) -> list[float]:
        """Train from one seed, and return the bits per spike in the parts that are heard only."""
        self._start(seed)
        rng = np.random.default_rng(seed)
        number, part = data.PARTS["training"]
        with braindnorm.phase(fit=True):
            for _ in range(updates):
                starts = rng.integers(part.start, part.stop - BEFORE - STEPS + 1, BATCH)
                steps = starts + np.arange(BEFORE + STEPS)[:, None]
                self._reset()
                self.learn(self.sound[number][steps], self.recordings[number].spikes[steps])
        return self.heard()

    def heard(self) -> list[float]:
        """Return the bits per spike of each part that was not learned from."""
        with braindnorm.phase(fit=False):
            found = []
            for recording, sound in zip(self.recordings, self.sound, strict=True):
                length = len(sound) // BATCH
                steps = np.maximum(np.arange(-BEFORE, length)[:, None] + length * np.arange(BATCH), 0)
                self._reset()
                rate = self.listen(sound[steps])[BEFORE:].T.flatten()
                found.append((rate, recording.spikes))
        parts = [(found[number], steps) for number, steps in (data.PARTS[name] for name in HEARD)]
        return [data.bits_per_spike(rate[steps], spikes[steps]) for (rate, spikes), steps in parts]

    def _start(self, seed: int) -> None:
        """Take the first parameters of a network with this seed, and the statistics that are held, if there are any."""
        with brainstate.random.seed_context(seed):
            other = Network(NORMS[self.kind]())
        if isinstance(other.norm, BatchNorm) and other.norm.frozen:
            other.norm.frozen = False
            brainstate.nn.init_all_states(other, batch_size=BATCH)
            with braindnorm.phase(fit=True):
                steps = np.arange(SETTLING)[:, None] + SETTLING * np.arange(BATCH)
                brainstate.transform.for_loop(other, self.sound[0][steps])
        mine = self.network.states()
        for path, state in other.states().items():
            mine[path].value = state.value
        self.moments.value = self.optimizer.init(self.parameters.to_dict_values())

    def _reset(self) -> None:
        brainstate.nn.reset_all_states(self.network, batch_size=BATCH)
        if self.rule == "D-RTRL":
            self.learner.reset_state(batch_size=BATCH)

    def _learn(self, sound: jax.Array, spikes: jax.Array) -> None:
        """Take one step by the gradient of an excerpt, whose first steps are not scored."""
        scored = jnp.arange(BEFORE + STEPS) >= BEFORE

        def loss(predict: Callable[[jax.Array], u.Quantity]) -> Callable[[jax.Array, jax.Array], jax.Array]:
            return lambda heard, fired: -data.log_likelihood(predict(heard), fired)

        if self.rule == "D-RTRL":
            found = self.learner.etrace_grad(sound, spikes, step_fn=loss(self.learner), mask=scored)
        else:
            every = lambda: brainstate.transform.for_loop(loss(self.network), sound, spikes)  # noqa: E731
            found = brainstate.transform.grad(lambda: jnp.mean(every(), where=scored), self.parameters)()
        values = self.parameters.to_dict_values()
        steps, self.moments.value = self.optimizer.update(dict(found), self.moments.value, values)
        self.parameters.assign_dict_values(optax.apply_updates(values, steps))


def recent(recording: data.Recording) -> jax.Array:
    """Return the sound of the last milliseconds, as a part of the mean loudness: (T, RECENT)."""
    return u.maybe_decimal(recording.sound[:, :RECENT] / LOUDNESS)


def row(norm: str, found: dict[str, np.ndarray]) -> str:
    """Return a line of the table: for each part and rule, mean and standard deviation over the seeds."""
    cells = [
        f"{found[rule][:, part].mean():.3f} ± {found[rule][:, part].std():.3f}"
        for part, rule in itertools.product(range(len(HEARD)), RULES)
    ]
    return f"| {norm:<18} | {' | '.join(cells)} |"


def main() -> None:
    """Train every norm by both rules, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--norm", choices=NORMS, action="append", help="train with this norm; may be repeated (all)")
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind (%(default)s)")
    parser.add_argument("--updates", type=int, default=UPDATES, help="steps of the optimizer (%(default)s)")
    options = parser.parse_args()
    norms = options.norm or list(NORMS)
    recordings = [data.load(1), data.load(2)]
    rows = []
    with tqdm(total=len(norms) * len(RULES) * options.seeds, unit="network") as bar:
        for norm in norms:
            found = {}
            for rule in RULES:
                trainer, runs = Trainer(norm, rule, recordings), []
                for seed in range(options.seeds):
                    bar.set_description(f"{norm}, {rule}")
                    runs.append(trainer.train(seed, options.updates))
                    bar.update()
                found[rule] = np.array(runs)
            rows.append(row(norm, found))
    heads = [f"{part}, {rule}" for part, rule in itertools.product(HEARD, RULES)]
    print(f"Bits per spike, mean ± standard deviation over {options.seeds} seeds:\n")
    print(f"| {' | '.join(['norm', *heads])} |\n|{' --- |' * (1 + len(heads))}", *rows, sep="\n")


if __name__ == "__main__":
    main()
