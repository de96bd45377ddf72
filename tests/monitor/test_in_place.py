"""Recording leaves a model as it is, and sees every norm of the pack where it stands."""

import warnings
from typing import Any

import brainstate
import braintools
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import nn

from braindnorm import DivisiveNorm, GroupNorm, LayerNorm, NormParam, OverTime, RMSNorm, monitor, step_mask

T, B, C = 6, 4, 8
V = (np.random.default_rng(0).standard_normal((T, B, C)) * 3 - 65).astype(np.float32)


def moments(x: Any, valid: Any = True) -> tuple[np.ndarray, np.ndarray]:
    """Return, step by step in float64, the mean and the spread along the last axis of the valid elements."""
    x = np.ma.array(np.asarray(x, np.float64), mask=~np.broadcast_to(valid, np.shape(x)))
    deviation = x - x.mean(axis=-1, keepdims=True)
    steps = tuple(range(1, x.ndim))
    return x.mean(axis=steps).data, np.sqrt((deviation**2).mean(axis=steps)).data


def check(found: monitor.Record, x: Any, y: Any, valid: Any = True) -> None:
    for mean, std, expected in (
        (found.mean, found.std, moments(x, valid)),
        (found.out_mean, found.out_std, moments(y, valid)),
    ):
        np.testing.assert_allclose(mean, expected[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(std, expected[1], rtol=1e-5, atol=1e-5)


class Doubled(LayerNorm):
    """A subclass that adds to what it inherits, and calls it twice."""

    def update(self, x: Any, *, mask: Any = None) -> Any:
        return super().update(x, mask=mask) + super().update(x, mask=mask)


class Own(RMSNorm):
    """A subclass that inherits nothing of the call."""

    def update(self, x: Any, gain: float = 3.0) -> Any:
        return gain * x


class Net(nn.Module):
    """A norm of each kind that reaches into its own norm's weight, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(C, C), LayerNorm(C), DivisiveNorm(C, rectify=False))
        self.memory = {"past": OverTime(LayerNorm(C), decay=0.9)}
        self.tied = RMSNorm(C)
        self.places = [self.tied, Doubled(C), Own(C, use_scale=False)]

    def update(self, x: Any) -> Any:
        x = self.tied(self.memory["past"](self.body(x)))
        for norm in self.places:
            x = norm(x) * self.tied.scale.value["scale"]
        return x


PATHS = ["body.layers.1", "body.layers.2", "memory.past", "places.0", "places.1", "places.2"]


def tree_of(net: Any) -> tuple[Any, ...]:
    nodes = {path: id(node) for path, node in net.nodes().items()}
    return nodes, {path: id(state) for path, state in net.states().items()}


def test_the_tree_is_the_same_inside_and_after() -> None:
    net = nn.init_all_states(Net(), batch_size=B)
    before = tree_of(net)
    with pytest.raises(ZeroDivisionError), monitor.record(net, 1) as records:
        assert tree_of(net) == before
        raise ZeroDivisionError
    assert tree_of(net) == before
    assert sorted(records) == PATHS


def train(net: Any, steps: int = 3) -> list[float]:
    """Train in place, with gradients and an optimizer that are made here, and return the losses."""
    parameters = net.states(brainstate.ParamState)
    optimizer = braintools.optim.Adam(lr=1e-2)
    optimizer.register_trainable_weights(parameters)

    def loss() -> Any:
        return jnp.mean(jnp.square(brainstate.transform.for_loop(net, V) - 1))

    @brainstate.transform.jit
    def step() -> Any:
        gradients, value = brainstate.transform.grad(loss, parameters, return_value=True)()
        optimizer.update(gradients)
        return value

    return [float(step()) for _ in range(steps)]


def test_training_inside_is_training() -> None:
    nets = []
    for recorded in (False, True):
        brainstate.random.seed(0)
        net = nn.init_all_states(Net(), batch_size=B)
        if recorded:
            with monitor.record(net, 3 * T, warn=False) as records:
                losses = train(net)
        else:
            expected = train(net)
        nets.append(net)
    assert losses == expected
    assert losses[-1] < losses[0]
    plain, watched = (net.states(brainstate.ParamState) for net in nets)
    assert plain.keys() == watched.keys()
    for path, state in plain.items():
        jax.tree.map(np.testing.assert_array_equal, watched[path].value, state.value)
    calls = {path: entry.calls for path, entry in records.items()}
    assert calls == dict.fromkeys(PATHS, 3 * T) | {"places.0": 6 * T}
    np.testing.assert_allclose(records["places.2"].read().out_std, 3 * records["places.2"].read().std, rtol=1e-5)


KINDS = {
    "layer": lambda: LayerNorm(C),
    "rms": lambda: RMSNorm(C),
    "group": lambda: GroupNorm(C, num_groups=1),
    "divisive": lambda: DivisiveNorm(C, rectify=False),
    "divisive, a matrix": lambda: DivisiveNorm(C, rectify=False, pool=np.eye(C)),
    "over time": lambda: OverTime(LayerNorm(C)),
    "subclass": lambda: Doubled(C),
    "subclass, its own update": lambda: Own(C),
}
CALLS = {
    "call": lambda norm: norm,
    "update": lambda norm: norm.update,
    "jit": lambda norm: brainstate.transform.jit(norm.update),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_seen(kind: str, call: str) -> None:
    norm = nn.init_all_states(KINDS[kind](), batch_size=B)
    net = nn.Sequential(norm)
    with monitor.record(net, T, warn=False) as records:
        y = brainstate.transform.for_loop(CALLS[call](norm), V)
    assert list(records) == ["layers.0"]
    check(records["layers.0"].read(), V, y)


@pytest.mark.parametrize("time_axis", [0, 1])
def test_a_whole_sequence_has_an_entry_for_each_step(time_axis: int) -> None:
    lengths = np.array([6, 4, 2, 1])
    valid = (np.arange(T)[:, None] < lengths)[..., None]
    valid[0, :, 0] = True
    xs, mask = (np.moveaxis(v, 0, time_axis) for v in (V, valid))
    norm = nn.init_all_states(OverTime(LayerNorm(C), decay=0.9, time_axis=time_axis), batch_size=B)
    with monitor.record(norm, T) as records:
        y = norm.update_sequence(xs, mask=mask)
    check(records[""].read(), V, np.moveaxis(y, time_axis, 0), valid)
    np.testing.assert_allclose(records[""].read().masked, 1 - valid.mean((1, 2)), rtol=1e-5)


def test_a_loop_and_a_sequence_leave_the_same_record() -> None:
    found = []
    for run in (lambda norm: norm.update_sequence(V), lambda norm: brainstate.transform.for_loop(norm.update, V)):
        norm = nn.init_all_states(OverTime(LayerNorm(C), decay=0.9), batch_size=B)
        recorded = monitor.Recorded(norm, T + 1)
        with monitor.record(recorded, T + 1) as records:
            run(norm)
        found.append(records["norm"].read())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_norm_inside_of_a_memory_is_listed_when_it_is_called_itself() -> None:
    inner = LayerNorm(C)
    net = nn.Sequential(nn.init_all_states(OverTime(inner), batch_size=B))
    with monitor.record(net, T) as records:
        net(V[0])
        assert list(records) == ["layers.0"]
        inner(V[1])
    assert list(records) == ["layers.0", "layers.0.norm"]
    check(records["layers.0.norm"].read(), V[1:2], inner(V[1])[None])


def test_the_step_mask_is_that_of_the_call() -> None:
    net, alive = nn.Sequential(Doubled(C)), np.arange(T)[:, None] < np.array([6, 4, 2, 1])

    def step(x: Any, now: Any) -> Any:
        with step_mask(now):
            return net(x)

    with monitor.record(net, T) as records:
        y = brainstate.transform.for_loop(step, V, jnp.asarray(alive))
    check(records["layers.0"].read(), V, y, alive[..., None])


def test_what_was_compiled_inside_changes_no_record_afterwards() -> None:
    net = nn.Sequential(LayerNorm(C))
    compiled = brainstate.transform.jit(net.update)
    with monitor.record(net, T) as records:
        compiled(V[0])
    compiled(V[1])
    assert records["layers.0"].calls == 1
    np.testing.assert_allclose(records["layers.0"].read().mean, [V[0].mean(dtype=np.float64)], rtol=1e-6)


def test_a_norm_that_no_call_came_from_is_told_of() -> None:
    net = nn.Sequential(LayerNorm(C), RMSNorm(C))
    compiled = brainstate.transform.jit(net.layers[0].update)
    compiled(V[0])
    told = "compiled before the block: compile inside of it"
    with pytest.warns(monitor.NormWarning, match=told) as caught, monitor.record(net, T):
        compiled(V[0])
        net.layers[1](V[0])
    assert len(caught) == 1
    assert "LayerNorm(in_size=(8,)) at 'layers.0'" in str(caught[0].message)


def test_blocks_inside_of_each_other_both_record() -> None:
    net = nn.Sequential(LayerNorm(C))
    with monitor.record(net, T) as outer:
        net(V[0])
        with monitor.record(net.layers[0], T) as inner:
            net(V[1])
    assert (outer["layers.0"].calls, inner[""].calls) == (2, 1)


def test_another_thread_is_not_recorded() -> None:
    from concurrent.futures import ThreadPoolExecutor

    net = nn.Sequential(LayerNorm(C))
    with ThreadPoolExecutor(1) as pool, monitor.record(net, T) as records:
        net(V[0])
        pool.submit(net, V[1]).result()
    assert records["layers.0"].calls == 1


def test_a_memory_and_a_pool_are_not_taken_for_mistakes() -> None:
    """One element a step has a memory to be compared with; a pool has no variance that epsilon could hide."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.check(nn.init_all_states(OverTime(LayerNorm(1, epsilon=1e9))), V[0, 0, :1]) == []
        assert monitor.check(DivisiveNorm(1), V[0, 0, :1] > 0) == []


def test_another_param_type_and_the_graph_stay_what_they_are() -> None:
    class Halved(NormParam):
        def execute(self, x: Any) -> Any:
            return super().execute(x) / 2

    net = nn.Sequential(LayerNorm(C, param_type=Halved))
    expected = net(V[0])
    with monitor.record(net, 1) as records:
        again = brainstate.graph.treefy_merge(*brainstate.graph.treefy_split(net))
        np.testing.assert_array_equal(net(V[0]), expected)
        np.testing.assert_array_equal(again(V[0]), expected)
    assert records["layers.0"].calls == 1
    check(records["layers.0"].read(), V[:1], expected[None])
