"""How much of the gradient does online learning keep behind each norm? A table for braintrace's single-step rules.

A norm stands between a matrix and a leaky hidden state, without and with recurrent weights in that matrix:

    h[t] = 0.8 h[t-1] + norm(W [x[t], tanh h[t-1]])

The online gradient of every parameter, summed over a few sequences, is compared with that of backpropagation through
time, in float64. Behind a norm with ``stop_statistics_gradient=True`` ("stopped") it is compared with the gradient of
the same norm without that option: the true one. It takes about three minutes: ``python examples/online_gradients.py``,
or one norm alone, ``--norm RMSNorm``.
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

import braindnorm
from braindnorm import BatchNorm, DivisiveNorm, GroupNorm, LayerNorm, RMSNorm
from braindnorm.interop.braintrace import ETraceExpT, ETraceNormParam

INPUTS, UNITS, STEPS, SAMPLES = 3, 8, 12, 4
SEEDS = (0, 1, 2)


def positive(value: float) -> Param:
    """Return a positive parameter of every unit that is learned online."""
    return Param(jnp.full(UNITS, value), t=ETraceExpT())


ONLINE: dict[str, Any] = {"param_type": ETraceNormParam}
STOPPED: dict[str, Any] = {**ONLINE, "stop_statistics_gradient": True}
DIVISIVE: dict[str, Any] = {"exponent": 1, "rectify": False}
GROUPS: dict[str, Any] = {"num_groups": 2, "reduction_axes": -1}
NORMS: dict[str, Callable[[], Any]] = {
    "no norm": lambda: None,
    "LayerNorm": lambda: LayerNorm(UNITS, **ONLINE),
    "LayerNorm, stopped": lambda: LayerNorm(UNITS, **STOPPED),
    "RMSNorm": lambda: RMSNorm(UNITS, **ONLINE),
    "RMSNorm, stopped": lambda: RMSNorm(UNITS, **STOPPED),
    "GroupNorm": lambda: GroupNorm(UNITS, **GROUPS, **ONLINE),
    "GroupNorm, stopped": lambda: GroupNorm(UNITS, **GROUPS, **STOPPED),
    "BatchNorm": lambda: BatchNorm(UNITS, **ONLINE),
    "BatchNorm, stopped": lambda: BatchNorm(UNITS, **STOPPED),
    "BatchNorm, frozen": lambda: BatchNorm(UNITS, frozen=True, **ONLINE),
    "DivisiveNorm": lambda: DivisiveNorm(UNITS, **DIVISIVE, sigma=positive(1.0), gamma=positive(1.0)),
    "DivisiveNorm, stopped": lambda: DivisiveNorm(
        UNITS, **DIVISIVE, sigma=positive(1.0), gamma=positive(1.0), stop_statistics_gradient=True
    ),
}
RULES = {"D-RTRL": {"algorithm": "d_rtrl"}, "pp-prop": {"algorithm": "pp_prop", "decay_or_rank": 0.9}}
Gradients = Callable[[jax.Array, jax.Array], Any]


class Network(brainstate.nn.Module):
    """Leaky units behind a matrix and a norm."""

    def __init__(self, norm: Any, recurrent: bool):
        super().__init__()
        self.norm, self.recurrent = norm, recurrent
        self.matrix = brainstate.ParamState(jnp.zeros((INPUTS + UNITS * recurrent, UNITS)))
        self.draw(0)

    def draw(self, seed: int) -> None:
        """Draw the matrix anew."""
        weights = np.random.default_rng(seed).normal(size=self.matrix.value.shape)
        self.matrix.value = jnp.asarray(weights / np.sqrt(len(weights)))

    def init_state(self, batch_size: int | None = None, **_: Any) -> None:
        self.hidden = brainstate.HiddenState(jnp.zeros((batch_size, UNITS)))

    def reset_state(self, batch_size: int | None = None, **_: Any) -> None:
        self.hidden.value = jnp.zeros((batch_size, UNITS))

    def update(self, x: jax.Array) -> jax.Array:
        source = jnp.concatenate([x, jnp.tanh(self.hidden.value)], axis=-1) if self.recurrent else x
        drive = braintrace.matmul(source, self.matrix.value)
        self.hidden.value = 0.8 * self.hidden.value + (drive if self.norm is None else self.norm(drive))
        return jnp.tanh(self.hidden.value)


def data(seed: int) -> tuple[jax.Array, jax.Array]:
    """Return inputs and targets of every step."""
    rng = np.random.default_rng([seed, 1])
    shape = (STEPS, SAMPLES)
    return jnp.asarray(rng.normal(size=(*shape, INPUTS))), jnp.asarray(rng.normal(size=(*shape, UNITS)))


def through_time(network: Network) -> Gradients:
    """Return what computes the gradients of backpropagation through time."""
    brainstate.nn.init_all_states(network, batch_size=SAMPLES)
    parameters = network.states(brainstate.ParamState)

    @brainstate.transform.jit
    def gradients(xs: jax.Array, ys: jax.Array) -> Any:
        def loss() -> Any:
            brainstate.nn.reset_all_states(network, batch_size=SAMPLES)
            return brainstate.transform.for_loop(lambda x, y: jnp.mean((network(x) - y) ** 2), xs, ys).mean()

        return brainstate.transform.grad(loss, parameters)()

    return gradients


def compiled(network: Network, algorithm: str, **options: Any) -> Any:
    """Return a learner of braintrace."""
    return braintrace.compile(network, algorithm, data(0)[0][0], batch_size=SAMPLES, **options)


def online(network: Network, **rule: Any) -> Gradients:
    """Return what computes the online gradients of one of braintrace's rules."""
    learner = compiled(network, **rule)

    @brainstate.transform.jit
    def gradients(xs: jax.Array, ys: jax.Array) -> Any:
        brainstate.nn.reset_all_states(network, batch_size=SAMPLES)
        learner.reset_state(batch_size=SAMPLES)
        return learner.etrace_grad(xs, ys, step_fn=lambda x, y: jnp.mean((learner(x) - y) ** 2))

    return gradients


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
    with brainstate.environ.context(precision=64), braindnorm.phase(fit=True):
        whole, network = Network(NORMS[norm](), recurrent), Network(NORMS[norm](), recurrent)
        if whole.norm is not None:
            whole.norm.stop_statistics_gradient = False
        exactly, approximately = through_time(whole), online(network, **RULES[rule])
        for seed in seeds:
            whole.draw(seed)
            network.draw(seed)
            exact, approximate = named(exactly(*data(seed))), named(approximately(*data(seed)))
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
