"""How much of the gradient does online learning keep behind each norm? A table for braintrace's single-step rules.

A norm stands between a matrix and a leaky hidden state, without and with recurrent weights in that matrix:

    h[t] = 0.8 h[t-1] + norm(W [x[t], tanh h[t-1]])

The online gradient of every parameter is compared with that of backpropagation through time, in float64. It takes about
two minutes: ``python examples/online_gradients.py``, or one norm alone, ``--norm RMSNorm``.
"""

import argparse
from collections.abc import Callable
from typing import Any

import brainstate
import braintrace
import jax
import jax.numpy as jnp
import numpy as np
from brainstate.nn import Param

from braindnorm import DivisiveNorm, GroupNorm, LayerNorm, RMSNorm
from braindnorm.interop.braintrace import ETraceExpT, ETraceNormParam

INPUTS, UNITS, STEPS = 3, 8, 12
SEEDS = (0, 1, 2)


def positive(value: float) -> Param:
    """Return a positive parameter of every unit that is learned online."""
    return Param(jnp.full(UNITS, value), t=ETraceExpT())


NORMS: dict[str, Callable[[], Any]] = {
    "no norm": lambda: None,
    "RMSNorm": lambda: RMSNorm(UNITS, param_type=ETraceNormParam),
    "DivisiveNorm": lambda: DivisiveNorm(UNITS, exponent=1, rectify=False, sigma=positive(1.0), gamma=positive(1.0)),
    "GroupNorm": lambda: GroupNorm(UNITS, num_groups=2, reduction_axes=-1, param_type=ETraceNormParam),
    "LayerNorm": lambda: LayerNorm(UNITS, param_type=ETraceNormParam),
}
RULES = {"D-RTRL": {"algorithm": "d_rtrl"}, "pp-prop": {"algorithm": "pp_prop", "decay_or_rank": 0.9}}


class Network(brainstate.nn.Module):
    """Leaky units behind a matrix and a norm."""

    def __init__(self, norm: Any, recurrent: bool, seed: int = 0):
        super().__init__()
        self.norm, self.recurrent = norm, recurrent
        weights = np.random.default_rng(seed).normal(size=(INPUTS + UNITS * recurrent, UNITS))
        self.matrix = brainstate.ParamState(jnp.asarray(weights / np.sqrt(len(weights))))

    def init_state(self, batch_size: int | None = None, **_: Any) -> None:
        self.hidden = brainstate.HiddenState(jnp.zeros(UNITS))

    def update(self, x: jax.Array) -> jax.Array:
        source = jnp.concatenate([x, jnp.tanh(self.hidden.value)]) if self.recurrent else x
        drive = braintrace.matmul(source, self.matrix.value)
        self.hidden.value = 0.8 * self.hidden.value + (drive if self.norm is None else self.norm(drive))
        return jnp.tanh(self.hidden.value)


def data(seed: int) -> tuple[jax.Array, jax.Array]:
    """Return inputs and targets of every step."""
    rng = np.random.default_rng([seed, 1])
    return jnp.asarray(rng.normal(size=(STEPS, INPUTS))), jnp.asarray(rng.normal(size=(STEPS, UNITS)))


def through_time(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Return the gradients of backpropagation through time."""
    brainstate.nn.init_all_states(network)
    parameters = network.states(brainstate.ParamState)

    def loss() -> Any:
        return brainstate.transform.for_loop(lambda x, y: jnp.mean((network(x) - y) ** 2), *data(seed)).mean()

    return named(brainstate.transform.grad(loss, parameters)())


def online(network: Network, seed: int, **rule: Any) -> dict[str, np.ndarray]:
    """Return the online gradients of one of braintrace's rules."""
    xs, ys = data(seed)
    learner = braintrace.compile(network, rule.pop("algorithm"), xs[0], **rule)
    return named(learner.etrace_grad(xs, ys, step_fn=lambda x, y: jnp.mean((learner(x) - y) ** 2)))


def named(gradients: Any) -> dict[str, np.ndarray]:
    """Name each gradient by the last part of its path that says something."""
    flat = jax.tree_util.tree_leaves_with_path(dict(gradients))
    return {NAMES[jax.tree_util.keystr(path)]: np.ravel(value) for path, value in flat}


NAMES = {
    "[('matrix',)]": "matrix",
    "[('norm', 'scale')]['scale']": "scale",
    "[('norm', 'weight')]['scale']": "scale",
    "[('norm', 'weight')]['bias']": "bias",
    "[('norm', 'gamma', 'val')]": "gamma",
    "[('norm', 'sigma', 'val')]": "sigma",
}


def compare(norm: str, recurrent: bool, rule: str, seeds: tuple[int, ...] = SEEDS) -> dict[str, tuple[float, float]]:
    """Return for each parameter the online gradient's mean cosine with, and ratio of lengths to, the exact one."""
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        with brainstate.environ.context(precision=64):
            network = Network(NORMS[norm](), recurrent, seed)
            exact, approximate = through_time(network, seed), online(network, seed, **RULES[rule])
        for name, gradient in exact.items():
            length, reached = np.linalg.norm(gradient), np.linalg.norm(approximate[name])
            cosine = gradient @ approximate[name] / (length * reached) if reached > 1e-9 * length else 0.0
            found.setdefault(name, []).append((cosine, reached / length))
    return {name: tuple(np.mean(pairs, axis=0)) for name, pairs in found.items()}


def table(norms: tuple[str, ...] = tuple(NORMS)) -> list[str]:
    """Return the rows of the table: cosine (ratio of lengths) for each norm, parameter, network and rule."""
    settings = [(recurrent, rule) for recurrent in (False, True) for rule in RULES]
    rows = ["| norm | parameter | leaky, D-RTRL | leaky, pp-prop | recurrent, D-RTRL | recurrent, pp-prop |"]
    rows.append("| --- | --- | --- | --- | --- | --- |")
    for norm in norms:
        columns = [compare(norm, *setting) for setting in settings]
        for name in columns[0]:
            cells = [f"{cosine:.2f} ({ratio:.2f})" for cosine, ratio in (column[name] for column in columns)]
            rows.append(f"| {norm} | {name} | {' | '.join(cells)} |".replace("-0.00", "0.00"))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--norm", choices=NORMS, action="append", help="compare this norm; may be repeated (all)")
    asked = parser.parse_args().norm or NORMS
    print(*table(tuple(asked)), sep="\n")
