"""Batch norms there and back: a training step and then an evaluation give the same numbers, and keep the same ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import brainpy
import brainpy.math as bm
import brainstate
import brainunit as u
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

from braindnorm import BatchNorm, BatchNorm0d, BatchNorm1d, BatchNorm2d, BatchNorm3d, LayerNorm, interop
from braindnorm.errors import ConversionError
from tests.interop.frameworks.random_values import normal

Answer = list[np.ndarray]  # of a training step, of an evaluation after it, and the running statistics


class Case(NamedTuple):
    """A norm of a package: `make` builds it from the options, `run` gives its answer."""

    package: str
    options: dict[str, Any]
    shape: tuple[int, ...]
    in_size: Any = None
    masked: bool = False


CASES = {
    "torch 1d": Case("torch", {"kind": "BatchNorm1d"}, (5, 6), 6),
    "torch 1d, with space": Case("torch", {"kind": "BatchNorm1d", "eps": 0.1}, (5, 6, 7), (6, 7)),
    "torch 2d": Case("torch", {"kind": "BatchNorm2d", "momentum": 0.3}, (5, 6, 4, 3), (6, 4, 3)),
    "torch 3d, plain": Case("torch", {"kind": "BatchNorm3d", "affine": False}, (2, 6, 2, 4, 3), (6, 2, 4, 3)),
    "torch, momentum 1": Case("torch", {"kind": "BatchNorm1d", "momentum": 1.0}, (5, 6), 6),
    "torch, untracked": Case("torch", {"kind": "BatchNorm1d", "track_running_stats": False}, (5, 6), (6,)),
    "nnx": Case("nnx", {"momentum": 0.7}, (5, 4, 3, 6)),
    "nnx, masked": Case("nnx", {"epsilon": 0.1}, (5, 4, 6), masked=True),
    "nnx, another axis": Case("nnx", {"axis": -2}, (5, 6, 4), (6, 4)),
    "nnx, plain": Case("nnx", {"use_scale": False, "use_bias": False}, (5, 6)),
    "linen": Case("linen", {"momentum": 0.7}, (5, 4, 6)),
    "linen, masked": Case("linen", {}, (5, 4, 6), masked=True),
    "linen, two axes": Case("linen", {"axis": (-2, -1)}, (5, 4, 6), (4, 6)),
    "linen, plain": Case("linen", {"use_scale": False, "use_bias": False, "epsilon": 0.1}, (5, 6)),
    "equinox, batch": Case("equinox", {"mode": "batch", "momentum": 0.7}, (5, 6, 4), (6, 4)),
    "equinox, batch, plain": Case("equinox", {"mode": "batch", "channelwise_affine": False, "eps": 0.1}, (5, 6), 6),
    "brainpy 1d": Case("brainpy", {"kind": "BatchNorm1d", "momentum": 0.7}, (5, 4, 6)),
    "brainpy 2d": Case("brainpy", {"kind": "BatchNorm2d", "epsilon": 0.1}, (5, 4, 3, 6), (4, 3, 6)),
    "brainpy 3d, plain": Case("brainpy", {"kind": "BatchNorm3d", "affine": False}, (2, 2, 4, 3, 6), (2, 4, 3, 6)),
}


def draw(case: Case) -> tuple[np.ndarray, np.ndarray, Any]:
    mask = np.arange(np.prod(case.shape)).reshape(case.shape) % 5 > 1 if case.masked else None
    return normal(case.shape), normal(case.shape, seed=1), None if mask is None else jnp.asarray(mask)


def statistics(channels: Any) -> tuple[np.ndarray, np.ndarray]:
    return normal(channels, seed=3), np.abs(normal(channels, seed=4)) + 0.5


# Of each package: how a norm with random weights and statistics is made, and how it answers. Both give what the
# converters take and return: a module, or a module and its variables.


def make_torch(case: Case) -> Any:
    options = dict(case.options)
    module = getattr(torch.nn, options.pop("kind"))(6, **options)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.from_numpy(normal(parameter.shape, seed=number)))
        if module.running_mean is not None:
            for buffer, value in zip((module.running_mean, module.running_var), statistics((6,)), strict=True):
                buffer.copy_(torch.from_numpy(value))
    return (module,)


def run_torch(case: Case, module: Any) -> Answer:
    x, z, _ = draw(case)
    trained, evaluated = module.train()(torch.from_numpy(x)), module.eval()(torch.from_numpy(z))
    kept = () if module.running_mean is None else (module.running_mean, module.running_var)
    return [v.detach().numpy() for v in (trained, evaluated, *kept)]


def make_nnx(case: Case) -> Any:
    module = nnx.BatchNorm(6, **case.options, rngs=nnx.Rngs(0))
    for number, key in enumerate(("scale", "bias")):
        if getattr(module, key) is not None:
            setattr(module, key, nnx.Param(jnp.asarray(normal((6,), seed=number))))
    module.mean, module.var = (nnx.BatchStat(jnp.asarray(v)) for v in statistics((6,)))
    return (module,)


def run_nnx(case: Case, module: Any) -> Answer:
    x, z, mask = draw(case)
    module.train()
    trained = module(x, mask=mask)
    module.eval()
    return [np.asarray(v) for v in (trained, module(z), module.mean[...], module.var[...])]


def make_linen(case: Case) -> Any:
    module = linen.BatchNorm(**case.options)
    variables = module.init(jax.random.key(0), draw(case)[0], use_running_average=True)
    params = jax.tree.map(lambda a: jnp.asarray(normal(a.shape, seed=2)), variables.get("params", {}))
    mean, var = statistics(variables["batch_stats"]["mean"].shape)
    return module, {"params": params, "batch_stats": {"mean": mean, "var": var}}


def run_linen(case: Case, module: Any, variables: Any) -> Answer:
    x, z, mask = draw(case)
    trained, kept = module.apply(variables, x, use_running_average=False, mask=mask, mutable=["batch_stats"])
    evaluated = module.apply({**variables, **kept}, z, use_running_average=True)
    return [np.asarray(v) for v in (trained, evaluated, kept["batch_stats"]["mean"], kept["batch_stats"]["var"])]


def make_equinox(case: Case, updates: int = 10_000) -> Any:
    module, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(6, "batch", **case.options)
    if module.weight is not None:
        weights = jnp.asarray(normal((6,))), jnp.asarray(normal((6,), seed=1))
        module = eqx.tree_at(lambda m: (m.weight, m.bias), module, weights)
    kept = tuple(jnp.asarray(v) for v in statistics((6,)))
    if case.options["mode"] == "ema":
        state = state.set(module.ema_state_index, kept).set(module.ema_first_time_index, jnp.array(False))
    else:
        state = state.set(module.batch_state_index, kept).set(module.batch_counter, jnp.array(updates))
    return module, state


def run_equinox(case: Case, module: Any, state: Any) -> Answer:
    x, z, _ = draw(case)

    def call(x: Any, state: Any, inference: bool) -> Any:
        f = lambda x, state: module(x, state, inference=inference)  # noqa: E731
        return jax.vmap(f, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

    trained, state = call(x, state, False)
    return [np.asarray(v) for v in (trained, call(z, state, True)[0], *state.get(module.batch_state_index))]


def make_brainpy(case: Case) -> Any:
    options = dict(case.options)
    module = getattr(brainpy.dnn, options.pop("kind"))(6, **options)
    if module.affine:
        module.scale.value, module.bias.value = jnp.asarray(normal((6,))), jnp.asarray(normal((6,), seed=1))
    module.running_mean.value, module.running_var.value = map(jnp.asarray, statistics((6,)))
    return (module,)


def run_brainpy(case: Case, module: Any) -> Answer:
    x, z, _ = draw(case)
    brainpy.share.save(fit=True)
    trained = bm.as_jax(module(x))
    brainpy.share.save(fit=False)
    evaluated = bm.as_jax(module(z))
    return [np.asarray(bm.as_jax(v)) for v in (trained, evaluated, module.running_mean, module.running_var)]


class Package(NamedTuple):
    make: Callable[..., Any]
    run: Callable[..., Answer]
    build: Callable[..., Any]
    export: Callable[..., Any]


def from_equinox(module: Any, state: Any, in_size: Any = None, **options: Any) -> Any:
    return interop.from_equinox(module, in_size, state, **options)


PACKAGES = {
    "torch": Package(make_torch, run_torch, interop.from_torch, interop.to_torch),
    "nnx": Package(make_nnx, run_nnx, interop.from_flax, interop.to_flax),
    "linen": Package(make_linen, run_linen, interop.from_flax, interop.to_linen),
    "equinox": Package(make_equinox, run_equinox, from_equinox, interop.to_equinox),
    "brainpy": Package(make_brainpy, run_brainpy, interop.from_brainpy, interop.to_brainpy),
}


def build(case: Case, theirs: Any, **options: Any) -> Any:
    size = {} if case.in_size is None else {"in_size": case.in_size}
    return PACKAGES[case.package].build(*theirs, **size, **options)


def ours(case: Case, layer: Any) -> Answer:
    x, z, mask = draw(case)
    with brainstate.environ.context(fit=True):
        trained = layer(x, mask=mask)
    with brainstate.environ.context(fit=False):
        evaluated = layer(z)
    kept = () if layer.running_mean is None else (layer.running_mean.value, layer.running_var.value)
    return [np.asarray(v) for v in (trained, evaluated, *kept)]


def close(got: Answer, want: Answer) -> None:
    for mine, other in zip(got, want, strict=True):
        np.testing.assert_allclose(mine.ravel(), other.ravel(), rtol=1e-6, atol=1e-6 * max(1, np.abs(other).max()))


@pytest.mark.parametrize("case", CASES)
def test_a_step_and_an_evaluation_and_the_way_back(case: str) -> None:
    of = CASES[case]
    package = PACKAGES[of.package]
    theirs = package.make(of)
    layer = build(of, theirs)
    exported = package.export(layer)  # before the step, so that what goes back is what came
    back = exported if isinstance(exported, tuple) else (exported,)
    assert type(back[0]) is type(theirs[0])
    want = package.run(of, *theirs)
    close(ours(of, layer), want)
    close(package.run(of, *back), want)


def test_the_classes_tell_the_space() -> None:
    kinds = {"torch 1d": BatchNorm0d, "torch 1d, with space": BatchNorm1d, "torch 2d": BatchNorm2d}
    for case, kind in ({**kinds, "torch 3d, plain": BatchNorm3d, "nnx": BatchNorm, "brainpy 1d": BatchNorm}).items():
        of = CASES[case]
        assert type(build(of, PACKAGES[of.package].make(of))) is kind


def test_options_of_ours_go_along() -> None:
    of = CASES["torch 1d"]
    theirs = make_torch(of)
    layer = build(of, theirs, unit=u.mV, out_unit=u.UNITLESS, frozen=True)
    np.testing.assert_allclose(
        layer(draw(of)[1] * u.mV), theirs[0].eval()(torch.from_numpy(draw(of)[1])).detach(), rtol=1e-5, atol=1e-5
    )
    assert layer.running_var_quantity.unit.has_same_dim(u.mV**2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_are_kept_in_single_precision(dtype: torch.dtype) -> None:
    module = torch.nn.BatchNorm1d(6, dtype=dtype)
    layer = interop.from_torch(module, 6)
    assert str(layer.weight.value["scale"].dtype) == str(dtype).removeprefix("torch.")
    assert layer.running_mean.value.dtype == layer.running_var.value.dtype == jnp.float32
    back = interop.to_torch(layer)  # torch takes one dtype for all
    assert {tensor.dtype for tensor in (back.weight, back.bias, back.running_mean)} == {torch.float32}


# What equinox does and no other package: a correction of the first updates, and running statistics in training.
UNLIKE = {
    "a few updates": ({"mode": "batch", "momentum": 0.7}, "statistics that it still corrects for the start .3 updates"),
    "ema": ({"mode": "ema", "momentum": 0.7}, "mode='ema', which trains by its running statistics"),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_what_equinox_does_alone_goes_over_to_be_evaluated(what: str) -> None:
    options, message = UNLIKE[what]
    case = Case("equinox", options, (5, 6, 4), (6, 4))
    module, state = make_equinox(case, updates=3)
    with pytest.raises(ConversionError, match=rf"BatchNorm has {message}.*Pass frozen=True .*, or momentum=0\.7"):
        build(case, (module, state))
    z = draw(case)[1]
    f = lambda x, state: module(x, state, inference=True)  # noqa: E731
    want = jax.vmap(f, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(z, state)[0]
    np.testing.assert_allclose(build(case, (module, state), frozen=True)(z), want, rtol=1e-6, atol=1e-6)
    trainable = build(case, (module, state), momentum=0.5)
    assert trainable.momentum == 0.5 and not trainable.frozen


def test_linen_and_nnx_take_each_others() -> None:
    of = CASES["nnx"]
    (module,) = make_nnx(of)
    layer = interop.from_flax(module)
    close(run_linen(of, *interop.to_linen(layer)), run_nnx(of, module))


def test_whole_models_go_through_the_converters_of_brainstate() -> None:
    interop.register_converters("nnx", "linen")
    net = brainstate.nn.Sequential(brainstate.nn.Linear(4, 6), BatchNorm0d(6, momentum=0.7))
    mean, var = statistics((6,))
    net.layers[1].running_mean.value, net.layers[1].running_var.value = jnp.asarray(mean), jnp.asarray(var)
    x = normal((5, 4))
    with brainstate.environ.context(fit=False):
        want = net(x)
        outside = brainstate.interop.to_nnx(net)
        outside.eval()
        np.testing.assert_allclose(outside(x), want, rtol=1e-5, atol=1e-5)
        back = brainstate.interop.from_nnx(outside)
        assert type(back.layers[1]) is BatchNorm
        np.testing.assert_allclose(back(x), want, rtol=1e-5, atol=1e-5)
        module, variables = brainstate.interop.to_linen(net)
        np.testing.assert_allclose(brainstate.interop.from_linen(module, variables)(x), want, rtol=1e-5, atol=1e-5)


def cumulative() -> Any:
    return torch.nn.BatchNorm1d(6, momentum=None)


def seen_once(mode: str) -> Any:
    return eqx.nn.make_with_state(eqx.nn.BatchNorm)(6, "batch", mode=mode)[0]


def test_a_scale_without_a_bias() -> None:
    """torch and flax have it; the others would learn a bias besides."""
    module = interop.to_torch(BatchNorm0d(4, bias_initializer=None, unbiased=True))
    assert [name for name, _ in module.named_parameters()] == ["weight"]
    module = interop.to_flax(BatchNorm0d(4, bias_initializer=None))
    assert module.bias is None and module.scale is not None
    for convert, unbiased in ((interop.to_equinox, False), (interop.to_brainstate, False), (interop.to_brainpy, True)):
        with pytest.raises(ConversionError, match=r"has a scale without a bias, which .* lacks. Build the layer with"):
            convert(BatchNorm0d(4, bias_initializer=None, unbiased=unbiased))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "torch, cumulative": (
        lambda: interop.from_torch(cumulative(), 6),
        r"BatchNorm1d has momentum=None, the average of all calls, which ours lacks. Pass momentum=0\.99",
    ),
    "torch, no size": (
        lambda: interop.from_torch(torch.nn.BatchNorm1d(6)),
        r"does not know the size of its input. Give in_size=\(6,\) or \(6, length\)",
    ),
    "torch, another size": (
        lambda: interop.from_torch(torch.nn.BatchNorm2d(6), (6, 4)),
        r"takes \(6, height, width\), but in_size=\(6, 4\)",
    ),
    "nnx, a bias alone": (
        lambda: interop.from_flax(nnx.BatchNorm(6, use_scale=False, rngs=nnx.Rngs(0))),
        "has a bias without a scale, which ours lacks. Pass affine=True for a scale that starts at 1",
    ),
    "nnx, an axis from the left": (
        lambda: interop.from_flax(nnx.BatchNorm(6, axis=1, rngs=nnx.Rngs(0))),
        r"counts axis=\(1,\) from the left",
    ),
    "linen, no statistics": (
        lambda: interop.from_flax(linen.BatchNorm(use_scale=False, use_bias=False)),
        "of linen has running statistics, but the variables hold none. Pass what module.init returned",
    ),
    "equinox, no state": (
        lambda: interop.from_equinox(seen_once("batch"), 6),
        r"keeps its statistics in a state. Pass it: from_equinox\(module, in_size, state\)",
    ),
    "brainpy, other axes": (
        lambda: interop.from_brainpy(brainpy.dnn.BatchNorm1d(6, axis=0)),
        r"reduces axis=\(0,\), which ours lacks",
    ),
    "brainpy, devices": (
        lambda: interop.from_brainpy(brainpy.dnn.BatchNorm1d(6, axis_name="i")),
        "has axis_name=i, whose devices it does not weight",
    ),
    "unbiased": (lambda: interop.to_torch(BatchNorm(6)), "has unbiased=False, which torch.nn.BatchNorm1d lacks"),
    "biased": (lambda: interop.to_flax(BatchNorm(6, unbiased=True)), "has unbiased=True, which flax.nnx.BatchNorm"),
    "frozen": (
        lambda: interop.to_linen(BatchNorm(6, frozen=True)),
        "has frozen=True, which flax.linen.BatchNorm lacks. Set layer.frozen = False",
    ),
    "unit": (lambda: interop.to_equinox(BatchNorm(6, unit=u.mV)), "has unit=mV, which equinox.nn.BatchNorm lacks"),
    "untracked": (
        lambda: interop.to_brainpy(BatchNorm(6, track_running_stats=False)),
        "has track_running_stats=False, which brainpy.dnn.BatchNorm1d lacks",
    ),
    "channels last": (
        lambda: interop.to_torch(BatchNorm((4, 6), unbiased=True)),
        r"has channels on axes \(1,\) of in_size=\(4, 6\), which torch.nn lacks. Its channels come first",
    ),
    "channels first": (
        lambda: interop.to_brainpy(BatchNorm((6, 4), 0, unbiased=True)),
        r"has channels on axes \(0,\) of in_size=\(6, 4\), which brainpy.dnn lacks. Its channels come last",
    ),
    "too much space": (
        lambda: interop.to_torch(BatchNorm((6, 2, 2, 2, 2), 0, unbiased=True)),
        r"has 4 axes of space in in_size=\(6, 2, 2, 2, 2\), which torch.nn lacks",
    ),
    "two channel axes": (
        lambda: interop.to_flax(BatchNorm((4, 6), (0, 1))),
        "has feature_axes=.0, 1., which flax.nnx.BatchNorm lacks. Convert it by to_linen",
    ),
    "nothing is forgotten": (
        lambda: interop.to_equinox(BatchNorm(6, momentum=1.0)),
        "has momentum=1.0, which equinox.nn.BatchNorm lacks",
    ),
    "another class": (lambda: interop.from_torch(torch.nn.SyncBatchNorm(6)), "takes BatchNorm1d, .*; got .*Sync"),
    "another class of ours": (
        lambda: interop.to_brainpy(brainstate.nn.LayerNorm(6)),
        "takes BatchNorm, GroupNorm, LayerNorm; got",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_said_is_named(what: str) -> None:
    convert, message = REFUSED[what]
    with pytest.raises(ConversionError, match=message):
        convert()


def test_a_scale_alone() -> None:
    module = torch.nn.BatchNorm1d(6, bias=False)
    layer = interop.from_torch(module, 6)
    assert [*layer.weight.value] == ["scale"]
    assert interop.to_flax(BatchNorm(6, bias_initializer=None)).use_bias is False
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    with brainstate.environ.context(fit=True):
        np.testing.assert_allclose(layer(x), module(torch.from_numpy(x)).detach().numpy(), rtol=1e-6, atol=1e-6)


def test_the_remedies_are_taken() -> None:
    averaged = interop.from_torch(cumulative(), 6, momentum=0.5)
    assert averaged.momentum == 0.5
    half = interop.from_torch(torch.nn.BatchNorm1d(6, bias=False), 6, affine=True)
    np.testing.assert_array_equal(half.weight.value["bias"], jnp.zeros(6))
    assert type(interop.to_brainpy(BatchNorm((3, 6), unbiased=True))) is brainpy.dnn.BatchNorm1d
    assert type(interop.from_flax(nnx.LayerNorm(6, rngs=nnx.Rngs(0)))) is LayerNorm
