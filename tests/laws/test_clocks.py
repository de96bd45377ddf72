"""Law L9: what runs over a whole sequence and what runs step by step give the same numbers, and both the exact ones.

The truth is the naive one. For each step it weighs every element of every step up to it, and takes their mean and
variance in float64.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import for_loop, jit, vmap
from jax.sharding import PartitionSpec as P
from scipy.signal import lfilter

from braindnorm import GroupNorm, LayerNorm, OverTime, RMSNorm
from tests.support.norms import float64

T, TRIALS, CHANNELS = 12, 3, 4
KINDS: dict[str, tuple[Callable[..., Any], int]] = {
    "LayerNorm": (LayerNorm, 1),
    "RMSNorm": (RMSNorm, 1),
    "GroupNorm": (lambda size, **options: GroupNorm(size, num_groups=2, reduction_axes=(), **options), 2),
}


class Trials(NamedTuple):
    """A recording: what is valid, where trials begin, and how the past fades."""

    x: np.ndarray
    mask: np.ndarray
    reset: np.ndarray
    decay: float


def recording(decay: float, *, loc: float = 0.0, scale: float = 1.0, seed: int = 0) -> Trials:
    """Draw steps with gaps, steps with nothing valid, a trial that begins late and one that begins again."""
    rng = np.random.default_rng(seed)
    mask = rng.random((T, TRIALS, CHANNELS)) > 0.3
    mask[4:6, 0] = mask[:3, 1] = mask[7] = False
    reset = np.zeros((T, TRIALS), bool)
    reset[5, 0] = reset[8, 2] = True
    return Trials(rng.normal(loc, scale, (T, TRIALS, CHANNELS)), mask, reset, decay)


def weights(trials: Trials, groups: int) -> np.ndarray:
    """Return (now, step, group of channels, channel): what each element counts in the statistics of each step."""
    mask = trials.mask.reshape(T, TRIALS * groups, -1)
    reset = np.repeat(trials.reset, groups, axis=1)
    counted = np.zeros((T, *mask.shape))
    for now in range(T):
        if now:
            fade = np.where(mask[now].any(-1), trials.decay, 1.0) * ~reset[now]
            counted[now] = counted[now - 1] * fade[None, :, None]
        counted[now, now] = mask[now]
    return counted


def naive(x: Any, trials: Trials, kind: str, epsilon: float = 1e-6, xp: Any = np) -> Any:
    groups = KINDS[kind][1]
    w = weights(trials, groups)
    v = x.reshape(T, TRIALS * groups, -1)
    n = np.maximum(w.sum((1, 3)), 1e-300)[..., None]
    mean = (w * v).sum((1, 3))[..., None] / n * (kind != "RMSNorm")
    var = (w * (v[None] - mean[:, None]) ** 2).sum((1, 3))[..., None] / n
    z = (v - mean) / xp.sqrt(var + epsilon)
    return xp.where(trials.mask, z.reshape(x.shape), 0)


def stepped(norm: OverTime, x: Any, trials: Trials) -> Any:
    norm.reset_state()
    return for_loop(lambda x, m, r: norm(x, mask=m, reset=r), x, trials.mask, trials.reset)


def whole(norm: OverTime, x: Any, trials: Trials) -> Any:
    norm.reset_state()
    return jit(lambda x: norm.update_sequence(x, mask=trials.mask, reset=trials.reset))(x)


CLOCKS = {"stepped": stepped, "whole": whole}


def over_time(kind: str, decay: Any = None, **options: Any) -> OverTime:
    norm = OverTime(KINDS[kind][0](CHANNELS, **options), decay)
    norm.init_state(TRIALS)
    return norm


@pytest.mark.parametrize("decay", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_both_clocks_are_exact_in_float64(kind: str, decay: float) -> None:
    with float64():
        trials = recording(decay)
        norm = over_time(kind, decay)
        for clock in CLOCKS.values():
            assert np.allclose(clock(norm, trials.x, trials), naive(trials.x, trials, kind), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (-65.0, 0.01)])
def test_the_clocks_agree_in_float32(kind: str, loc: float, scale: float, fast: bool) -> None:
    trials = recording(1.0, loc=loc, scale=scale)
    x = trials.x.astype(np.float32)
    norm = over_time(kind, use_fast_variance=fast)
    a, b = stepped(norm, x, trials), whole(norm, x, trials)
    assert np.abs(a - b).max() < 3e-6
    assert np.abs(a - naive(x.astype(float), trials, kind)).max() < (2e-3 if loc and fast else 1e-5)


def test_the_prefix_variance() -> None:
    """The published cumulative norms square each step about its own running mean, and say 0, 0.5, 1.67, 3.5."""
    with float64():
        norm = OverTime(LayerNorm(1))
        norm.init_state()

        def variance(x: Any) -> Any:
            norm(x)
            return norm.statistics.var

        found = for_loop(variance, jnp.array([[0.0], [2.0], [4.0], [6.0]]))
        assert np.allclose(found[:, 0], [0, 1, 8 / 3, 5], rtol=1e-15)


class Gradient(NamedTuple):
    """The gradient of a weighted sum of the naive outputs, and its slopes along three directions by differences."""

    cotangent: np.ndarray
    expected: np.ndarray
    directions: list[np.ndarray]
    slopes: list[float]


@cache
def naive_gradient(kind: str, decay: float) -> Gradient:
    trials = recording(decay)
    cotangent = np.random.default_rng(1).normal(size=trials.x.shape)
    expected = jax.jit(jax.grad(lambda x: jnp.sum(cotangent * naive(x, trials, kind, xp=jnp))))(trials.x)
    directions, slopes, h = [], [], 1e-6
    for seed in range(3):
        direction = np.random.default_rng(seed).normal(size=trials.x.shape) * trials.mask
        up, down = (np.sum(cotangent * naive(trials.x + s * h * direction, trials, kind)) for s in (1, -1))
        directions.append(direction)
        slopes.append((up - down) / (2 * h))
    return Gradient(cotangent, np.asarray(expected), directions, slopes)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fast", [True, False])
def test_gradients_through_time(kind: str, clock: str, fast: bool) -> None:
    with float64():
        trials = recording(0.8)
        norm = over_time(kind, trials.decay, use_fast_variance=fast)
        truth = naive_gradient(kind, trials.decay)

        def loss(x: Any) -> Any:
            return jnp.sum(truth.cotangent * CLOCKS[clock](norm, x, trials))

        got = np.asarray(jit(brainstate.transform.grad(loss))(jnp.asarray(trials.x)))
        assert np.allclose(got, truth.expected, rtol=0, atol=1e-10)
        assert not got[~trials.mask].any()
        for direction, slope in zip(truth.directions, truth.slopes, strict=True):
            assert np.isclose(np.sum(got * direction), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_agrees_with_reverse_mode(kind: str) -> None:
    with float64():
        trials = recording(0.8)
        norm = over_time(kind, trials.decay)
        x = jnp.asarray(trials.x)
        tangent = np.random.default_rng(2).normal(size=x.shape)
        empty = norm.memory.value

        def sequence(x: Any) -> Any:
            y = norm.update_sequence(x, mask=trials.mask, reset=trials.reset)
            norm.memory.value = empty
            return y

        forward = jit(lambda x, t: brainstate.transform.jvp(sequence, (x,), (t,))[1])(x, jnp.asarray(tangent))
        expected = jax.jit(lambda x, t: jax.jvp(lambda x: naive(x, trials, kind, xp=jnp), (x,), (t,))[1])(x, tangent)
        assert np.allclose(forward, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("clock", CLOCKS)
def test_nothing_of_the_future_and_nothing_of_the_padding(clock: str) -> None:
    trials = recording(1.0)
    x = trials.x.astype(np.float32)
    norm = over_time("LayerNorm")
    run = jit(lambda x: CLOCKS[clock](norm, x, trials))
    clean = run(x)
    for bad in (np.nan, np.inf):
        padded = np.where(trials.mask, x, bad)
        assert np.array_equal(run(padded), clean)
        later = x.copy()
        later[9:] = bad
        assert np.array_equal(run(later)[:9], clean[:9])


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_reset_forgets_even_a_nan(clock: str) -> None:
    trials = recording(1.0)
    x = trials.x.astype(np.float32)
    norm = over_time("LayerNorm")
    run = jit(lambda x: CLOCKS[clock](norm, x, trials))
    clean = run(x)
    x[:5, 0] = np.nan
    broken = run(x)
    assert np.isnan(broken[:5, 0]).any()
    assert np.allclose(broken[5:, 0], clean[5:, 0], atol=1e-5)
    assert np.isfinite(broken[:, 1:]).all()


@pytest.mark.parametrize(("kind", "decay"), [("LayerNorm", 0.01), ("LayerNorm", 0.0)])
def test_what_is_not_finite_is_never_forgotten(kind: str, decay: float) -> None:
    """However small its weight: unless nothing is remembered at all, or the trial begins anew."""
    steps = 1100
    x = np.random.default_rng(0).normal(size=(steps, TRIALS, CHANNELS)).astype(np.float32)
    x[40, 0, 1], x[600, 1, 2] = np.nan, np.inf
    mask = np.random.default_rng(1).random(x.shape) > 0.3
    mask[40, 0, 1] = mask[600, 1, 2] = True
    mask[41:45] = False
    reset = np.zeros((steps, TRIALS), bool)
    reset[900, 0] = True
    everywhere = Trials(x, np.ones_like(mask), np.zeros_like(reset), decay)
    norm = over_time(kind, decay)
    for trials in (everywhere, Trials(x, mask, reset, decay)):
        broken = np.zeros((steps, TRIALS, 1), bool)
        last = 40 if decay == 0 else 900 if trials.reset.any() else steps
        broken[40 : last + (decay == 0), 0] = broken[600 : 601 if decay == 0 else steps, 1] = True
        plain = trials is everywhere
        run = jit(lambda x: norm.update_sequence(x)) if plain else jit(lambda x, t=trials: whole(norm, x, t))
        norm.reset_state()
        for y in (stepped(norm, x, trials), (norm.reset_state(), run(x))[1]):
            assert np.array_equal(np.isnan(y), broken & trials.mask)
            assert np.array_equal(np.isnan(norm.statistics.var), broken[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_goes_on_where_the_last_step_was(kind: str) -> None:
    with float64():
        trials = recording(0.8)
        norm = over_time(kind, trials.decay)
        expected = naive(trials.x, trials, kind)
        norm.reset_state()
        parts = []
        for part in (slice(0, 4), slice(4, 8), slice(8, T)):
            x, mask, reset = (v[part] for v in trials[:3])
            if part.start == 4:
                parts.append(for_loop(lambda x, m, r: norm(x, mask=m, reset=r), x, mask, reset))
            else:
                parts.append(jit(lambda x, m, r: norm.update_sequence(x, mask=m, reset=r))(x, mask, reset))
        assert np.allclose(np.concatenate(parts), expected, rtol=0, atol=1e-11)


def test_under_vmap_each_trial_has_its_own_memory() -> None:
    with float64():
        trials = recording(0.8)
        norm = OverTime(LayerNorm(CHANNELS), trials.decay)

        def trial(x: Any, m: Any, r: Any) -> Any:
            norm.init_state()
            return norm.update_sequence(x, mask=m, reset=r)

        got = jit(lambda: vmap(trial, in_axes=1, out_axes=1)(trials.x, trials.mask, trials.reset))()
        assert np.allclose(got, naive(trials.x, trials, "LayerNorm"), rtol=0, atol=1e-11)


@pytest.mark.parametrize("clock", CLOCKS)
def test_statistics_over_mapped_trials_too(clock: str) -> None:
    """With axis_name the trials share one memory: the truth is one trial with all channels."""
    with float64():
        trials = recording(0.8)
        trials = trials._replace(reset=np.repeat(trials.reset[:, :1], TRIALS, axis=1))
        norm = OverTime(LayerNorm(CHANNELS, axis_name="trials"), trials.decay)

        def trial(x: Any, m: Any, r: Any) -> Any:
            norm.init_state()
            return CLOCKS[clock](norm, x, Trials(x, m, r, 1))

        mapped = vmap(trial, in_axes=1, out_axes=1, axis_name="trials")
        got = jit(lambda: mapped(trials.x, trials.mask, trials.reset))()
        norm = OverTime(LayerNorm((TRIALS, CHANNELS), (-2, -1), (-2, -1)), trials.decay)
        norm.init_state()
        expected = CLOCKS[clock](norm, trials.x, trials._replace(reset=trials.reset[:, 0]))
        assert np.allclose(got, expected, rtol=0, atol=1e-11)


def test_units() -> None:
    with float64():
        trials = recording(0.8, loc=-65)
        norm = over_time("LayerNorm", trials.decay, unit=u.mV, out_unit=u.UNITLESS)
        expected = naive(trials.x, trials, "LayerNorm")
        for clock in CLOCKS.values():
            assert np.allclose(clock(norm, trials.x * 1e-3 * u.volt, trials), expected, rtol=0, atol=1e-9)
        assert u.get_unit(norm.statistics.mean) == u.mV


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_each_step_on_both_clocks(kind: str) -> None:
    trials = recording(1.0)
    norm = over_time(kind, param_steps=T)
    parameter = norm.norm.scale if kind == "RMSNorm" else norm.norm.weight
    scale = np.random.default_rng(3).normal(size=(T, CHANNELS)).astype(np.float32)
    parameter.value = {**parameter.value, "scale": jnp.asarray(scale)}

    def step(i: Any, x: Any, m: Any, r: Any) -> Any:
        with brainstate.environ.context(i=i):
            return norm(x, mask=m, reset=r)

    x = trials.x.astype(np.float32)
    a = for_loop(step, jnp.arange(T), x, trials.mask, trials.reset)
    norm.reset_state()
    b = whole(norm, x, trials)
    assert np.allclose(a, b, atol=3e-6)
    assert np.allclose(a, naive(trials.x, trials, kind) * scale[:, None], atol=1e-5)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(
    ("check_vma", "fast", "compiled"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_channels_shared_among_devices(clock: str, check_vma: bool, fast: bool, compiled: bool) -> None:
    """The memory is one, replicated; the channels, the scale and the mask are in shards."""
    trials = recording(0.8)
    whole_norm = over_time("LayerNorm", trials.decay)
    x = trials.x.astype(np.float32)
    expected = jit(lambda x: CLOCKS[clock](whole_norm, x, trials))(x)
    options = {"axis_name": "channels", "use_scale": False, "use_bias": False, "use_fast_variance": fast}
    norm = over_time("LayerNorm", trials.decay, **options)
    spec = P(None, None, "channels")

    def run(x: Any, mask: Any) -> Any:
        if clock == "whole":
            return norm.update_sequence(x, mask=mask, reset=trials.reset)
        return for_loop(lambda x, m, r: norm(x, mask=m, reset=r), x, mask, trials.reset)

    mesh = jax.make_mesh((2,), ("channels",))
    sharded = brainstate.transform.shard_map(run, mesh, in_specs=(spec, spec), out_specs=spec, check_vma=check_vma)
    call = jit(sharded) if compiled else sharded
    assert np.allclose(call(jnp.asarray(x), jnp.asarray(trials.mask)), expected, atol=3e-6)
    for key, v in whole_norm.memory.value.items():
        assert np.allclose(norm.memory.value[key], v, rtol=1e-5, atol=1e-6)


def test_backpropagation_through_a_compiled_and_a_checkpointed_loop() -> None:
    norm = over_time("LayerNorm", 0.9)
    weight = brainstate.ParamState(jnp.eye(CHANNELS))
    x = jnp.asarray(recording(1.0).x, jnp.float32)

    def loss(run: Callable[..., Any]) -> Any:
        norm.reset_state()
        return jnp.sum(run(lambda v: norm(v @ weight.value)) ** 3)

    runs: list[Callable[..., Any]] = [
        lambda step: for_loop(step, x),
        lambda step: brainstate.transform.checkpointed_for_loop(step, x),
        lambda _: norm.update_sequence(x @ weight.value),
    ]
    a, b, c = (jit(brainstate.transform.grad(lambda run=run: loss(run), weight))() for run in runs)
    assert np.abs(a).max() > 1
    assert np.allclose(a, b, atol=1e-4) and np.allclose(a, c, atol=1e-4)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("channels", [41, 83])
def test_a_constant_shift_has_no_tangent(clock: str, channels: int) -> None:
    norm = OverTime(LayerNorm(channels, use_fast_variance=False), 0.9)
    norm.init_state(2)
    empty = norm.memory.value
    x = jnp.asarray(np.random.default_rng(0).normal(-65, 0.01, (5, 2, channels)), jnp.float32)

    def run(x: Any) -> Any:
        y = norm.update_sequence(x) if clock == "whole" else for_loop(norm, x)
        norm.memory.value = empty
        return y

    tangent = jit(lambda x: brainstate.transform.jvp(run, (x,), (jnp.ones_like(x),))[1])(x)
    assert not np.asarray(tangent).any()


def test_a_memory_made_for_vmap() -> None:
    trials = recording(1.0)
    norm = OverTime(LayerNorm(CHANNELS))
    brainstate.nn.vmap_init_all_states(norm, axis_size=TRIALS)
    memory = norm.states(brainstate.ShortTermState)
    step = vmap(lambda x, m: norm(x, mask=m), in_states=memory, out_states=memory)
    x = jnp.asarray(trials.x, jnp.float32)
    got = [step(x[t], jnp.asarray(trials.mask[t])) for t in range(3)]
    expected = naive(trials.x, trials, "LayerNorm")
    assert np.allclose(np.stack(got), expected[:3], atol=3e-6)


LONG = 100_000


def one_by_one(x: np.ndarray, decay: float) -> np.ndarray:
    """Standardize (steps, ..., channels) by sums over the past, in float64 and about the last sample."""
    v = x - x[-1:, ..., :1]
    terms = np.stack([np.ones_like(v), v, v**2]).sum(-1)
    count, total, squares = lfilter([1.0], [1.0, -decay], terms, axis=1)[..., None]
    mean = total / count
    return (v - mean) / np.sqrt(squares / count - mean**2 + 1e-6)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999, 0.9999, 1.0])
def test_long_recordings_of_a_membrane_at_rest(decay: float, fast: bool) -> None:
    """Beginning at rest or elsewhere, with noise, and at a constant potential, which is to become the mean."""
    x = np.random.default_rng(0).normal(-65, 0.01, (LONG, 6, 2))
    x[:, 3:] = -65.3
    x[0] = np.array([0, -70, -64.7, 0, -70, -65])[:, None]
    x = x.astype(np.float32)
    expected = one_by_one(x.astype(float), decay)
    norm = OverTime(LayerNorm(2, use_fast_variance=fast), decay)
    norm.init_state(6)
    run = jit(lambda x: for_loop(norm, x))(x)
    norm.reset_state(6)
    for z in (run, jit(norm.update_sequence)(x)):
        error = np.abs(z - expected).max((0, 2))
        assert error[:3].max() < (2e-3 if fast else 1e-5)
        assert error[3:].max() < 1e-5


def test_a_long_recording_of_two_potentials_under_vmap() -> None:
    """The sums grow by nearly the same in each step, which one float rounds in the same direction each time."""
    x = np.where(np.arange(LONG)[:, None, None] % 2, -65.01, [[-64.99], [-60.0]]).astype(np.float32)
    norm = OverTime(LayerNorm(1, use_fast_variance=False), 0.9999)

    def trial(x: Any) -> Any:
        norm.init_state()
        return for_loop(norm, x)

    z = jit(lambda x: vmap(trial, in_axes=1, out_axes=1)(x))(x)
    for lane in range(2):
        assert np.abs(z[:, lane] - one_by_one(x[:, lane].astype(float), 0.9999)).max() < 1e-5


@pytest.mark.parametrize("clock", ["loop", "sequence"])
def test_a_memory_made_at_32_bit_serves_64(clock: str) -> None:
    """Two floats of 32 bit hold the digits of one of 64; and the state keeps its dtype."""
    norm = OverTime(LayerNorm(2), 0.99)
    norm.init_state()
    with float64():
        x = np.random.default_rng(0).normal(-65, 0.01, (2000, 2))
        parts = (x[:7], x[7:])
        z = for_loop(norm, x) if clock == "loop" else np.concatenate([jit(norm.update_sequence)(v) for v in parts])
        assert np.abs(z - one_by_one(x, 0.99)).max() < 1e-9
        assert {v.dtype for v in norm.memory.value.values()} == {np.dtype("float32")}
        assert norm.statistics.mean.dtype == np.float64


@pytest.mark.parametrize("clock", ["loop", "sequence"])
def test_gradients_of_a_membrane_at_rest(clock: str) -> None:
    """In float32, beside the naive statistics in float64; relative to the largest."""
    x = recording(0.9, loc=-65, scale=0.01).x.astype(np.float32)
    x[0] = -70
    trials = Trials(x, np.ones(x.shape, bool), np.zeros(x.shape[:2], bool), 0.9)
    cotangent = np.random.default_rng(1).normal(size=x.shape)
    norm = over_time("LayerNorm", 0.9, use_fast_variance=False)

    def loss(x: Any) -> Any:
        norm.reset_state()
        y = for_loop(norm, x) if clock == "loop" else norm.update_sequence(x)
        return jnp.sum(cotangent.astype(np.float32) * y)

    got = np.asarray(jit(brainstate.transform.grad(loss))(jnp.asarray(x)))
    with float64():
        wide = jnp.asarray(x, jnp.float64)
        exact = lambda x: jnp.sum(cotangent * naive(x, trials, "LayerNorm", xp=jnp))  # noqa: E731
        expected = np.asarray(jax.jit(jax.grad(exact))(wide))
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_channels_shared_among_devices_without_a_mask() -> None:
    x = jnp.asarray(np.random.default_rng(4).normal(size=(70, TRIALS, CHANNELS)), jnp.float32)
    norm = over_time("LayerNorm", 0.8, axis_name="channels", use_scale=False, use_bias=False)
    spec = P(None, None, "channels")
    mesh = jax.make_mesh((2,), ("channels",))
    sharded = brainstate.transform.shard_map(norm.update_sequence, mesh, in_specs=spec, out_specs=spec)
    expected = one_by_one(np.asarray(x, float), 0.8)
    assert np.allclose(jit(sharded)(x), expected, atol=3e-6)
