"""What is recorded of a run, under every transformation; what is drawn; what is warned of."""

import sys
import warnings
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import nn

from braindnorm import BatchNorm, GroupNorm, LayerNorm, RMSNorm, bntt, monitor, step_mask
from braindnorm.errors import OptionError, PackageError, UnitError

T, B, C = 6, 4, 8


def potential() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((T, B, C)) * 3 - 65
    return values.astype(np.float32)


def net_of(norm: Any) -> nn.Sequential:
    return nn.Sequential(nn.Sequential(norm), lambda z: 2 * z)


def expected(v: np.ndarray, valid: np.ndarray, axes: tuple[int, ...] = (-1,)) -> tuple[np.ndarray, np.ndarray]:
    """Return, step by step in float64, the mean and the spread within groups of the valid elements."""
    masked = np.where(valid, v.astype(np.float64), np.nan)
    deviation = masked - np.nanmean(masked, axis=axes, keepdims=True)
    steps = tuple(range(1, v.ndim))
    return np.nanmean(masked, axis=steps), np.sqrt(np.nanmean(deviation**2, axis=steps))


RUNS = {
    "for_loop": lambda net, v: brainstate.transform.for_loop(net, v),
    "jit": lambda net, v: brainstate.transform.jit(lambda v: brainstate.transform.for_loop(net, v))(v),
    "vmap inside": lambda net, v: brainstate.transform.for_loop(lambda x: brainstate.transform.vmap(net)(x), v),
    "vmap outside": lambda net, v: brainstate.transform.vmap(
        lambda x: brainstate.transform.for_loop(net, x), in_axes=1, out_axes=1
    )(v),
    "vmap2": lambda net, v: brainstate.transform.vmap2(
        lambda x: brainstate.transform.for_loop(net, x), in_axes=1, out_axes=1
    )(v),
    "python": lambda net, v: jnp.stack([net(x) for x in v]),
}


@pytest.mark.parametrize("run", RUNS)
def test_statistics_of_a_run(run: str) -> None:
    v, net = potential(), net_of(LayerNorm(C, epsilon=0.0))
    plain = RUNS[run](net, v)
    with monitor.record(net, T) as records:
        recorded = RUNS[run](net, v)
    np.testing.assert_array_equal(recorded, plain)
    assert list(records) == ["layers.0.layers.0"]
    found = records["layers.0.layers.0"].read()
    mean, std = expected(v, np.ones_like(v, bool))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, std, rtol=1e-5)
    np.testing.assert_array_equal(found.count, B * C)
    np.testing.assert_array_equal(found.masked, 0)
    np.testing.assert_allclose(found.out_mean, 0, atol=1e-5)
    np.testing.assert_allclose(found.out_std, 1, rtol=1e-5)


def test_nested_vmap_adds_up_over_all_of_it() -> None:
    v, norm = potential(), monitor.Recorded(LayerNorm(C), 1)
    jax.vmap(jax.vmap(norm))(v)
    assert norm.read().count == [T * B * C]
    np.testing.assert_allclose(norm.read().mean, [v.mean(dtype=np.float64)], rtol=1e-6)


def test_derivatives_are_those_of_the_norm() -> None:
    v, norm = potential()[0], LayerNorm(C)
    recorded = monitor.Recorded(norm, 3)
    loss = lambda f, x: jnp.sum(jnp.square(f(x)) * jnp.arange(C))  # noqa: E731
    for transform in (brainstate.transform.grad, lambda f: brainstate.transform.jit(brainstate.transform.grad(f))):
        np.testing.assert_array_equal(transform(lambda x: loss(recorded, x))(v), transform(lambda x: loss(norm, x))(v))
    assert recorded.calls == 2


def test_a_norm_without_a_unit_takes_several_dimensions() -> None:
    v, recorded = potential(), monitor.Recorded(LayerNorm(C), 4)
    for x in (v[0] * u.mV, v[1] * u.nA, v[2] / 1000 * u.volt, v[3]):
        recorded(x)
    mean = v.mean((1, 2), dtype=np.float64)
    for unit, steps in ((u.mV, [0, 2]), (u.nA, [1]), (u.UNITLESS, [3])):
        found = recorded.read(unit)
        assert u.get_unit(found.mean) == unit == u.get_unit(found.out_mean)
        np.testing.assert_allclose(u.get_mantissa(found.mean), mean[steps], rtol=1e-5)
    np.testing.assert_allclose(recorded.read(u.volt).mean.to_decimal(u.mV), mean[[0, 2]], rtol=1e-5)
    with pytest.raises(
        UnitError, match=r"there were inputs in mV and nA and no unit.*got unit=None\. Write read\(unit=\.\.\.\)"
    ):
        recorded.read()
    with pytest.raises(UnitError, match="got unit=Hz"):
        recorded.read(u.Hz)
    labels = [axes.get_ylabel() for axes in monitor.plot({"norm": recorded}).axes]
    assert labels == ["input (mV)", "output (mV)", "input (nA)", "output (nA)", "input", "output"]


def test_units_are_those_of_the_first_call_or_of_the_norm() -> None:
    v = potential()
    for norm, unit in ((LayerNorm(C), u.mV), (LayerNorm(C, unit=u.volt, out_unit=u.UNITLESS), u.volt)):
        recorded = monitor.Recorded(norm, 2)
        recorded(v[0] * u.mV)
        recorded(v[1] / 1000 * u.volt)
        found = recorded.read()
        assert found.mean.unit == unit == found.std.unit
        np.testing.assert_allclose(found.mean.to_decimal(u.mV), v[:2].mean((1, 2)), rtol=1e-5)
        assert u.get_unit(found.out_mean) == (u.mV if unit == u.mV else u.UNITLESS)


def test_masks_of_both_kinds() -> None:
    v = potential()
    valid = np.arange(C) < np.array([8, 5, 2, 0])[:, None]
    explicit, ambient = (monitor.Recorded(LayerNorm(C), T) for _ in range(2))
    for x in v:
        explicit(np.where(valid, x, np.nan), mask=valid)
        with step_mask(valid[:, 0]):
            ambient(x)
    mean, std = expected(v[:, :3], np.broadcast_to(valid[:3], v[:, :3].shape))
    np.testing.assert_allclose(explicit.read().mean, mean, rtol=1e-6)
    np.testing.assert_allclose(explicit.read().std, std, rtol=1e-5)
    np.testing.assert_allclose(explicit.read().masked, 1 - 15 / 32, rtol=1e-6)
    np.testing.assert_allclose(ambient.read().masked, 1 / 4, rtol=1e-6)


def test_a_step_without_anything_valid_has_no_mean() -> None:
    recorded = monitor.Recorded(LayerNorm(C), 1)
    recorded(potential()[0], mask=False)
    found = recorded.read()
    assert found.count == [0]
    assert found.masked == [1]
    assert np.isnan([found.mean, found.std, found.out_mean, found.out_std]).all()


@pytest.mark.parametrize(
    ("norm", "split"),
    [
        (GroupNorm(C, num_groups=2, epsilon=0.0), (B, 2, C // 2)),
        (GroupNorm((C, 3), feature_axis=0, num_groups=2, epsilon=0.0), (B, 2, C // 2, 3)),
    ],
)
def test_groups_of_channels(norm: GroupNorm, split: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal((B, *norm.in_size)).astype(np.float32)
    recorded = monitor.Recorded(norm, 1)
    recorded(x)
    found = recorded.read()
    groups = x.reshape(split).astype(np.float64)
    spread = np.sqrt(groups.var(axis=tuple(range(2, groups.ndim))).mean())
    np.testing.assert_allclose(found.mean, [x.mean()], atol=1e-6)
    np.testing.assert_allclose(found.std, [spread], rtol=1e-5)
    assert found.count == [x.size]


def test_devices_of_one_group_are_one_input() -> None:
    v = potential()[0]
    recorded = monitor.Recorded(LayerNorm(C // 2, axis_name="device"), 1)
    halves = v.reshape(B, 2, C // 2)
    brainstate.transform.vmap(recorded, in_axes=1, out_axes=1, axis_name="device")(halves)
    found = recorded.read()
    mean, std = expected(v[None], np.ones((1, B, C), bool))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, std, rtol=1e-5)
    assert found.count == [B * C]


def test_init_state_begins_a_new_record() -> None:
    recorded = monitor.Recorded(RMSNorm(C), 3)
    recorded(potential()[0])
    assert recorded.calls == 1
    nn.init_all_states(recorded, batch_size=B)
    assert recorded.calls == 0
    assert recorded.read().count.shape == (0,)
    assert recorded.check() == []


@pytest.mark.parametrize(
    ("norm", "x", "message"),
    [
        (
            LayerNorm(C),
            potential()[0] * 1e-3 * 1e-3,
            r"epsilon=1e-06 is larger than the variance in 100% of the groups",
        ),
        (LayerNorm(C), potential()[0] * 1e-6 * u.volt, r"larger than the variance, counted in \(V\)\^2, in 100%"),
        (RMSNorm(C, epsilon=1.0), potential()[0] * 1e-3, "epsilon=1.0 is larger than the variance"),
        (LayerNorm(C), potential()[0] > -65, "every valid input was 0 or 1"),
        (LayerNorm(C), (potential()[0] > -65).astype(np.float32), "every valid input was 0 or 1"),
        (LayerNorm(1), potential()[0, :, :1], "most groups have one valid element"),
        (GroupNorm(C, num_groups=C), potential()[0], "most groups have one valid element"),
    ],
)
def test_mistakes_are_warned_of(norm: Any, x: Any, message: str) -> None:
    with pytest.warns(monitor.NormWarning, match=message):
        monitor.check(norm, x)
    assert len(monitor.check(norm, x, warn=False)) == 1
    net = nn.Sequential(norm)
    with pytest.warns(monitor.NormWarning, match=message) as caught, monitor.record(net, T):
        brainstate.transform.for_loop(net, u.math.stack([x] * T))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with monitor.record(net, T, warn=False):
        net(x)


@pytest.mark.parametrize(
    ("norm", "x", "mask"),
    [
        (LayerNorm(C), potential()[0], None),
        (RMSNorm(C), potential()[0] * 1e-3, None),
        (LayerNorm(C), (potential()[0] > -65) * u.mV, None),
        (LayerNorm(C), np.arange(C), None),
        (LayerNorm(C), potential()[0], False),
        (GroupNorm(C, num_groups=2), potential()[0], np.arange(C) < 6),
    ],
)
def test_what_is_right_is_not_warned_of(norm: Any, x: Any, mask: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.check(norm, x, mask=mask) == []


def test_calls_beyond_the_record_are_told() -> None:
    recorded = monitor.Recorded(LayerNorm(C), 2)
    brainstate.transform.for_loop(recorded, potential())
    assert recorded.read().count.shape == (2,)
    with pytest.warns(monitor.NormWarning, match="6 calls, of which the first 2 were recorded"):
        recorded.check()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: monitor.Recorded(nn.LayerNorm(4), 1),
            r"takes a norm of braindnorm; got LayerNorm\. Write record\(model",
        ),
        (lambda: monitor.Recorded(LayerNorm(4), 0), "num_steps must be a positive integer; got 0"),
        (lambda: monitor.record(nn.Linear(4, 4), 1).__enter__(), "no norm of braindnorm is inside of this Linear"),
        (lambda: monitor.record(nn.Sequential(nn.LayerNorm(4)), 1).__enter__(), r"first replace_norms\(model\)"),
        (lambda: monitor.plot(LayerNorm(4)), r"got LayerNorm\. Write: with monitor\.record\(model, num_steps\)"),
        (lambda: monitor.plot({}), "the dict of records is empty"),
    ],
)
def test_what_cannot_be_recorded_is_said(call: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()


def test_plot_has_a_row_a_norm_and_units_on_its_axes() -> None:
    v, net = potential() * u.mV, nn.Sequential(LayerNorm(C), LayerNorm(C, out_unit=u.nA))
    with monitor.record(net, T) as records:
        for x in v:
            net.layers[1](net.layers[0](x), mask=np.arange(C) < 6)
    figure = monitor.plot(records, times=np.arange(T) * 0.1 * u.ms)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["input (mV)", "output (mV)", "input (mV)", "output (nA)", "masked share"]
    assert figure.axes[2].get_xlabel() == "time (ms)"
    assert [axes.get_title(loc="left") for axes in figure.axes[:4:2]] == ["layers.0", "layers.1"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), records["layers.0"].read().mean.mantissa)
    assert monitor.plot(records["layers.0"].read()).axes[0].get_xlabel() == "step"


def test_plot_says_that_matplotlib_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PackageError, match="plot: this needs the package matplotlib"):
        monitor.plot(monitor.Recorded(LayerNorm(C), 1))


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_what_a_batch_norm_keeps_stands_beside_its_statistics(how: str) -> None:
    """Each step updates once; evaluation shows what it divides by; of other norms there is nothing to show."""
    xs = jnp.asarray(potential()[:3, :, :2]) * u.mV
    norm = BatchNorm(2, unit=u.mV, momentum=0.5, axis_name="batch" if how == "vmap" else None)
    step = norm if how == "loop" else brainstate.transform.vmap(norm, axis_name="batch")
    with monitor.record(norm, 4) as records:
        with brainstate.environ.context(fit=True):
            brainstate.transform.for_loop(step, xs)
        with brainstate.environ.context(fit=False):
            step(xs[0])
    mean, var, means, variances = np.zeros(2), np.ones(2), [], []
    for x in np.asarray(xs / u.mV, float):
        mean, var = (mean + x.mean(0)) / 2, (var + x.var(0)) / 2
        means.append(mean.mean())
        variances.append(var.mean())
    read = records[""].read()
    want = [*means, means[-1]], np.sqrt([*variances, variances[-1]])
    for kept, expected in zip((read.running_mean, read.running_std), want, strict=True):
        np.testing.assert_allclose(kept.to_decimal(u.mV), expected, rtol=1e-5)
    in_volts = records[""].read(u.volt)
    np.testing.assert_allclose(in_volts.running_mean.to_decimal(u.mV), want[0], rtol=1e-5)
    lines = monitor.plot(records).axes[0].get_lines()
    np.testing.assert_allclose([line.get_ydata() for line in lines[1:2]], want[:1], rtol=1e-5)
    assert [line.get_linestyle() for line in lines] == ["-", "--", "--", "--"]


def test_what_each_step_keeps_is_shown_as_one() -> None:
    norm, xs = bntt(2, 3, momentum=0.0), potential()[:3, :, :2]
    with monitor.record(norm, 1) as records, brainstate.environ.context(fit=True, i=np.arange(3)):
        norm(xs)
    read = records[""].read()
    np.testing.assert_allclose(read.running_mean, xs.astype(float).mean(), rtol=1e-5)
    np.testing.assert_allclose(read.running_std, np.sqrt(xs.astype(float).var(1).mean()), rtol=1e-4)


def test_other_norms_keep_nothing_to_show() -> None:
    recorded = monitor.Recorded(LayerNorm(2), 1)
    recorded(jnp.ones((3, 2)))
    assert np.isnan(recorded.read().running_mean).all() and np.isnan(recorded.read().running_std).all()
