"""Laws L9 and L10 for a batch norm that runs step by step: whose statistics it takes, with gradient, and what it keeps.

The truth is naive: each step by the mean and variance of the rows that its equation names, in float64.
"""

import copy
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import for_loop, jit, vmap

from braindnorm import BatchNorm, LayerNorm, OverTime, errors
from tests.support.norms import draw, float64

T, B, C = 4, 4, 3
EPSILON, MOMENTUM, BOUND = 1e-5, 0.75, 3.0
X = draw(T, B, C, loc=2.0).astype(float)
MASK = np.random.default_rng(1).random((T, B, 1)) > 0.3
MASK[1] = False
G = draw(T, B, C, seed=2).astype(float)
# channel 0 near what the steps have, channel 1 elsewhere, channel 2 so wide that the bound is passed in every step
MEAN, VAR = np.array([2.0, 0.0, 1.0]), np.array([1.0, 2.0, 900.0])


def fit(flag: bool = True) -> Any:
    return brainstate.environ.context(fit=flag)


def moments(x: Any, mask: np.ndarray) -> tuple[Any, Any]:
    w = np.broadcast_to(mask, x.shape).reshape(-1, C)
    n = np.maximum(w.sum(0), 1)
    mean = (w * x.reshape(-1, C)).sum(0) / n
    return mean, (w * (x.reshape(-1, C) - mean) ** 2).sum(0) / n


def naive(x: Any, what: str) -> Any:
    """Return what the equations say, of arrays of jax, whose gradient is then the truth's."""
    out, constant = [], jax.lax.stop_gradient
    for t in range(T):
        rows = slice(0, t + 1) if what == "past" else slice(t, t + 1)
        mean, var = moments(x[rows], MASK[rows])
        s = jnp.sqrt(var + EPSILON)
        xhat = (x[t] - mean) / s
        if what == "running":
            kept = np.sqrt(VAR + EPSILON)
            r, d = constant(s / kept), constant((mean - MEAN) / kept)
            near = jnp.maximum(r, 1 / r) <= BOUND
            xhat = jnp.where(near, r * xhat + d, xhat)
        out.append(jnp.where(MASK[t], xhat, 0))
    return jnp.stack(out)


def made(what: Any = None, **options: Any) -> OverTime:
    norm = BatchNorm(C, momentum=MOMENTUM, epsilon=EPSILON, **options)
    if norm.track_running_stats:
        norm.running_mean.value, norm.running_var.value = jnp.asarray(MEAN), jnp.asarray(VAR)
    over = OverTime(norm, normalize_by=what, max_ratio=BOUND)
    over.init_state(B)
    return over


def kept(over: OverTime) -> tuple[np.ndarray, np.ndarray]:
    return np.array(over.norm.running_mean.value), np.array(over.norm.running_var.value)


@pytest.mark.parametrize("what", ["step", "past", "running"])
def test_values_gradients_and_what_is_kept_on_both_clocks(what: str) -> None:
    with float64(), fit():
        over = made(what, unbiased=what == "past")
        expected = np.asarray(naive(X, what))
        slope = np.asarray(jax.grad(lambda x: jnp.sum(G * naive(x, what)))(jnp.asarray(X)))
        mean, var = moments(X, MASK)
        n = (MASK * np.ones(C)).sum((0, 1))
        var = var * n / (n - 1) if what == "past" else var
        want = [MOMENTUM * MEAN + (1 - MOMENTUM) * mean, MOMENTUM * VAR + (1 - MOMENTUM) * var]

        def loss(x: Any, clock: str) -> Any:
            if clock == "loop":
                y = for_loop(lambda x, m: over(x, mask=m), x, jnp.asarray(MASK))
            else:
                y = over.update_sequence(x, mask=MASK)
            over.end_sequence()
            return jnp.sum(G * y), y

        for clock in ("loop", "sequence"):
            over.norm.running_mean.value, over.norm.running_var.value = jnp.asarray(MEAN), jnp.asarray(VAR)
            call = jit(lambda x, clock=clock: brainstate.transform.grad(lambda x: loss(x, clock), has_aux=True)(x))
            got, y = call(jnp.asarray(np.where(MASK, X, np.nan)))
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
            np.testing.assert_allclose(got, slope, rtol=0, atol=1e-12)
            np.testing.assert_allclose(kept(over), want, rtol=1e-13)
            assert not any(np.any(v) for v in over.memory.value.values())


def test_the_last_step_of_past_pools_the_sequence() -> None:
    """And so do the running statistics: those of one call of the batch norm on the whole of it."""
    x = X.astype(np.float32)
    over = made("past")
    pooled = copy.deepcopy(over.norm)

    @jit
    def run(x: Any) -> Any:
        y = over.update_sequence(x)
        over.end_sequence()
        return y, pooled(x)

    with fit():
        y, whole = run(x)
    np.testing.assert_allclose(y[-1], whole[-1], atol=1e-6)
    for a, b in zip(kept(over), (pooled.running_mean.value, pooled.running_var.value), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("what", [None, "past", "running"])
def test_a_drift_keeps_its_variance(what: Any) -> None:
    """20 sequences of 100 steps from -70 to -60 mV. An update a step loses what lies between the steps: 0.98."""
    rng = np.random.default_rng(0)
    drift = np.linspace(-70, -60, 100)[:, None, None]
    sequences = (drift + rng.standard_normal((20, 100, 32, 1))).astype(np.float32)
    norm = BatchNorm(1, momentum=MOMENTUM)
    over = OverTime(norm, normalize_by=what)
    over.init_state(32)

    @jit
    def train(xs: Any) -> Any:
        for_loop(over, xs)
        over.end_sequence()

    mean, var = 0.0, 1.0
    with fit():
        for xs in sequences:
            train(xs)
            mean = MOMENTUM * mean + (1 - MOMENTUM) * xs.astype(float).mean()
            var = MOMENTUM * var + (1 - MOMENTUM) * xs.astype(float).var()
    pooled = sequences.astype(float).var((1, 2, 3)).mean()
    print(f"running variance {norm.running_var.value[0]:.2f}, pooled {pooled:.2f}")  # pytest -rP shows it
    np.testing.assert_allclose([norm.running_mean.value[0], norm.running_var.value[0]], [mean, var], rtol=1e-4)
    assert abs(norm.running_var.value[0] - pooled) < 0.1


@pytest.mark.parametrize("what", ["step", "past", "running"])
def test_evaluation_is_that_of_the_batch_norm(what: str) -> None:
    """It writes nothing, and needs neither a memory nor a batch nor an axis; so does a frozen one in training."""
    norm = BatchNorm(C, axis_name="devices")
    norm.running_mean.value, norm.running_var.value = jnp.asarray(MEAN, jnp.float32), jnp.asarray(VAR, jnp.float32)
    over = OverTime(norm, normalize_by=what)
    want = (X - MEAN) / np.sqrt(VAR + EPSILON)
    with fit(False):
        ys = jit(lambda x: (over.update_sequence(x), for_loop(over, x), vmap(over)(x), over(x[0, 0])))(X)
        for y in ys[:3]:
            np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ys[3], want[0, 0], rtol=1e-5, atol=1e-5)
        over.end_sequence()
    assert over.memory is None
    for holder in (over, norm):
        holder.frozen = True
        with fit():
            np.testing.assert_allclose(over(X[0]), want[0], rtol=1e-5, atol=1e-5)
            over.end_sequence()
        holder.frozen = False
    np.testing.assert_array_equal(kept(over), np.stack([MEAN, VAR]).astype(np.float32))


def test_a_compiled_function_follows_the_phase_and_the_freeze() -> None:
    over = made()
    run = jit(over)
    x = X[0].astype(np.float32)
    by_step, by_running = (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON), (x - MEAN) / np.sqrt(VAR + EPSILON)
    for train in (True, False, True):
        with fit(train):
            np.testing.assert_allclose(run(x), by_step if train else by_running, atol=1e-5)
    over.frozen = True
    np.testing.assert_allclose(run(x), by_running, atol=1e-5)
    over.frozen = False
    with pytest.raises(errors.PhaseError, match="not known whether to train or to evaluate"):
        run(x)


def test_devices_with_unequal_counts() -> None:
    """Two lanes, of which the second has half of the trials: one memory, and running statistics of all of them."""
    over, x = made("past", axis_name="lanes"), X.astype(np.float32)
    over.init_state(B // 2)
    alive = np.array([True, True, True, False])

    def run(x: Any, alive: Any) -> Any:
        return over.update_sequence(x, mask=alive[:, None])

    lanes = x.reshape(T, 2, B // 2, C)
    one = made("past")

    @jit
    def both(lanes: Any, alive: Any, x: Any) -> Any:
        y = vmap(run, in_axes=(1, 0), out_axes=1, axis_name="lanes")(lanes, alive.reshape(2, -1))
        over.end_sequence()
        want = one.update_sequence(x, mask=alive[None, :, None])
        one.end_sequence()
        return y, want

    with fit():
        y, want = both(lanes, alive, x)
    np.testing.assert_allclose(np.asarray(y).reshape(T, B, C), want, atol=2e-6)
    np.testing.assert_allclose(kept(over), kept(one), rtol=1e-5)


def test_groups_of_devices_keep_what_all_have_seen() -> None:
    """Each group is normalized by its own, in the memory too; the running statistics are those of all of them."""
    over, x = made("past", axis_name="lanes", axis_index_groups=[[0], [1, 2]]), draw(T, 3, C, loc=2.0)

    def lane(x: Any) -> Any:
        over.init_state()
        y = over.update_sequence(x)
        over.end_sequence()
        return y

    with fit():
        y = np.asarray(jit(vmap(lane, in_axes=1, out_axes=1, axis_name="lanes"))(x))
    for lanes in ([0], [1, 2]):
        rows = x[:, lanes].reshape(-1, C).astype(float)
        want = (x[-1, lanes] - rows.mean(0)) / np.sqrt(rows.var(0) + EPSILON)
        np.testing.assert_allclose(y[-1, lanes], want, atol=1e-5)
    rows = x.reshape(-1, C).astype(float)
    want = [MOMENTUM * a + (1 - MOMENTUM) * b for a, b in ((MEAN, rows.mean(0)), (VAR, rows.var(0)))]
    np.testing.assert_allclose(kept(over), want, rtol=1e-5)


def test_without_running_statistics_there_are_no_phases() -> None:
    over, x = made("past", track_running_stats=False), X.astype(np.float32)
    y = jit(lambda x: (over.update_sequence(x), over.end_sequence())[0])(x)
    rows = x.reshape(-1, C)
    np.testing.assert_allclose(y[-1], (x[-1] - rows.mean(0)) / np.sqrt(rows.var(0) + EPSILON), atol=1e-5)
    assert not any(np.any(v) for v in over.memory.value.values())


def test_a_frozen_memory_is_a_constant() -> None:
    """Both clocks, in values and gradients; neither a step nor a reset moves it, and compiled functions follow."""
    x, own = draw(T, 2, 4, loc=1.0), LayerNorm(4)
    over = OverTime(LayerNorm(4))
    over.init_state(2)
    step = jit(lambda x: over(x, reset=True))
    step(x[0])
    mean, std = x[0].mean(1)[:, None], np.sqrt(x[0].var(1) + 1e-6)[:, None]
    over.frozen = True
    before = {key: np.asarray(v).tobytes() for key, v in over.memory.value.items()}

    def loss(x: Any) -> Any:
        y = over.update_sequence(x, reset=True)
        return y.sum(), (y, for_loop(over, x))

    slope, ys = jit(lambda x: brainstate.transform.grad(loss, has_aux=True)(x))(jnp.asarray(x))
    for y in ys:
        np.testing.assert_allclose(y, (x - mean) / std, atol=1e-5)
    np.testing.assert_allclose(step(x[1]), (x[1] - mean) / std, atol=1e-5)
    np.testing.assert_allclose(slope, np.broadcast_to(1 / std, x.shape), rtol=1e-5)
    over.end_sequence()
    assert before == {key: np.asarray(v).tobytes() for key, v in over.memory.value.items()}
    over.frozen = False
    np.testing.assert_allclose(step(x[1]), own(x[1]), atol=1e-5)
    over.reset_state()
    over.frozen = True
    np.testing.assert_allclose(step(x[1]), own(x[1]), atol=1e-5)  # by an empty one: by its own


def test_a_memory_of_few_elements_is_not_used() -> None:
    """Below min_count a step is normalized by its own; from there on by the memory, to which the first ones count."""
    x = draw(5, 2, 4, loc=1.0)
    over = OverTime(LayerNorm(4), min_count=12)
    over.init_state(2)
    for y in jit(lambda x: (for_loop(over, x), over.reset_state(), over.update_sequence(x))[::2])(x):
        np.testing.assert_allclose(y[:2], LayerNorm(4)(x[:2]), atol=1e-5)
        for t in (2, 4):
            rows = np.swapaxes(x[: t + 1], 0, 1).reshape(2, -1)
            want = (x[t] - rows.mean(1)[:, None]) / np.sqrt(rows.var(1) + 1e-6)[:, None]
            np.testing.assert_allclose(y[t], want, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize_by": "all"}, "normalize_by must be 'step', 'past', 'running' or None; got 'all'"),
        ({"max_ratio": 0.5}, "max_ratio must be a number from 1 on, of standard deviations; got 0.5"),
        ({"max_ratio": "20"}, "max_ratio must be a number from 1 on"),
        ({"min_count": -1}, "min_count must be a number of elements, 0 or more; got -1"),
        ({"min_count": 10}, "min_count=10 applies to normalize_by='past' alone; got 'step'. Leave it out"),
        ({"frozen": 1}, "frozen must be True or False; got 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        OverTime(BatchNorm(C), **options)


def test_what_the_other_norms_have_not() -> None:
    with pytest.raises(errors.OptionError, match=r"normalize_by='step' is for a BatchNorm; got a LayerNorm. Write d"):
        OverTime(LayerNorm(C), normalize_by="step")
    with pytest.raises(errors.OptionError, match=r"normalize_by='running' is for .* LayerNorm. Wrap a BatchNorm"):
        OverTime(LayerNorm(C), normalize_by="running")
    with pytest.raises(errors.OptionError, match="normalize_by='running' needs running statistics, but track_runn"):
        OverTime(BatchNorm(C, track_running_stats=False), normalize_by="running")
