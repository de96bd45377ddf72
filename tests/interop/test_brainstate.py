"""Our layers against those of brainstate.nn: the same options, the same weights, the same values, both ways."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import nn

import braindnorm
from braindnorm import BatchNorm, BatchNorm0d, GroupNorm, LayerNorm, NormParam, RMSNorm
from braindnorm.errors import ConversionError
from braindnorm.interop import from_brainstate, to_brainstate

SOURCES = {
    "layer": (lambda: nn.LayerNorm(8), (5, 8)),
    "layer, axes": (lambda: nn.LayerNorm((3, 8), (-2, -1), (-2, -1), epsilon=0.1), (2, 5, 3, 8)),
    "layer, positive axes": (lambda: nn.LayerNorm((3, 8), (1, 2), 0), (5, 3, 8)),
    "layer, no bias": (lambda: nn.LayerNorm(8, use_bias=False), (5, 8)),
    "layer, no scale": (lambda: nn.LayerNorm(8, use_scale=False), (5, 8)),
    "layer, plain": (lambda: nn.LayerNorm(8, use_scale=False, use_bias=False), (5, 8)),
    "layer, half": (lambda: nn.LayerNorm(8, dtype=jnp.float16), (5, 8)),
    "rms": (lambda: nn.RMSNorm((3, 8), reduction_axes=(-2, -1)), (5, 3, 8)),
    "rms, plain": (lambda: nn.RMSNorm(8, use_scale=False, use_fast_variance=False), (5, 8)),
    "group": (lambda: nn.GroupNorm(6, num_groups=2), (5, 4, 3, 6)),
    "group, by size": (lambda: nn.GroupNorm(6, num_groups=None, group_size=2), (5, 6)),
    "group, plain": (lambda: nn.GroupNorm(6, num_groups=3, use_scale=False, use_bias=False), (5, 4, 6)),
}


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return (0.5 + 2 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def randomize(module: nn.Module) -> nn.Module:
    for state in module.states().values():
        state.value = {key: jnp.asarray(normal(v.shape, seed=len(key))) for key, v in state.value.items()}
    return module


def close(actual: Any, expected: Any) -> None:
    assert actual.dtype == expected.dtype
    tolerance = 1e-6 if actual.dtype == jnp.float32 else 4e-3
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", SOURCES)
def test_from_brainstate_gives_the_same_values(case: str) -> None:
    make, shape = SOURCES[case]
    module, x = randomize(make()), normal(shape)
    close(from_brainstate(module)(x), module(x))


@pytest.mark.parametrize("case", SOURCES)
def test_there_and_back(case: str) -> None:
    make, shape = SOURCES[case]
    module, x = randomize(make()), normal(shape)
    back = to_brainstate(from_brainstate(module))
    assert type(back) is type(module)
    assert back.states().keys() == module.states().keys()
    close(back(x), module(x))


@pytest.mark.parametrize("case", SOURCES)
def test_masked_positions_keep_the_values_of_brainstate(case: str) -> None:
    make, shape = SOURCES[case]
    module, x = randomize(make()), normal(shape)
    mask = jnp.asarray(np.random.default_rng(1).random(shape) < 0.6).at[..., ::2].set(True)
    close(from_brainstate(module)(x, mask=mask), module(x, mask=mask))
    zeroed = from_brainstate(module, masked_output="zero")(x, mask=mask)
    np.testing.assert_array_equal(zeroed[~mask], 0)


def test_a_converted_layer_without_a_mask_runs_the_program_of_a_new_one() -> None:
    x = normal((5, 8))
    converted, new = (jax.make_jaxpr(norm)(x) for norm in (from_brainstate(nn.LayerNorm(8)), LayerNorm(8)))
    assert str(converted) == str(new)


def test_options_of_ours_go_along() -> None:
    module, x = randomize(nn.LayerNorm(8)), normal((5, 8))
    layer = from_brainstate(module, unit=u.mV, out_unit=u.UNITLESS)
    close(layer(x * u.mV), module(x))


def test_an_option_of_ours_wins() -> None:
    module, x = randomize(nn.LayerNorm(8)), normal((5, 8))
    learned = module.weight.value
    assert from_brainstate(module, use_bias=False).weight.value.keys() == {"scale"}
    close(from_brainstate(nn.LayerNorm(8), epsilon=0.1)(x), nn.LayerNorm(8, epsilon=0.1)(x))
    grown = from_brainstate(nn.LayerNorm(8, use_bias=False), use_bias=True)
    np.testing.assert_array_equal(grown.weight.value["bias"], jnp.zeros_like(learned["bias"]))


def test_a_state_of_another_class_goes_over_as_it_is() -> None:
    class Doubled(NormParam):
        def execute(self, x: Any) -> Any:
            return 2 * super().execute(x)

    module, x = randomize(nn.LayerNorm(8, param_type=Doubled)), normal((5, 8))
    layer = from_brainstate(module)
    assert layer.weight is module.weight
    close(layer(x), module(x))
    with pytest.raises(ConversionError, match=r"has param_type=Doubled, which brainstate\.nn\.LayerNorm lacks"):
        to_brainstate(layer)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LayerNorm(8, unit=u.mV), "LayerNorm has unit=mV, which brainstate.nn.LayerNorm lacks. Build .* unit=None"),
        (RMSNorm(8, masked_output="input"), "masked_output=input"),
        (RMSNorm(8, stop_statistics_gradient=True), "stop_statistics_gradient=True"),
        (LayerNorm(8, epsilon=0.1 * u.mV), "a unit in epsilon"),
        (GroupNorm((6, 4), 0, num_groups=2), "channels on axis -2"),
        (GroupNorm(6, num_groups=2, reduction_axes=-2), r"reduction_axes=\(-2,\)"),
        (BatchNorm(8, unbiased=True), "has unbiased=True, which brainstate.nn.BatchNorm0d lacks"),
        (BatchNorm0d(8, frozen=True), "has frozen=True, which .* Set layer.frozen = False"),
        (BatchNorm0d(8, track_running_stats=False), "has track_running_stats=False"),
        (BatchNorm((2, 2, 2, 2, 8)), "has 4 axes of space in in_size="),
        (nn.LayerNorm(8), "takes BatchNorm, BatchNorm0d, .*, GroupNorm, LayerNorm, RMSNorm"),
    ],
)
def test_what_brainstate_lacks_is_named(layer: LayerNorm, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        to_brainstate(layer)


def test_other_classes_are_refused() -> None:
    class Own(nn.LayerNorm):
        pass

    for other in (Own(8), LayerNorm(8), BatchNorm0d(8)):
        with pytest.raises(ConversionError, match=r"takes BatchNorm0d, .*, GroupNorm, LayerNorm, RMSNorm"):
            from_brainstate(other)


def test_a_dtype_that_was_given_is_kept() -> None:
    assert from_brainstate(nn.LayerNorm(8)).dtype is None
    assert from_brainstate(nn.LayerNorm(8, dtype=jnp.float16)).dtype == jnp.float16
    with brainstate.environ.context(precision=64):
        assert from_brainstate(nn.LayerNorm(8)).dtype is None


# a batch norm: how it is made, and the shape of an input
BATCH_NORMS: dict[str, Any] = {
    "0d": (lambda: nn.BatchNorm0d(8, momentum=0.7), (5, 8)),
    "1d, masked": (lambda: nn.BatchNorm1d((4, 8), epsilon=0.1), (5, 4, 8)),
    "2d": (lambda: nn.BatchNorm2d((3, 2, 8)), (5, 3, 2, 8)),
    "3d, plain": (lambda: nn.BatchNorm3d((2, 3, 2, 8), affine=False), (5, 2, 3, 2, 8)),
}


def step_and_evaluation(layer: Any, shape: tuple[int, ...], mask: Any) -> list[np.ndarray]:
    with brainstate.environ.context(fit=True):
        trained = layer(normal(shape), mask=mask)
    with brainstate.environ.context(fit=False):
        evaluated = layer(normal(shape, seed=1), mask=mask)
    return [np.asarray(v) for v in (trained, evaluated, layer.running_mean.value, layer.running_var.value)]


@pytest.mark.parametrize("case", BATCH_NORMS)
def test_batch_norms_there_and_back(case: str) -> None:
    """A training step and an evaluation after it, at masked positions too; what is kept has the same shapes."""
    make, shape = BATCH_NORMS[case]
    module, mask = make(), np.arange(np.prod(shape)).reshape(shape) % 5 > 1 if "masked" in case else None
    for number, state in enumerate(module.states().values()):
        state.value = jax.tree.map(lambda a, seed=number: jnp.abs(normal(a.shape, seed)) + 0.5, state.value)
    layer = from_brainstate(module)
    back = to_brainstate(layer)
    assert type(layer) is getattr(braindnorm, type(module).__name__) and type(back) is type(module)
    shapes = [jax.tree.map(jnp.shape, {path: s.value for path, s in norm.states().items()}) for norm in (module, layer)]
    assert shapes[0] == shapes[1]
    want = step_and_evaluation(module, shape, mask)
    for norm in (layer, back):
        for mine, other in zip(step_and_evaluation(norm, shape, mask), want, strict=True):
            np.testing.assert_allclose(mine, other, rtol=2e-6, atol=2e-6)


def test_batch_norms_of_brainstate_are_written_as_they_were() -> None:
    class Kept(brainstate.LongTermState):
        pass

    layer = from_brainstate(nn.BatchNorm0d(8, momentum=0.999, dtype=jnp.float16), masked_output="zero")
    assert (layer.momentum, layer.epsilon, layer.dtype) == (0.999, 1e-05, jnp.float16)
    assert layer.running_mean.value.dtype == jnp.float32 and layer.masked_output == "zero"
    module = nn.BatchNorm0d(8, mean_type=Kept)
    assert from_brainstate(module).running_var is module.running_var
