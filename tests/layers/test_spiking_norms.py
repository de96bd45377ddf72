"""The batch norms of spiking networks, beside each paper's equation in float64."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import BatchNorm, NormParam, bntt, errors, tab, tdbn, tebn
from tests.support.norms import draw, randomize

T, B, C = 4, 5, 3
XS = draw(T, B, C, loc=1.0, scale=2.0)
STEPS = np.arange(T)
EPSILON, MOMENTUM = 1e-5, 0.9


def run(layer: Any, x: Any, fit: bool, i: Any = None) -> Any:
    with brainstate.environ.context(fit=fit, **({} if i is None else {"i": i})):
        return layer(x)


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def standardized(x: Any, axes: Any = None, mean: Any = None, var: Any = None) -> np.ndarray:
    x = np.asarray(x, float)
    if mean is None:
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(var + EPSILON)


def kept(values: Any, begin: float) -> Any:
    return MOMENTUM * begin + (1 - MOMENTUM) * values


def test_tdbn() -> None:
    """The scale begins at alpha times the way from rest to threshold, in its unit; statistics are pooled."""
    v_rest, v_th = -65.0 * u.mV, -50.0 * u.mV
    layer = tdbn(C, v_th, rest=v_rest, alpha=0.5, unit=u.nA, momentum=MOMENTUM)
    close(layer.scale_quantity.to_decimal(u.mV), np.full(C, 7.5))
    y = run(layer, XS * u.nA, True)
    close(y.to_decimal(u.mV), 7.5 * standardized(XS, (0, 1)))
    close(layer.running_var.value, kept(XS.astype(float).var((0, 1)), 1.0))
    plain = tdbn(C, 0.5, alpha=2.0)
    np.testing.assert_array_equal(plain.weight.value["scale"], 1.0)
    close(tdbn(C, 0.2 * u.volt, rest=100 * u.mV).scale_quantity.to_decimal(u.mV), 100.0)
    with pytest.raises(errors.UnitError, match=r"tdbn: rest is in 1, but the threshold is in mV.*rest=-65"):
        tdbn(C, v_th, rest=-65.0)
    with pytest.raises(errors.OptionError, match=r"tdbn: the scale begins at alpha \* \(threshold - rest\)"):
        tdbn(C, 1.0, scale_initializer=2.0)
    for alpha in ("one", True, np.nan, np.inf):
        with pytest.raises(errors.OptionError, match=r"tdbn: alpha must be a finite number; got"):
            tdbn(C, 1.0, alpha=alpha)
    with pytest.raises(errors.UnitError, match=r"threshold is in 1.*write threshold=-50.0 \* brainunit\.mV, or give"):
        tdbn(C, -50.0, rest=v_rest)
    with pytest.raises(errors.UnitError, match=r"rest is in mA, but the threshold is in mV.*: give both in one unit"):
        tdbn(C, v_th, rest=1.0 * u.mA)
    for bad in ({"threshold": None}, {"threshold": 1.0, "rest": "low"}):
        with pytest.raises(errors.DtypeError, match=rf"tdbn: the {[*bad][-1]} must be a number"):
            tdbn(C, **bad)
    with pytest.raises(errors.OptionError, match=r"tdbn: affine=False leaves out the scale, which the threshold sets"):
        tdbn(C, v_th, rest=v_rest, affine=False)


def test_tebn() -> None:
    """y_t = p[t] (g xhat_t + b): pooled statistics, a whole sequence and step by step in evaluation."""
    layer = randomize(tebn(C, T, momentum=MOMENTUM))
    np.testing.assert_array_equal(layer.gain.value, np.ones(T, np.float32))
    layer.gain.value = jnp.asarray(draw(T, seed=3))
    p = np.asarray(layer.gain.value, float)[:, None, None]
    g, b = (np.asarray(layer.weight.value[key], float) for key in ("scale", "bias"))
    want = p * (g * standardized(XS, (0, 1)) + b)
    close(run(layer, XS, True, STEPS), want)
    mean, var = XS.astype(float).mean((0, 1)), XS.astype(float).var((0, 1))
    close(layer.running_mean.value, kept(mean, 0.0))
    close(layer.running_var.value, kept(var, 1.0))
    want = p * (g * standardized(XS, None, kept(mean, 0.0), kept(var, 1.0)) + b)
    close(run(layer, XS, False, STEPS), want)
    for t in (0, 3):
        close(run(layer, XS[t], False, t), want[t])
    xhat = g * standardized(XS, (0, 1)) + b
    found = run(lambda x: brainstate.transform.grad(lambda: layer(x).sum(), layer.gain)(), XS, True, STEPS)
    np.testing.assert_allclose(found, xhat.sum((1, 2)), rtol=1e-4, atol=1e-4)


def test_gains_without_scale_and_squared() -> None:
    layer = BatchNorm(C, affine=False, gain_steps=T, gain_power=2)
    layer.gain.value = jnp.asarray([-2.0, 1.0, 0.0, 3.0])
    close(run(layer, XS, True, STEPS), standardized(XS, (0, 1)) * np.array([4.0, 1.0, 0.0, 9.0])[:, None, None])


def test_bntt() -> None:
    """Statistics, scale and running statistics of each step, no bias; the clocks agree."""
    layers = [bntt(C, T, momentum=MOMENTUM) for _ in range(2)]
    for layer in layers:
        assert [*layer.weight.value] == ["scale"]
        layer.weight.value = {"scale": jnp.asarray(draw(T, C, seed=4))}
        assert layer.running_mean.value.shape == layer.running_var.value.shape == (T, C)
    whole, stepped = layers
    g = np.asarray(whole.weight.value["scale"], float)[:, None]
    mask = np.arange(B)[:, None] < np.array([5, 4, 2, 0])[:, None, None]
    padded = np.where(mask, XS, np.nan).astype(np.float32)

    def step(i: Any, x: Any, m: Any) -> Any:
        with brainstate.environ.context(i=i):
            return stepped(x, mask=m)

    def loop() -> Any:
        return brainstate.transform.for_loop(step, jnp.arange(T), padded, jnp.asarray(mask))

    with brainstate.environ.context(fit=True):
        ys = loop()
    y = run(lambda x: whole(x, mask=mask), padded, True, STEPS)
    close(ys, y)
    mean, var = np.zeros((T, C)), np.ones((T, C))
    for t, rows in enumerate(XS[t][mask[t, :, 0]].astype(float) for t in range(T)):
        if len(rows):
            close(np.asarray(y)[t, : len(rows)], g[t] * standardized(rows, 0))
            mean[t], var[t] = kept(rows.mean(0), 0.0), kept(rows.var(0), 1.0)
    for layer in layers:
        close(layer.running_mean.value, mean)
        close(layer.running_var.value, var)
    want = g * standardized(XS, None, mean[:, None], var[:, None])
    close(run(whole, XS, False, STEPS), want)
    close(run(whole, XS[2:0:-1], False, np.array([2, 1])), want[2:0:-1])
    close(run(whole, XS[2, 0], False, 2), want[2, 0])


def test_tab() -> None:
    """Step t by all rows up to it, p_t^2, and everything of its own in each step; both clocks, then evaluation."""
    over = tab(C, T, momentum=MOMENTUM, unbiased=True)
    norm = over.norm
    norm.weight.value = {"scale": jnp.asarray(draw(T, C, seed=4)), "bias": jnp.asarray(draw(T, C, seed=5))}
    norm.gain.value = jnp.asarray(draw(T, seed=6))
    over.init_state(B)
    g, b = (np.asarray(norm.weight.value[key], float)[:, None] for key in ("scale", "bias"))
    p = np.asarray(norm.gain.value, float)[:, None, None] ** 2
    rows = [XS[: t + 1].astype(float).reshape(-1, C) for t in range(T)]
    mean, var = np.stack([r.mean(0) for r in rows])[:, None], np.stack([r.var(0) for r in rows])[:, None]
    spread = np.stack([r.var(0, ddof=1) for r in rows])[:, None]

    def step(i: Any, x: Any) -> Any:
        with brainstate.environ.context(i=i):
            return over(x)

    def loop(xs: Any) -> Any:
        y = brainstate.transform.for_loop(step, jnp.arange(T), xs)
        over.end_sequence()
        return y

    def sequence(xs: Any) -> Any:
        y = over.update_sequence(xs)
        over.end_sequence()
        return y

    for train in (loop, sequence):
        norm.running_mean.value, norm.running_var.value = jnp.zeros((T, C)), jnp.ones((T, C))
        with brainstate.environ.context(fit=True):
            y = brainstate.transform.jit(train)(XS)
        close(y, p * (g * standardized(XS, None, mean, var) + b))
        close(norm.running_mean.value, kept(mean[:, 0], 0.0))
        close(norm.running_var.value, kept(spread[:, 0], 1.0))
    want = p * (g * standardized(XS, None, kept(mean, 0.0), kept(spread, 1.0)) + b)
    with brainstate.environ.context(fit=False):
        close(brainstate.transform.jit(sequence)(XS), want)
        close(step(2, XS[2]), want[2])
        with pytest.raises(errors.OptionError, match=r"step i=4 is not one of the \w+_steps=4 steps, 0 to 3"):
            step(T, XS[0])


def test_a_step_that_is_not_there_is_refused() -> None:
    """By a sentence where it is known; in a loop, where it is not, such a step gives NaN and updates nothing."""
    layer = bntt(C, T)
    for fit in (True, False):
        for i in (T, -1):
            with pytest.raises(errors.OptionError, match=rf"step i={i} is not one of the \w+_steps=4 steps, 0 to 3"):
                run(layer, XS[0], fit, i)
        with pytest.raises(errors.OptionError, match=r"there are \w+ for each of \w+_steps=4 steps, but the environm"):
            run(layer, XS, fit)
    with pytest.raises(errors.OptionError, match=r"statistics for each of running_steps=4 steps"):
        run(BatchNorm(C, running_steps=T), XS, True)
    with pytest.raises(errors.OptionError, match=r"step i=4 is not one of the gain_steps=4 steps"):
        run(tebn(C, T), XS[0], True, T)

    def step(i: Any) -> Any:
        with brainstate.environ.context(i=i):
            return layer(XS[0])

    with brainstate.environ.context(fit=True):
        y = brainstate.transform.for_loop(step, jnp.array([-1, 0, T]))
    assert np.isnan(y[0]).all() and np.isfinite(y[1]).all() and np.isnan(y[2]).all()
    moved = (np.asarray(layer.running_mean.value) != 0).all(-1)
    assert moved.tolist() == [True, False, False, False]
    with pytest.raises(errors.OptionError, match=r"steps i=\[1 1\] name a step twice.*one update a call"):
        run(layer, XS[:2], True, np.array([1, 1]))
    run(layer, XS[:2], False, np.array([1, 1]))  # evaluation updates nothing
    with pytest.raises(errors.AxisError, match=r"running_steps=4: the steps i of shape \(4, 5\) have several axes"):
        run(layer, XS, True, np.zeros((T, B), int))


def test_num_steps_says_how_many_steps_there_are() -> None:
    """It is one number, which no other option says again."""
    for make, option in ((tebn, "gain_steps"), (bntt, "running_steps"), (tab, "param_steps")):
        for bad in (None, 0, 3.0):
            with pytest.raises(errors.OptionError, match=rf"{make.__name__}: num_steps must be a positive integer"):
                make(C, bad)
        with pytest.raises(errors.OptionError, match=rf"{make.__name__}: num_steps=4 sets {option}, so leave it"):
            make(C, T, **{option: 5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain_steps": 0}, "gain_steps must be a positive integer, or None; got 0"),
        ({"running_steps": True}, "running_steps must be a positive integer, or None; got True"),
        ({"gain_power": 3, "gain_steps": 2}, "gain_power must be 1 or 2; got 3"),
        ({"gain_power": 2}, "gain_power=2 raises the gain of each step, and there is none. Give gain_steps"),
        ({"running_steps": 3, "param_steps": 4}, "running_steps=3 and param_steps=4 are not the same number of steps"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        BatchNorm(C, **options)


def test_a_param_type_of_its_own_takes_no_gain() -> None:
    class Doubled(NormParam):
        def execute(self, x: jax.Array) -> jax.Array:
            return 2 * super().execute(x)

    with pytest.raises(errors.OptionError, match=r"gain_steps=4 multiplies scale and bias, which Doubled\.execute"):
        BatchNorm(C, gain_steps=T, param_type=Doubled)


def test_no_bias() -> None:
    layer = BatchNorm(C, bias_initializer=None)
    assert [*layer.weight.value] == ["scale"] and layer.bias_quantity is None
