"""OverTime as a layer: its memory, its resets, its forgetting, and what it refuses."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import for_loop, jit

from braindnorm import GroupNorm, LayerNorm, OverTime, RMSNorm, step_mask
from braindnorm.errors import AxisError, MaskError, OptionError, UnitError
from tests.support.norms import draw

X = draw(6, 3, 4)


def made(norm: Any = None, batch_size: Any = 3, **options: Any) -> OverTime:
    layer = OverTime(LayerNorm(4) if norm is None else norm, **options)
    layer.init_state(batch_size)
    return layer


def bits(layer: OverTime) -> dict[str, bytes]:
    return {key: np.asarray(v).tobytes() for key, v in layer.memory.value.items()}


def test_a_masked_step_leaves_the_memory_bit_for_bit() -> None:
    layer = made(decay=0.9)
    layer(X[0])
    layer(X[1])
    before = bits(layer)
    y = layer(np.full((3, 4), np.nan), mask=False)
    assert bits(layer) == before
    assert not np.asarray(y).any()
    old = {key: np.asarray(v) for key, v in layer.memory.value.items()}
    mask = np.ones((3, 4), bool)
    mask[1] = mask[0, :2] = False
    layer(X[2], mask=mask)
    for key, v in layer.memory.value.items():
        assert np.asarray(v)[1].tobytes() == old[key][1].tobytes()
    assert (np.asarray(layer.memory.value["count"])[:, 0] != old["count"][:, 0]).tolist() == [True, False, True]


def test_a_step_of_its_own_is_the_norm_itself() -> None:
    for norm in (LayerNorm(4), RMSNorm(4), GroupNorm(4, num_groups=2)):
        for layer in (made(norm), made(norm, decay=0.0)):
            assert np.allclose(layer(X[0]), norm(X[0]), atol=1e-6)
        assert np.allclose(layer(X[1]), norm(X[1]), atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "batch_size", "shape"),
    [
        (LayerNorm(4), None, (1,)),
        (LayerNorm(4), 3, (3, 1)),
        (LayerNorm(4), (2, 3), (2, 3, 1)),
        (LayerNorm((5, 4), (-2, -1)), 3, (3, 1, 1)),
        (LayerNorm(4, 0), 3, (1, 4)),
        (GroupNorm((5, 4), num_groups=2), 3, (3, 1, 4)),
    ],
)
def test_the_memory_is_of_plain_arrays_of_the_shape_of_the_statistics(norm: Any, batch_size: Any, shape: Any) -> None:
    layer = made(norm, batch_size)
    assert isinstance(layer.memory, brainstate.ShortTermState)
    assert {np.shape(v) for v in layer.memory.value.values()} == {shape}
    batch = () if batch_size is None else tuple(np.atleast_1d(batch_size))
    x = draw(*batch, *norm.in_size)
    assert layer(x).shape == x.shape
    assert jit(layer.update_sequence)(np.stack([x, x])).shape == (2, *x.shape)
    assert {np.shape(v) for v in layer.memory.value.values()} == {shape}


def test_init_all_states_and_reset_all_states_find_it() -> None:
    net = brainstate.nn.Sequential(OverTime(LayerNorm(4)), OverTime(RMSNorm(4)))
    brainstate.nn.init_all_states(net, 3)
    first = net(X[0])
    net(X[1])
    brainstate.nn.reset_all_states(net)
    assert np.array_equal(net(X[0]), first)
    net[0].reset_state(2)
    assert net[0].memory.value["mean"].shape == (2, 1)


def test_statistics_read_the_memory_with_its_units() -> None:
    layer = made(LayerNorm(4, unit=u.mV))
    for x in X:
        layer(x * 1e-3 * u.volt)
    seen = np.swapaxes(X, 0, 1).reshape(3, -1).astype(float)
    count, mean, var = layer.statistics
    assert np.array_equal(count[:, 0], np.full(3, 24))
    assert np.allclose(mean.to_decimal(u.mV)[:, 0], seen.mean(1), atol=1e-6)
    assert np.allclose(var.to_decimal(u.mV**2)[:, 0], seen.var(1), rtol=1e-5)


def test_a_reset_of_some_trials() -> None:
    layer, fresh = made(), made()
    layer(X[0])
    layer(X[1])
    y = layer(X[2], reset=[0, 1, 0])
    assert np.allclose(y[1], fresh(X[2])[1], atol=1e-6)
    assert layer.memory.value["count"][:, 0].tolist() == [12, 4, 12]
    layer(X[3], mask=False, reset=True)
    assert not any(np.any(v) for v in layer.memory.value.values())


def test_tau_is_a_decay_of_dt() -> None:
    with brainstate.environ.context(dt=100 * u.us):
        a, b = made(tau=1 * u.ms), made(decay=np.exp(-0.1))
        assert np.allclose(a.update_sequence(X), b.update_sequence(X), atol=1e-6)
    with brainstate.environ.context(dt=0.1):
        assert np.allclose(for_loop(made(tau=1.0), X), made(decay=np.exp(-0.1)).update_sequence(X), atol=1e-6)


@pytest.mark.parametrize("time_axis", [0, 1, -2])
def test_time_is_where_time_axis_says(time_axis: int) -> None:
    expected = made().update_sequence(X, mask=X > -1, reset=np.arange(6) == 3)
    layer = made(LayerNorm(4, unit=u.mV, out_unit=u.UNITLESS), time_axis=time_axis)
    xs = np.moveaxis(X, 0, time_axis)
    reset = (np.arange(6) == 3).reshape((6,) if time_axis == 0 else (1, 6))
    got = layer.update_sequence(xs * u.mV, mask=xs > -1, reset=reset)
    assert np.allclose(np.moveaxis(np.asarray(got), time_axis, 0), expected, atol=1e-6)


@pytest.mark.parametrize("masked_output", ["zero", "input", "normalize"])
def test_masked_output_is_that_of_the_norm(masked_output: str) -> None:
    layer = made(LayerNorm(4, masked_output=masked_output))
    layer(X[0])
    mean, var = (np.asarray(v) for v in layer.statistics[1:])
    y = layer(X[1], mask=False)
    expected = {"zero": 0 * X[1], "input": X[1], "normalize": (X[1] - mean) / np.sqrt(var + 1e-6)}
    assert np.allclose(y, expected[masked_output], atol=1e-5)


def test_the_step_mask_is_seen_on_both_clocks() -> None:
    layer = made()
    alive = np.array([True, False, True])
    with step_mask(alive):
        a = for_loop(layer, X)
    layer.reset_state()
    with step_mask(np.broadcast_to(alive, (6, 3))):
        b = layer.update_sequence(X)
    layer.reset_state()
    c = layer.update_sequence(X, mask=alive[:, None])
    assert np.allclose(a, c, atol=1e-6) and np.allclose(b, c, atol=1e-6)
    assert not np.asarray(c)[:, 1].any()


def test_execute_of_a_param_type_is_called() -> None:
    class Doubled(brainstate.ParamState):
        def execute(self, z: jax.Array) -> jax.Array:
            return 2 * z

    doubled = made(LayerNorm(4, param_type=Doubled))
    assert np.allclose(doubled.update_sequence(X), 2 * made().update_sequence(X), atol=1e-6)


def test_half_precision_comes_back_in_half_precision() -> None:
    layer = made(RMSNorm(4, use_scale=False))
    y = jit(layer.update_sequence)(jnp.asarray(X, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert layer.memory.value["m2"].dtype == jnp.float32


def test_a_memory_must_be_made_first() -> None:
    with pytest.raises(OptionError, match=r"OverTime\(in_size=\(4,\)\): there is no memory yet. Call init_state"):
        OverTime(LayerNorm(4))(X[0])


def test_a_reset_makes_the_memory_where_there_is_none() -> None:
    layer, whole = OverTime(LayerNorm(4)), made()
    layer.reset_state(3)
    assert bits(layer) == bits(whole)
    assert np.array_equal(layer(X[0]), whole(X[0]))


def test_a_memory_of_another_size() -> None:
    with pytest.raises(AxisError, match=r"step are of shape \(2, 1\), but the memory is of shape \(3, 1\)"):
        made()(X[0, :2])
    with pytest.raises(AxisError, match="init_state"):
        made()(X)


def test_a_memory_has_one_unit() -> None:
    with pytest.raises(UnitError, match=r"input in mV, but the norm has unit=None. Build it with LayerNorm\("):
        made()(X[0] * u.mV)
    with pytest.raises(UnitError, match="declared with unit=mV"):
        made(LayerNorm(4, unit=u.mV))(X[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.5}, "decay must lie between 0 .* got 1.5"),
        ({"decay": -0.1}, "decay must lie between"),
        ({"decay": float("nan")}, "decay must lie between"),
        ({"decay": "slow"}, "decay must be one number"),
        ({"decay": [0.5, 0.5]}, "decay must be one number"),
        ({"decay": 0.5 * u.ms}, "decay=0.5 ms has a unit, and a factor has none. Did you mean tau=0.5 ms"),
        ({"tau": "slow"}, "tau must be one number; got 'slow'"),
        ({"tau": 0 * u.ms}, "tau must be longer than 0"),
        ({"tau": 1 * u.ms, "decay": 0.5}, "not both"),
    ],
)
def test_what_is_no_forgetting(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        OverTime(LayerNorm(4), **options)


def test_a_decay_that_is_traced_is_refused() -> None:
    with pytest.raises(OptionError, match="known when the norm is built"):
        jax.jit(lambda d: OverTime(LayerNorm(4), d).in_size)(0.5)


def test_an_endless_tau_forgets_nothing() -> None:
    with brainstate.environ.context(dt=0.1 * u.ms):
        assert np.array_equal(made(tau=np.inf * u.ms).update_sequence(X), made(decay=1.0).update_sequence(X))


def test_tau_needs_a_time_step_of_its_kind() -> None:
    with pytest.raises(OptionError, match=r"the environment has no time step. Write brainstate\.environ\.set"):
        made(tau=1 * u.ms)(X[0])
    for dt in (0.1, 0.1 * u.mV):
        message = r"tau=1 ms and the environment's time step dt=0.1.* must both be times, .*dt=.* \* brainunit.ms\)"
        with brainstate.environ.context(dt=dt), pytest.raises(UnitError, match=message):
            made(tau=1 * u.ms)(X[0])
    message = r"tau=10.* must both be times.* Write tau=.* \* brainunit.ms and brainstate.environ.set\(dt="
    for tau in (10.0, 10 * u.mV):
        with brainstate.environ.context(dt=0.1 * u.ms), pytest.raises(UnitError, match=message):
            made(LayerNorm(4, unit=u.mV), tau=tau)(X[0] * u.mV)


@pytest.mark.parametrize("dt", [-1.0, 0.0, float("nan"), [0.1, 0.1]])
def test_a_time_step_is_longer_than_nothing(dt: Any) -> None:
    layer = made(tau=1 * u.ms)
    with brainstate.environ.context(dt=jnp.asarray(dt) * u.ms):
        for call in (layer, jit(layer)):
            with pytest.raises(OptionError, match="time step dt must be one time, longer than 0; got"):
                call(X[0])


def test_a_time_step_that_is_traced() -> None:
    @jit
    def run(dt: Any) -> Any:
        with brainstate.environ.context(dt=dt * u.ms):
            layer.reset_state()
            return layer.update_sequence(X)

    layer = made(tau=1 * u.ms)
    assert np.allclose(run(0.1), made(decay=np.exp(-0.1)).update_sequence(X), atol=1e-6)
    assert np.isnan(np.asarray(run(-0.1))).all()


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (brainstate.nn.LayerNorm(4), r"got a brainstate.nn.LayerNorm\. Convert .* interop.from_brainstate\(norm\)"),
        (OverTime(LayerNorm(4)), r"got a braindnorm.layers.*OverTime\.$"),
        (LayerNorm, r"got the class LayerNorm. Build it first: LayerNorm\(in_size\)"),
    ],
    ids=["brainstate", "twice", "class"],
)
def test_what_is_no_norm(norm: Any, message: str) -> None:
    with pytest.raises(
        OptionError, match=r"OverTime wraps a norm of braindnorm \(LayerNorm, .*BatchNorm.*\); " + message
    ):
        OverTime(norm)


def test_a_norm_with_an_update_of_its_own() -> None:
    class Doubled(LayerNorm):
        def update(self, x: Any, *, mask: Any = None) -> Any:
            return 2 * super().update(x, mask=mask)

    class Named(LayerNorm):
        pass

    with pytest.raises(OptionError, match=r"got a Doubled, whose update is its own\..* Wrap a plain LayerNorm"):
        OverTime(Doubled(4))
    assert np.allclose(made(Named(4)).update_sequence(X), made().update_sequence(X))


def test_resets_and_axes_that_do_not_fit() -> None:
    with pytest.raises(MaskError, match=r"the reset of shape \(4,\) does not fit the leading axes"):
        made()(X[0], reset=np.zeros(4, bool))
    with pytest.raises(MaskError, match=r"reset of shape \(3,\) .* of which \(6, 3\) are .* or 1 long"):
        made().update_sequence(X, reset=[0, 1, 0])  # the first of the leading axes is time
    with pytest.raises(MaskError, match=r"the reset is of dtype float32"):
        made()(X[0], reset=X[0, :, 0])
    with pytest.raises(MaskError, match="the statistics run over all of them"):
        made(LayerNorm(4, reduction_axes=(0, 1)))(X[0], reset=[1, 0, 0])
    with pytest.raises(AxisError, match="Time comes before them"):
        made(time_axis=-1).update_sequence(X)
    with pytest.raises(AxisError, match="time_axis=5 has no axis"):
        made(time_axis=5).update_sequence(X)
    for time_axis in ((0, 1), ()):
        with pytest.raises(AxisError, match=r"time_axis must be one integer, the axis of xs that is time; got \("):
            made(time_axis=time_axis)
    with pytest.raises(AxisError, match="time_axis must be an integer"):
        made(time_axis=1.5)
    with pytest.raises(OptionError, match="is not one of the param_steps=5 steps"):
        made(LayerNorm(4, param_steps=5)).update_sequence(X)


def test_before_the_first_valid_step_z_is_zero() -> None:
    """What is masked is normalized too, and there is nothing yet to normalize it with."""
    layer = made(LayerNorm(4, masked_output="normalize"))
    assert not np.asarray(layer(X[0], mask=False)).any()


@pytest.mark.parametrize("batch_size", [3.0, -1, "a", True, (2, -1), [2, 1.5]], ids=repr)
def test_what_is_no_batch_size(batch_size: Any) -> None:
    layer = OverTime(LayerNorm(4))
    for make in (layer.init_state, made().reset_state):
        with pytest.raises(OptionError, match=r"OverTime.*batch_size must be the batch axes of a step's input.*got"):
            make(batch_size)


def test_any_integer_is_a_batch_size() -> None:
    for batch_size in (3, np.int8(3), np.array(3), (3,), np.array([3])):
        assert made(batch_size=batch_size).memory.value["m2"].shape == (3, 1)


def test_a_sequence_that_begins_anew_does_so_once() -> None:
    """A reset without an axis of time, or with one entry for all of it, is of the first step."""
    fresh = np.asarray(made().update_sequence(X))
    for reset in (True, np.True_, [1], [[1, 1, 1]]):
        layer = made()
        layer.update_sequence(X[::-1])
        assert np.allclose(layer.update_sequence(X, reset=reset), fresh, atol=1e-6)
        assert layer.memory.value["count"][:, 0].tolist() == [24, 24, 24]
    layer = made()
    layer.update_sequence(X[::-1])
    layer.update_sequence(X, reset=np.array([0, 1, 0])[None])
    assert layer.memory.value["count"][:, 0].tolist() == [48, 24, 48]
    layer = made(time_axis=1)
    xs = np.swapaxes(X, 0, 1)
    layer.update_sequence(xs[:, ::-1])
    layer.update_sequence(xs, reset=[0, 1, 0])
    assert layer.memory.value["count"][:, 0].tolist() == [48, 24, 48]


@pytest.mark.parametrize("reset", [None, True])
def test_a_sequence_of_no_steps_changes_nothing(reset: Any) -> None:
    layer = made()
    layer.update_sequence(X)
    before = bits(layer)
    assert jit(lambda x: layer.update_sequence(x, reset=reset))(X[:0]).shape == (0, 3, 4)
    assert bits(layer) == before


def test_a_masked_sequence_leaves_the_memory_bit_for_bit() -> None:
    layer = made(decay=0.9)
    layer.update_sequence(X)
    before = bits(layer)
    layer.update_sequence(np.full((5, 3, 4), np.nan), mask=False)
    assert bits(layer) == before


def test_arrays_of_numpy_are_handed_over_whole() -> None:
    layer, expected = made(), made()(X[0])
    assert np.array_equal(X[0] >> layer, expected)
    layer.reset_state()
    quantity = (X[0] * u.mV) >> layer
    assert u.get_unit(quantity) == u.mV and np.array_equal(quantity.mantissa, expected)
