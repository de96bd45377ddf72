"""What the three layers share: how they are built, held, called and transformed."""

import copy
import inspect
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import braindnorm
from braindnorm import NormParam
from braindnorm.errors import OptionError
from tests.support.norms import LAYERS, NORMS, THEIRS, draw, parameters, randomize, weight_of

transform = brainstate.transform
every_norm = pytest.mark.parametrize("kind", NORMS)


@every_norm
def test_arguments_are_those_of_brainstate(kind: str) -> None:
    """The same names in the same order, of the same kind and default; what is new is keyword-only and comes after."""
    ours = list(inspect.signature(LAYERS[kind].__init__).parameters.values())
    theirs = list(inspect.signature(THEIRS[kind].__init__).parameters.values())
    assert [(p.name, p.kind) for p in ours[: len(theirs)]] == [(p.name, p.kind) for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])
    assert {"unit", "out_unit", "masked_output", "name"} <= {p.name for p in ours[len(theirs) :]}
    for own, other in zip(ours, theirs, strict=False):
        if own.name == "param_type":
            assert issubclass(own.default, brainstate.ParamState)
        else:
            assert repr(own.default) == repr(other.default), own.name


@every_norm
def test_update_takes_the_arguments_of_brainstate(kind: str) -> None:
    ours, theirs = (inspect.signature(layers[kind].update).parameters for layers in (LAYERS, THEIRS))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize("options", [{}, {"use_scale": False}], ids=str)
@every_norm
def test_the_tree_of_states_is_that_of_brainstate(kind: str, options: dict[str, Any]) -> None:
    options = options | ({"num_groups": 2} if kind == "GroupNorm" else {})

    def tree(layer: Any) -> Any:
        return {path: jax.tree.map(lambda v: (v.shape, v.dtype), state.value) for path, state in layer.states().items()}

    ours, theirs = LAYERS[kind]((6,), **options), THEIRS[kind]((6,), **options)
    assert tree(ours) == tree(theirs)
    assert all(isinstance(state, brainstate.ParamState) for state in ours.states().values())


@every_norm
def test_sizes(kind: str) -> None:
    layer = NORMS[kind].layer((3, 6))
    assert layer.in_size == layer.out_size == (3, 6)
    assert layer(draw(5, 3, 6)).shape == (5, 3, 6)
    assert {v.shape for v in parameters(layer).values()} == {(1, 6)}
    assert NORMS[kind].layer(6).in_size == (6,)


@every_norm
def test_without_parameters(kind: str) -> None:
    options = {"use_scale": False} | ({} if kind == "RMSNorm" else {"use_bias": False})
    layer = NORMS[kind].layer(6, **options)
    assert weight_of(layer) is None
    assert not layer.states()
    np.testing.assert_allclose(layer(draw(5, 6)), NORMS[kind].reference(draw(5, 6)), rtol=1e-5, atol=1e-5)


@every_norm
def test_in_a_sequence_with_describers(kind: str) -> None:
    """Sizes are handed on; a unit goes through."""
    options = {"num_groups": 2, "reduction_axes": ()} if kind == "GroupNorm" else {}
    model = brainstate.nn.Sequential(
        brainstate.nn.Linear(3, 6), LAYERS[kind].desc(**options), brainstate.nn.Linear.desc(out_size=2)
    )
    assert model.out_size == (2,)
    assert model(draw(5, 3)).shape == (5, 2)
    norm = model.layers[1]
    assert (norm.in_size, type(norm)) == ((6,), LAYERS[kind])


@every_norm
def test_arrays_on_the_left_of_the_arrows(kind: str) -> None:
    layer = randomize(NORMS[kind].layer(6))
    x = draw(5, 6)
    want = layer(x)
    np.testing.assert_array_equal(x >> layer, want)
    np.testing.assert_array_equal(jnp.asarray(x) >> layer, want)
    np.testing.assert_array_equal(x >> layer >> NORMS[kind].layer(6), NORMS[kind].layer(6)(want))
    quantity = (jnp.asarray(x) * u.mV) >> layer
    np.testing.assert_array_equal(quantity / u.mV, want)
    # brainunit hands over the bare mantissa, which a declared unit does not let pass
    with pytest.raises(braindnorm.errors.UnitError, match="plain array"):
        (jnp.asarray(x) * u.mV) >> NORMS[kind].layer(6, unit=u.mV)


@every_norm
def test_the_printed_layer_shows_unit_and_axes(kind: str) -> None:
    layer = NORMS[kind].layer((3, 6), unit=u.mV, out_unit=u.mA, name="soma", reduction_axes=(-2, -1))
    text = repr(layer)
    assert text.startswith(kind)
    for part in ('unit=Unit("mV")', 'out_unit=Unit("mA")', "reduction_axes=(-2, -1)", "feature_axes=(1,)", "(3, 6)"):
        assert part in text


@every_norm
def test_split_and_merge(kind: str) -> None:
    layer = randomize(NORMS[kind].layer(6, unit=u.mV, epsilon=1.0 * u.mV**2, out_unit=u.UNITLESS))
    x = jnp.asarray(draw(5, 6)) * u.mV
    again = brainstate.graph.treefy_merge(*brainstate.graph.treefy_split(layer))
    np.testing.assert_array_equal(again(x), layer(x))
    assert weight_of(again) is not weight_of(layer)


@every_norm
def test_copies_are_independent(kind: str) -> None:
    layer = randomize(NORMS[kind].layer(6, unit=u.mV, out_unit=u.UNITLESS))
    x = jnp.asarray(draw(5, 6)) * u.mV
    before = layer(x)
    twin = copy.deepcopy(layer)
    np.testing.assert_array_equal(twin(x), before)
    randomize(twin, seed=9)
    np.testing.assert_array_equal(layer(x), before)
    assert np.abs(twin(x) - before).max() > 0.1


@every_norm
def test_jit_follows_the_parameters(kind: str) -> None:
    layer = NORMS[kind].layer(6)
    call, x = transform.jit(layer), draw(5, 6)
    np.testing.assert_allclose(call(x), layer(x), rtol=1e-6, atol=1e-6)
    randomize(layer)
    np.testing.assert_allclose(call(x), layer(x), rtol=1e-6, atol=1e-6)


@every_norm
def test_training(kind: str) -> None:
    """Steps of gradient descent under jit bring scale and bias to those of a teacher, and change no dtype."""
    teacher, layer, x = randomize(NORMS[kind].layer(6)), NORMS[kind].layer(6), draw(40, 6)

    def loss() -> jax.Array:
        return jnp.mean((layer(x) - teacher(x)) ** 2)

    @transform.jit
    def step() -> jax.Array:
        weight = weight_of(layer)
        gradient, value = transform.grad(loss, weight, return_value=True)()
        weight.value = jax.tree.map(lambda w, g: w - 2.0 * g, weight.value, gradient)
        return value

    first = step()
    for _ in range(60):
        last = step()
    assert last < 1e-6 < first
    for key, value in parameters(layer).items():
        np.testing.assert_allclose(value, parameters(teacher)[key], atol=1e-2)
        assert weight_of(layer).value[key].aval.weak_type is False


@pytest.mark.parametrize(
    "init", [2, 2.0, np.float64(2), jnp.ones(6, jnp.int32), brainstate.nn.init.Constant(2.0)], ids=type
)
@every_norm
def test_parameters_are_floats_of_their_own_type(kind: str, init: Any) -> None:
    (scale, *_) = (weight_of(NORMS[kind].layer(6, scale_init=init)).value["scale"],)
    assert (scale.dtype, scale.weak_type, scale.shape) == (jnp.float32, False, (6,))


@every_norm
def test_loops_and_other_transforms(kind: str) -> None:
    layer = randomize(NORMS[kind].layer(6))
    x = jnp.asarray(draw(4, 5, 6))
    want = layer(x)
    every = {
        "for_loop": transform.for_loop(layer, x),
        "scan": transform.scan(lambda carry, step: (carry, layer(step)), 0.0, x)[1],
        "vmap": transform.vmap(layer)(x),
        "vmap2": transform.vmap2(layer)(x),
        "checkpoint": transform.checkpoint(layer)(x),
        "jit": transform.jit(layer)(x),
    }
    for name, got in every.items():
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=name)


@every_norm
def test_masks_step_by_step(kind: str) -> None:
    layer = randomize(NORMS[kind].layer(6))
    x, mask = jnp.asarray(draw(4, 5, 6)), np.random.default_rng(1).random((4, 5, 1)) < 0.6
    steps = transform.for_loop(lambda x, mask: layer(x, mask=mask), x, mask)
    np.testing.assert_allclose(steps, layer(x, mask=mask), rtol=1e-5, atol=1e-6)


@every_norm
def test_a_parameter_with_an_execute_of_its_own(kind: str) -> None:
    """It is given z, once, and what it returns is the output."""
    seen = []

    class Counted(NormParam):
        def execute(self, x: jax.Array) -> jax.Array:
            seen.append(x)
            return 3 * super().execute(x)

    plain, layer = randomize(NORMS[kind].layer(6)), randomize(NORMS[kind].layer(6, param_type=Counted))
    x, mask = draw(5, 6), np.arange(6) < 4
    assert type(weight_of(layer)) is Counted
    np.testing.assert_allclose(layer(x), 3 * plain(x), rtol=1e-5, atol=1e-6)
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], NORMS[kind].reference(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer(x, mask=mask), 3 * plain(x, mask=mask), rtol=1e-5, atol=1e-6)
    gradient = transform.grad(lambda: layer(x).sum(), weight_of(layer))()
    want = transform.grad(lambda: 3 * plain(x).sum(), weight_of(plain))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradient, want)


@every_norm
def test_a_parameter_type_of_brainstate(kind: str) -> None:
    """The one that brainstate's own layers use applies the same scale and bias."""
    theirs = type(weight_of(THEIRS[kind]((32,))))
    layer, plain = NORMS[kind].layer(6, param_type=theirs), NORMS[kind].layer(6)
    randomize(layer), randomize(plain)
    np.testing.assert_allclose(layer(draw(5, 6)), plain(draw(5, 6)), rtol=1e-5, atol=1e-6)


@every_norm
def test_a_parameter_type_that_applies_nothing_is_refused(kind: str) -> None:
    for wrong in (brainstate.ParamState, NormParam({}), dict):
        with pytest.raises(OptionError, match=r"param_type must be a class of ParamState with execute\(z\), such as"):
            NORMS[kind].layer(6, param_type=wrong)


@every_norm
def test_names(kind: str) -> None:
    assert NORMS[kind].layer(6, name="soma").name == "soma"
    assert NORMS[kind].layer(6).name is None
