"""A scale and a bias for each time step: one step, a part of a sequence and the whole of it."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import for_loop, grad, jit, vmap

from braindnorm import GroupNorm, LayerNorm, NormParam, RMSNorm
from braindnorm.errors import AxisError, OptionError

T = 5
XS = np.random.default_rng(0).normal(size=(T, 3, 4)).astype(np.float32)
KINDS: list[Any] = [LayerNorm, RMSNorm, lambda size, **kw: GroupNorm(size, num_groups=2, reduction_axes=(), **kw)]


def per_step(kind: Any, size: Any = 4, **options: Any) -> Any:
    layer = kind(size, param_steps=T, **options)
    weight = getattr(layer, "weight", None) or layer.scale
    rng = np.random.default_rng(1)
    weight.value = {k: jnp.asarray(rng.normal(size=v.shape), v.dtype) for k, v in sorted(weight.value.items())}
    return layer, {k: np.asarray(v) for k, v in weight.value.items()}


def truth(layer: Any, kind: Any, parameters: dict[str, np.ndarray], steps: Any, x: Any) -> np.ndarray:
    """Return z of a layer without parameters, step by step, scaled and shifted by hand."""
    z = kind(layer.in_size, use_scale=False, **({} if isinstance(layer, RMSNorm) else {"use_bias": False}))
    return np.stack(
        [
            z(x_t) * parameters["scale"][i] + parameters.get("bias", np.zeros(T))[i]
            for i, x_t in zip(steps, x, strict=True)
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_a_part_and_the_whole(kind: Any) -> None:
    layer, parameters = per_step(kind)
    assert all(v.shape == (T, 4) for v in parameters.values())
    expected = truth(layer, kind, parameters, range(T), XS)

    def body(i: Any, x: Any) -> Any:
        with brainstate.environ.context(i=i):
            return layer(x)

    stepped = for_loop(body, jnp.arange(T), jnp.asarray(XS))
    assert np.allclose(stepped, expected, atol=1e-6)
    for steps in (np.arange(T), np.array([3, 1])):
        assert np.allclose(body(steps, XS[steps]), expected[steps], atol=1e-6)
    assert np.allclose(jit(body)(2, XS[2]), expected[2], atol=1e-6)
    with brainstate.environ.context(i=jnp.arange(T)):  # known, and an array of jax
        assert np.allclose(jit(layer)(XS), expected, atol=1e-6)
    assert np.allclose(vmap(body)(jnp.arange(T), jnp.asarray(XS)), expected, atol=1e-6)


def test_feature_axes_and_units() -> None:
    layer, parameters = per_step(GroupNorm, (4, 2), feature_axis=0, num_groups=2, unit=u.mV, out_unit=u.nA)
    assert parameters["scale"].shape == (T, 4, 1)
    x = np.random.default_rng(2).normal(size=(T, 3, 4, 2)).astype(np.float32)
    with brainstate.environ.context(i=jnp.arange(T)):
        whole = GroupNorm((4, 2), feature_axis=0, num_groups=2, reduction_axes=(-1,), param_steps=T)
        whole.weight.value = layer.weight.value
        got = whole(x)
    for i in range(T):
        with brainstate.environ.context(i=i):
            step = layer(x[i] * u.mV)
        assert np.allclose(step.to_decimal(u.nA), got[i], atol=1e-5)


def test_gradients_reach_the_step_alone() -> None:
    layer, _ = per_step(LayerNorm)
    with brainstate.environ.context(i=3):
        found = grad(lambda: jnp.sum(layer(XS[3]) ** 2), layer.states(brainstate.ParamState))()
    for g in jax.tree.leaves(found):
        assert np.flatnonzero(np.abs(g).sum(-1)).tolist() == [3]


def test_a_step_that_is_not_there() -> None:
    layer, _ = per_step(LayerNorm)
    for i in (T, -1, np.array([0, T])):
        with brainstate.environ.context(i=i), pytest.raises(OptionError, match=r"i=.* param_steps=5 steps, 0 to 4"):
            layer(XS[:2])

    def body(i: Any) -> Any:
        with brainstate.environ.context(i=i):
            return layer(XS[0])

    got = np.asarray(for_loop(body, jnp.array([-1, 0, T])))
    assert np.isnan(got[[0, 2]]).all() and np.isfinite(got[1]).all()


def test_which_step_must_be_said() -> None:
    layer, _ = per_step(LayerNorm)
    with pytest.raises(OptionError, match=r"param_steps=5 steps.*context\(i=i\).*i=jnp\.arange\(5\)"):
        layer(XS)
    for i in (0.5, 1.0 * u.ms, "two"):
        with pytest.raises(OptionError, match="the step i must be an integer"), brainstate.environ.context(i=i):
            layer(XS)
    shown = r"steps i of shape \(4,\) do not fit .* \(5, 3, 4\), of which \(5, 3\)"
    with pytest.raises(AxisError, match=shown), brainstate.environ.context(i=jnp.arange(4)):
        layer(XS)
    with pytest.raises(AxisError, match=r"steps i of shape \(4,\)"), brainstate.environ.context(i=jnp.arange(4)):
        layer(XS[0, 0])


@pytest.mark.parametrize("param_steps", [0, -1, 2.0, True, "5"])
def test_what_is_no_number_of_steps(param_steps: Any) -> None:
    with pytest.raises(OptionError, match="param_steps must be a positive integer"):
        LayerNorm(4, param_steps=param_steps)


def test_a_param_type_of_its_own_is_refused() -> None:
    class Doubled(NormParam):
        def execute(self, x: jax.Array) -> jax.Array:
            return 2 * super().execute(x)

    with pytest.raises(OptionError, match=r"which Doubled\.execute does not handle"):
        LayerNorm(4, param_steps=T, param_type=Doubled)
