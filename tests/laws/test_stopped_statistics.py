"""With `stop_statistics_gradient` a norm has the same values, and the derivative of each element alone."""

from collections.abc import Callable
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import braindnorm
from braindnorm import BatchNorm, DivisiveNorm, LayerNorm, OverTime, RMSNorm, functional
from braindnorm.errors import OptionError
from tests.support.norms import draw, float64

EPSILON = 0.1
MASK = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
SCALE, BIAS = draw(4, seed=7).astype(float), draw(4, seed=8).astype(float)
G, V = draw(6, 4, seed=2).astype(float), draw(6, 4, seed=3).astype(float)
STOPPED: dict[str, Any] = {"stop_statistics_gradient": True}

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "LayerNorm": (functional.layer_norm, {}),
    "compensated": (functional.layer_norm, {"use_fast_variance": False}),
    "RMSNorm": (functional.rms_norm, {}),
    "GroupNorm": (functional.group_norm, {"num_groups": 2, "reduction_axes": ()}),
    "BatchNorm": (functional.batch_norm, {}),
}


def factors(kind: str, x: np.ndarray, mask: Any = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and 1/sqrt(var + epsilon) that each element is standardized by."""
    mask = np.broadcast_to(mask, x.shape)
    groups = np.split(np.arange(4), 2) if kind == "GroupNorm" else [np.arange(4)]
    axis = 0 if kind == "BatchNorm" else 1
    mean, r = np.zeros(x.shape), np.zeros(x.shape)
    for group in groups:
        part, seen = x[:, group], mask[:, group]
        n = np.maximum(seen.sum(axis, keepdims=True), 1)
        centre = 0 if kind == "RMSNorm" else np.where(seen, part, 0).sum(axis, keepdims=True) / n
        var = np.where(seen, (part - centre) ** 2, 0).sum(axis, keepdims=True) / n
        mean[:, group] = centre
        r[:, group] = 1 / np.sqrt(var + EPSILON)
    return mean, np.where(mask, r, 0)


def same(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("way", ["fast", "across devices"])
@pytest.mark.parametrize("kind", CALLS)
def test_every_derivative_is_that_of_the_element(kind: str, way: str) -> None:
    """Of a loss of one term an element, so that the second derivative is diagonal too."""
    function, options = CALLS[kind]
    parameters = {"scale": SCALE} if kind == "RMSNorm" else {"scale": SCALE, "bias": BIAS}
    options = {**options, "epsilon": EPSILON, **({"axis_name": "device"} if way == "across devices" else {})}

    def norm(x: Any, parameters: Any, **more: Any) -> Any:
        def call(x: Any) -> Any:
            y = function(x, **parameters, mask=MASK, **options, **more)
            return y[0] if kind == "BatchNorm" else y

        return jax.vmap(call, axis_name="device")(x[None])[0] if "axis_name" in options else call(x)

    def loss(x: Any, parameters: Any) -> Any:
        return jnp.sum(jnp.sin(norm(x, parameters, **STOPPED)) * G)

    @jax.jit
    def every(x: Any) -> Any:
        f = lambda x: norm(x, parameters, **STOPPED)  # noqa: E731
        gradient = jax.grad(loss)
        second = [
            jax.jvp(lambda x: gradient(x, parameters), (x,), (V,))[1],
            jax.grad(lambda x: jax.jvp(lambda x: loss(x, parameters), (x,), (V,))[1])(x),
            jax.grad(lambda x: jnp.sum(gradient(x, parameters) * V))(x),
        ][: 3 if kind == "LayerNorm" and way == "fast" else 1]
        first = jax.grad(loss, argnums=(0, 1))(x, parameters)
        return f(x), norm(x, parameters), jax.jvp(f, (x,), (V,))[1], first, second

    with float64():
        x = np.where(MASK, draw(6, 4).astype(float), np.nan)
        value, default, along, (by_x, by_parameters), second = every(x)
        np.testing.assert_array_equal(value, default)
        mean, r = factors(kind, x, MASK)
        z, slope = np.where(MASK, (x - mean) * r, 0), SCALE * r
        y = np.where(MASK, z * SCALE + BIAS * (kind != "RMSNorm"), 0)
        same(value, y)
        same(along, slope * V)
        same(by_x, np.cos(y) * G * slope)
        same(by_parameters["scale"], np.sum(np.cos(y) * G * z, 0))
        if "bias" in by_parameters:
            same(by_parameters["bias"], np.sum(np.cos(y) * G * MASK, 0))
        for hessian in second:
            same(hessian, -np.sin(y) * G * slope**2 * V)


def test_a_shift_passes_and_epsilon_keeps_its_derivative() -> None:
    """Online rules ask how a shift of all elements passes; epsilon is no statistic, and is learned as before."""
    with float64():
        x = jnp.asarray(draw(6, 4), float)
        f = lambda x, e: functional.layer_norm(x, epsilon=e, mask=MASK, masked_output="normalize", **STOPPED)  # noqa: E731
        g = lambda x, e: functional.layer_norm(x, epsilon=e, **STOPPED)  # noqa: E731
        for norm, mask in ((f, MASK), (g, True)):
            mean, r = factors("LayerNorm", np.asarray(x), mask)
            r = r.max(1, keepdims=True)  # of a row; what is masked is normalized like the rest of it
            same(jax.jvp(norm, (x, EPSILON), (jnp.ones_like(x), 0.0))[1], np.broadcast_to(r, x.shape))
            same(jax.jvp(norm, (x, EPSILON), (jnp.zeros_like(x), 1.0))[1], -0.5 * (x - mean) * r**3)


def test_layers_with_units_within_a_loop() -> None:
    """In `for_loop`, in mV: each layer hands the option on; batch norm keeps what it keeps."""
    x = draw(2, 6, 4, loc=-65.0, scale=4.0)
    layers = {
        "LayerNorm": LayerNorm(4, unit=u.volt, out_unit=u.UNITLESS, epsilon=EPSILON * u.mV**2, **STOPPED),
        "RMSNorm": RMSNorm(4, unit=u.mV, out_unit=u.UNITLESS, epsilon=EPSILON, **STOPPED),
        "GroupNorm": braindnorm.GroupNorm(
            4, num_groups=2, reduction_axes=(), unit=u.mV, out_unit=u.nA, epsilon=EPSILON, **STOPPED
        ),
        "BatchNorm": BatchNorm(4, unit=u.mV, out_unit=u.UNITLESS, epsilon=EPSILON, momentum=0.5, **STOPPED),
    }

    @brainstate.transform.jit
    def gradients(x: Any) -> Any:
        def loss(x: Any, layer: Any) -> Any:
            return jnp.sum(u.get_mantissa(brainstate.transform.for_loop(layer, x * u.mV)) * np.float32(G))

        return {kind: jax.grad(loss)(x, layer) for kind, layer in layers.items() if kind != "BatchNorm"} | {
            "BatchNorm": brainstate.transform.grad(lambda x: loss(x, layers["BatchNorm"]))(x)
        }

    with brainstate.environ.context(fit=True):
        found = gradients(x)
    for kind, gradient in found.items():
        want = np.stack([G * factors(kind, step.astype(float))[1] for step in x])
        np.testing.assert_allclose(gradient, want, rtol=1e-4, err_msg=kind)
    kept = layers["BatchNorm"].running_mean.value
    np.testing.assert_allclose(kept, 0.25 * x[0].mean(0) + 0.5 * x[1].mean(0), rtol=1e-5)


@pytest.mark.parametrize("fast", [True, False])
def test_over_time(fast: bool) -> None:
    """The statistics of all steps so far are constants, step by step and in a sequence, a memory from before too."""
    with float64():
        x = draw(5, 6, 4).astype(float)
        norm = OverTime(LayerNorm(4, epsilon=EPSILON, use_fast_variance=fast, **STOPPED))

        def run(sequence: bool) -> Callable[[Any], Any]:
            def loss(x: Any) -> Any:
                norm.init_state(6)
                first = norm(x[0])
                rest = norm.update_sequence(x[1:]) if sequence else brainstate.transform.for_loop(norm, x[1:])
                y = jnp.concatenate([first[None], rest])
                return jnp.sum(y * G), y

            return brainstate.transform.grad(loss, has_aux=True)

        mean = np.stack([x[: t + 1].mean((0, 2)) for t in range(5)])[..., None]
        var = np.stack([x[: t + 1].var((0, 2)) for t in range(5)])[..., None]
        r = 1 / np.sqrt(var + EPSILON)
        for sequence in (True, False):
            gradient, y = run(sequence)(x)
            same(y, (x - mean) * r)
            same(gradient, G * r)


@pytest.mark.parametrize(("exponent", "pool"), [(1.0, "mean"), (1.5, "weights"), (2.0, "mean")])
def test_divisive(exponent: float, pool: str) -> None:
    """The pool carries no gradient of the drive; sigma, gamma and the weights are learned as before."""
    with float64():
        d, w = np.abs(draw(6, 4)).astype(float) + 0.1, np.abs(draw(4, 4, seed=5)).astype(float)
        sigma, gamma = 0.7, 1.3

        def f(d: Any, sigma: Any, gamma: Any, w: Any, **more: Any) -> Any:
            pooled = w if pool == "weights" else "mean"
            return functional.divisive_norm(d, sigma, gamma, exponent=exponent, pool=pooled, mask=MASK, **more)

        value, pull = jax.vjp(lambda *args: f(*args, **STOPPED), d, sigma, gamma, w)
        np.testing.assert_array_equal(value, f(d, sigma, gamma, w))
        n, seen = exponent, np.where(MASK, d, 0)
        mean = np.sum(seen**n, 1, keepdims=True) / np.maximum(MASK.sum(1, keepdims=True), 1)
        below = sigma**n + (seen**n @ w.T if pool == "weights" else mean)
        by_d, by_sigma, by_gamma, by_w = pull(jnp.asarray(G))
        same(by_d, np.where(MASK, G * gamma * n * d ** (n - 1) / below, 0))
        lost = np.where(MASK, G * gamma * d**n / below**2, 0)
        same(by_sigma, -np.sum(lost) * n * sigma ** (n - 1))
        same(by_gamma, np.sum(np.where(MASK, G * d**n / below, 0)))
        same(by_w, -lost.T @ seen**n if pool == "weights" else np.zeros((4, 4)))
        layer = DivisiveNorm(4, exponent=exponent, sigma=sigma, gamma=gamma, **STOPPED)
        alone = d**n / (sigma**n + np.mean(d**n, 1, keepdims=True))
        along = jax.jvp(layer, (jnp.asarray(d),), (jnp.asarray(V),))[1]
        same(along, V * gamma * n / d * alone)


def test_a_group_of_equal_numbers() -> None:
    """With epsilon 0 the derivative is 0 there, as of a frozen batch norm, and not infinite."""
    f = lambda x: functional.layer_norm(x, epsilon=0.0, **STOPPED)  # noqa: E731
    np.testing.assert_array_equal(jax.jvp(f, (jnp.ones((2, 4)),), (jnp.ones((2, 4)),))[1], 0)


@pytest.mark.parametrize("make", [LayerNorm, BatchNorm, DivisiveNorm])
def test_it_is_true_or_false(make: Any) -> None:
    with pytest.raises(OptionError, match=r"stop_statistics_gradient must be True or False; got 'yes'\."):
        make(4, stop_statistics_gradient="yes")
    with pytest.raises(OptionError, match=r"layer_norm: stop_statistics_gradient must be True or False; got 1\."):
        functional.layer_norm(jnp.ones(4), stop_statistics_gradient=1)  # type: ignore[arg-type]
