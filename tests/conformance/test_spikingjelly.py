"""The batch norms of spikingjelly and ours give the same values, gradients and running statistics, in both phases."""

import warnings
from typing import Any

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from braindnorm import BatchNorm, bntt, errors, tab, tdbn, tebn
from tests.support.norms import draw

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what spikingjelly imports
    from spikingjelly.activation_based import functional, layer

T, B, C, SIDE = 4, 5, 3, 2
OPTIONS: dict[str, Any] = {"momentum": 0.9, "epsilon": 1e-5, "unbiased": True}
X = draw(T, B, C, SIDE, SIDE, loc=1.0, scale=2.0)  # torch: channels before space
G = draw(T, B, C, SIDE, SIDE, seed=1)
SIZE: dict[str, Any] = {"in_size": (C, SIDE, SIDE), "feature_axis": 0}
KINDS: dict[str, tuple[Any, Any]] = {
    "BatchNorm": (lambda: layer.BatchNorm2d(C, step_mode="m"), lambda: BatchNorm(**SIZE, **OPTIONS)),
    "tdBN": (
        lambda: layer.ThresholdDependentBatchNorm2d(0.5, 1.5, C),
        lambda: tdbn(threshold=1.5, alpha=0.5, **SIZE, **OPTIONS),
    ),
    "TEBN": (lambda: layer.TemporalEffectiveBatchNorm2d(T, C), lambda: tebn(num_steps=T, **SIZE, **OPTIONS)),
    "BNTT": (
        lambda: layer.BatchNormThroughTime2d(T, C, step_mode="m"),
        lambda: bntt(num_steps=T, **SIZE, **OPTIONS),
    ),
}


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=3e-6)


def theirs_of(module: Any, key: str) -> list[np.ndarray]:
    """Return what our state `key` is called there, one array a step for BNTT."""
    parts = getattr(module, "bn_list", [module])
    name = {"scale": "weight", "gain": "scale"}.get(key, key)
    return [getattr(part, name).detach().numpy().copy() for part in parts]


def same_parameters(module: Any, ours: Any) -> None:
    """Give both the same scale, bias and gain, none of them 1 or 0."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.from_numpy(draw(*parameter.shape, seed=10 + number, loc=1.0)))
    value = {key: np.squeeze(np.stack(theirs_of(module, key))) for key in ours.weight.value}
    ours.weight.value = {key: jnp.asarray(v).reshape(ours.weight.value[key].shape) for key, v in value.items()}
    if ours.gain is not None:
        ours.gain.value = jnp.asarray(theirs_of(module, "gain")[0])


def call_theirs(module: Any, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return the value, and the gradients of sum(value * g) in the input and the parameters, flat."""
    leaf = torch.from_numpy(xs).requires_grad_(True)
    module.zero_grad()
    y = module(leaf)
    y.backward(torch.from_numpy(G[: len(xs)]))
    functional.reset_net(module)
    parts = getattr(module, "bn_list", [module])
    slopes = {"scale": np.stack([p.weight.grad.numpy() for p in parts])}
    if parts[0].bias is not None:
        slopes["bias"] = np.stack([p.bias.grad.numpy() for p in parts])
    if hasattr(module, "scale"):
        slopes["gain"] = module.scale.grad.numpy()
    return y.detach().numpy(), leaf.grad.numpy(), slopes


def call_ours(ours: Any, xs: np.ndarray, fit: bool) -> tuple[Any, Any, dict[str, Any]]:
    def loss(x: Any) -> Any:
        y = ours(x)
        return (y * G).sum(), y

    with brainstate.environ.context(fit=fit, i=jnp.arange(T)):
        states = {"weight": ours.weight} | ({} if ours.gain is None else {"gain": ours.gain})
        grad = brainstate.transform.grad(loss, states, argnums=0, has_aux=True)
        (of_states, of_x), y = brainstate.transform.jit(grad)(jnp.asarray(xs))
    return y, of_x, dict(of_states["weight"]) | ({"gain": of_states["gain"]} if "gain" in of_states else {})


@pytest.mark.parametrize("kind", KINDS)
def test_values_gradients_and_running_statistics(kind: str) -> None:
    """Two calls in training and one in evaluation; then evaluation step by step."""
    make_theirs, make_ours = KINDS[kind]
    module, ours = make_theirs(), make_ours()
    if kind == "tdBN":
        close(ours.weight.value["scale"].ravel(), theirs_of(module, "scale")[0])
    same_parameters(module, ours)
    for fit, xs in ((True, X), (True, 2 * X[:, ::-1].copy()), (False, X)):
        module.train(fit)
        want, got = call_theirs(module, xs), call_ours(ours, xs, fit)
        close(got[0], want[0])
        close(got[1], want[1])
        assert got[2].keys() == want[2].keys()
        for key, slope in want[2].items():
            np.testing.assert_allclose(np.ravel(got[2][key]), slope.ravel(), rtol=1e-5, atol=1e-5)
        for key in ("running_mean", "running_var"):
            close(getattr(ours, key).value.ravel(), np.ravel(theirs_of(module, key)))

    def step(i: Any, x: Any) -> Any:
        with brainstate.environ.context(i=i, fit=False):
            return ours(x)

    close(brainstate.transform.for_loop(step, jnp.arange(T), X), want[0])


def test_bntt_step_by_step_in_training() -> None:
    make_theirs, make_ours = KINDS["BNTT"]
    module, ours = make_theirs(), make_ours()
    module.step_mode = "s"
    same_parameters(module, ours)
    want = np.stack([module(torch.from_numpy(x)).detach().numpy() for x in X])

    def step(i: Any, x: Any) -> Any:
        with brainstate.environ.context(i=i, fit=True):
            return ours(x)

    close(brainstate.transform.for_loop(step, jnp.arange(T), X), want)
    for key in ("running_mean", "running_var"):
        close(getattr(ours, key).value.reshape(T, C), np.stack(theirs_of(module, key)))


def test_batch_norm_step_by_step_in_training() -> None:
    """In step mode 's' each step makes an update: as a BatchNorm in a loop."""
    module, ours = layer.BatchNorm2d(C, step_mode="s"), BatchNorm(**SIZE, **OPTIONS)
    want = np.stack([module(torch.from_numpy(x)).detach().numpy() for x in X])
    with brainstate.environ.context(fit=True):
        close(brainstate.transform.for_loop(ours, X), want)
    for key in ("running_mean", "running_var"):
        close(getattr(ours, key).value.ravel(), theirs_of(module, key)[0])


@pytest.mark.parametrize("fit", [True, False])
def test_where_theirs_raises_an_index_error(fit: bool) -> None:
    """A step that is not there: BNTT is asked for more steps than it has."""
    make_theirs, make_ours = KINDS["BNTT"]
    more = np.concatenate([X, X[:1]])
    with pytest.raises(IndexError):
        make_theirs()(torch.from_numpy(more))
    refused = pytest.raises(errors.OptionError, match=r"step i=\[0 1 2 3 4\] is not one of the \w+_steps=4 steps")
    with brainstate.environ.context(fit=fit, i=np.arange(T + 1)), refused:
        make_ours()(more)


def test_tab_is_batch_norm_of_all_steps_so_far() -> None:
    """Beside torch's BatchNorm1d on x[:t+1], one for each step: values, gradients and running statistics."""
    x, g = X[..., 0, 0].copy(), G[..., 0, 0].copy()
    parts = [torch.nn.BatchNorm1d(C) for _ in range(T)]
    over = tab(C, T, **OPTIONS)
    over.init_state(B)
    scale, bias, p = draw(T, C, seed=4), draw(T, C, seed=5), draw(T, seed=6)
    over.norm.weight.value = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    over.norm.gain.value = jnp.asarray(p)
    leaf = torch.from_numpy(x).requires_grad_(True)
    rows = []
    for t, part in enumerate(parts):
        with torch.no_grad():
            part.weight.copy_(torch.from_numpy(scale[t])), part.bias.copy_(torch.from_numpy(bias[t]))
        rows.append(float(p[t]) ** 2 * part(leaf[: t + 1].reshape(-1, C)).reshape(t + 1, B, C)[t])
    want = torch.stack(rows)
    want.backward(torch.from_numpy(g))

    def loss(x: Any) -> Any:
        y = over.update_sequence(x)
        over.end_sequence()
        return (y * g).sum(), y

    with brainstate.environ.context(fit=True):
        grad = brainstate.transform.grad(loss, over.norm.weight, argnums=0, has_aux=True)
        (of_weight, of_x), y = brainstate.transform.jit(grad)(jnp.asarray(x))
    close(y, want.detach().numpy())
    close(of_x, leaf.grad.numpy())
    for key, name in (("scale", "weight"), ("bias", "bias")):
        close(of_weight[key], np.stack([getattr(part, name).grad.numpy() for part in parts]))
    for key in ("running_mean", "running_var"):
        close(getattr(over.norm, key).value, np.stack([getattr(part, key).numpy() for part in parts]))
    steps = []
    for t, part in enumerate(parts):
        steps.append(float(p[t]) ** 2 * part.eval()(torch.from_numpy(x[t])).detach().numpy())
    with brainstate.environ.context(fit=False):
        close(over.update_sequence(x), np.stack(steps))
