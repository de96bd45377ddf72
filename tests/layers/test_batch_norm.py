"""What BatchNorm has of its own: what it keeps, and how it reads it."""

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
from braindnorm import BatchNorm, errors
from tests.support import reference
from tests.support.norms import draw, float64

transform = brainstate.transform
KINDS = ("BatchNorm0d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
SIZES = {"BatchNorm0d": (6,), "BatchNorm1d": (5, 6), "BatchNorm2d": (4, 5, 6), "BatchNorm3d": (2, 4, 5, 6)}
every_kind = pytest.mark.parametrize("kind", KINDS)


def train(f: Any, *args: Any, **kwargs: Any) -> Any:
    with brainstate.environ.context(fit=True):
        return f(*args, **kwargs)


def evaluate(f: Any, *args: Any, **kwargs: Any) -> Any:
    with brainstate.environ.context(fit=False):
        return f(*args, **kwargs)


def kept(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.array(layer.running_mean.value), np.array(layer.running_var.value)


def close(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@every_kind
def test_arguments_states_and_attributes_are_those_of_brainstate(kind: str) -> None:
    own, other = getattr(braindnorm, kind), getattr(brainstate.nn, kind)
    ours, theirs = (list(inspect.signature(layer.__init__).parameters.values()) for layer in (own, other))
    assert [(p.name, p.kind) for p in ours[: len(theirs)]] == [(p.name, p.kind) for p in theirs]
    for a, b in zip(ours, theirs, strict=False):
        assert a.name == "param_type" or repr(a.default) == repr(b.default), a.name
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])
    called = inspect.signature(own.update).parameters
    assert [*called] == ["self", "x", "mask"]
    assert called["mask"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and called["mask"].default is None
    options = {"momentum": 0.75, "epsilon": 0.5}
    mine, yours = own(SIZES[kind], **options), other(SIZES[kind], **options)
    shapes = [
        {path: jax.tree.map(lambda v: (v.shape, v.dtype), s.value) for path, s in layer.states().items()}
        for layer in (mine, yours)
    ]
    assert shapes[0] == shapes[1]
    assert {type(s).__name__ for s in mine.states().values()} == {"BatchState", "NormParam"}
    assert type(mine.running_mean) is type(yours.running_mean)
    for name in set(vars(yours)) - {"weight", "running_mean", "running_var", "_name", "bias_initializer"}:
        if not name.startswith("_") and name not in ("scale_initializer", "dtype"):
            assert np.all(getattr(mine, name) == getattr(yours, name)), name


@every_kind
def test_values_are_those_of_brainstate(kind: str) -> None:
    """Two updates and an evaluation, where brainstate's are right."""
    layers = [getattr(source, kind)(SIZES[kind], momentum=0.75) for source in (braindnorm, brainstate.nn)]
    for seed in range(2):
        x = draw(3, *SIZES[kind], seed=seed, loc=1.0)
        close(*(train(layer, x) for layer in layers))
        for name in ("running_mean", "running_var"):
            close(*(getattr(layer, name).value for layer in layers))
    close(*(evaluate(layer, x) for layer in layers))


@every_kind
def test_a_checkpoint_of_one_loads_in_the_other(kind: str) -> None:
    theirs = getattr(brainstate.nn, kind)(SIZES[kind])
    train(theirs, draw(3, *SIZES[kind]))
    ours = getattr(braindnorm, kind)(SIZES[kind])
    for path, state in theirs.states().items():
        ours.states()[path].value = state.value
    close(evaluate(ours, draw(2, *SIZES[kind], seed=1)), evaluate(theirs, draw(2, *SIZES[kind], seed=1)))


@pytest.mark.parametrize("feature_axis", [-1, 0, (0, 2), (-3, -2, -1)], ids=str)
@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
def test_any_leading_axes_and_place_of_the_channels(leading: tuple[int, ...], feature_axis: Any) -> None:
    layer = BatchNorm((3, 4, 6), feature_axis, momentum=0.0)
    axes = {axis % 3 for axis in np.atleast_1d(feature_axis)}
    shape = tuple(n if axis in axes else 1 for axis, n in enumerate((3, 4, 6)))
    assert {v.shape for v in (*kept(layer), *layer.weight.value.values())} == {shape}
    x = draw(*leading, 3, 4, 6, loc=2.0)
    others = tuple(a for a in range(x.ndim) if a - len(leading) not in axes)
    close(train(layer, x), reference.layer_norm(x, others, epsilon=1e-5) if others else 0 * x)
    wide = x.astype(float)
    close(layer.running_mean.value.ravel(), wide.mean(others).ravel())
    close(layer.running_var.value.ravel(), wide.var(others).ravel())
    for state in (layer.running_mean, layer.running_var):
        assert state.value.shape == shape


def test_space_may_differ_and_channels_may_not() -> None:
    layer = braindnorm.BatchNorm1d((20, 3))
    assert train(layer, draw(2, 7, 3)).shape == evaluate(layer, draw(2, 7, 3)).shape == (2, 7, 3)
    for layer in (BatchNorm((20, 3)), BatchNorm((20, 3), affine=False)):
        with pytest.raises(errors.AxisError, match="axis -1 of the input must be 3 long"):
            train(layer, draw(2, 20, 4))
    with pytest.raises(errors.AxisError, match=r"BatchNorm2d\(.*in_size must have 3 axes, 2 of space.*got \(6,\)"):
        braindnorm.BatchNorm2d(6)


def test_one_sample_one_step_and_a_batch_of_one() -> None:
    layer = BatchNorm(3, momentum=0.0)
    x = draw(8, 3, loc=4.0)
    y = train(layer, x)
    before = kept(layer)
    for one in (x[2], x[2:3], x[None, 2:3]):
        close(evaluate(layer, one).reshape(3), y[2])
    np.testing.assert_array_equal(before, kept(layer))


@pytest.mark.parametrize("unbiased", [False, True])
def test_one_valid_element(unbiased: bool) -> None:
    """Its mean is kept; its variance is 0, and unbiased there is none."""
    layer = BatchNorm(2, momentum=0.75, unbiased=unbiased)
    np.testing.assert_array_equal(train(layer, jnp.array([[4.0, -8.0]])), 0)
    close(layer.running_mean.value, [1.0, -2.0])
    close(layer.running_var.value, 1.0 if unbiased else 0.75)


@pytest.mark.parametrize("what", ["everything", "a channel", "empty"])
def test_nothing_valid_updates_nothing(what: str) -> None:
    layer = BatchNorm(3)
    train(layer, draw(4, 3, loc=5.0))
    before = kept(layer)
    if what == "empty":
        train(layer, jnp.zeros((0, 3)))
    else:
        mask = np.zeros((4, 1), bool) if what == "everything" else np.arange(3) != 1
        y = train(layer, np.where(mask, draw(4, 3), np.nan), mask=mask)
        assert np.isfinite(y).all()
    channels = [1] if what == "a channel" else [0, 1, 2]
    for was, now in zip(before, kept(layer), strict=True):
        np.testing.assert_array_equal(was[channels], now[channels])
        assert (was == now).sum() == len(channels)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("form", ["bool", "integer", "list", "step mask", "of each element"])
def test_padding_changes_neither_the_output_nor_what_is_kept(form: str, unbiased: bool) -> None:
    """They are those of the valid rows alone, whatever the padding holds."""
    lengths = np.array([5, 1, 3, 0])
    alive = np.arange(5)[:, None] < lengths  # time first
    mask = alive[..., None]
    x = draw(5, 4, 6, loc=-3.0)
    if form == "of each element":
        mask = np.random.default_rng(2).random(x.shape) < 0.5
    layer = BatchNorm(6, momentum=0.9, unbiased=unbiased)
    padded = jnp.asarray(np.where(mask, x, np.nan))
    if form == "step mask":
        with braindnorm.step_mask(alive):
            y = train(layer, padded)
    else:
        given = {"integer": mask.astype(int), "list": mask.tolist()}.get(form, mask)
        y = train(layer, padded, mask=given)
    for channel in range(6):
        valid = np.broadcast_to(mask, x.shape)[..., channel]
        rows = x[..., channel][valid].astype(float)
        close(np.asarray(y)[..., channel][valid], (rows - rows.mean()) / np.sqrt(rows.var() + 1e-5))
        close(layer.running_mean.value[channel], 0.1 * rows.mean())
        close(layer.running_var.value[channel], 0.9 + 0.1 * rows.var(ddof=int(unbiased)))
        np.testing.assert_array_equal(np.asarray(y)[..., channel][~valid], 0)


def test_masks_in_evaluation() -> None:
    layer, mask = BatchNorm(3, masked_output="normalize"), np.arange(4)[:, None] < 2
    x = np.where(mask, draw(4, 3), np.nan).astype(np.float32)
    want = x / np.sqrt(1 + 1e-5)
    close(evaluate(layer, x, mask=mask), np.where(mask, want, 0))
    layer.masked_output = "zero"
    close(evaluate(layer, x, mask=mask), np.where(mask, want, 0))
    slope = evaluate(jax.grad(lambda x: layer(x, mask=mask).sum()), x)
    close(slope, np.where(mask, np.full((4, 3), 1 / np.sqrt(1 + 1e-5)), 0))
    layer.masked_output = "input"
    close(evaluate(layer, x, mask=mask), np.where(mask, want, x))


@pytest.mark.parametrize("fast", [True, False])
def test_at_rest(fast: bool) -> None:
    """-65 mV with a spread of 0.01 mV in float32: the variance to 1%, training and evaluation to 2e-3."""
    rng = np.random.default_rng(0)
    layer = BatchNorm(4, momentum=0.9, use_fast_variance=fast)
    step = transform.jit(layer)
    x = (-65 + 0.01 * rng.standard_normal((256, 4))).astype(np.float32)
    with brainstate.environ.context(fit=True):
        for _ in range(300):
            y = step(x)
    wide = x.astype(float)
    want = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5)
    np.testing.assert_allclose(y, want, atol=2e-3 if fast else 1e-5)
    np.testing.assert_allclose(evaluate(layer, x), want, atol=2e-3)
    np.testing.assert_allclose(layer.running_var.value, wide.var(0), rtol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["input", "option"])
def test_half_precision_keeps_float32(dtype: Any, how: str) -> None:
    layer = BatchNorm(3, momentum=0.999, dtype=dtype if how == "option" else None)
    xs = jnp.asarray(draw(6, 4, 3, loc=2.0), dtype)
    assert train(transform.for_loop, layer, xs).dtype == (dtype if how == "option" else jnp.float32)
    wide = np.asarray(xs, float)
    mean = 0.0
    for step in wide:
        mean = 0.999 * mean + 0.001 * step.mean(0)
    assert {v.dtype for v in kept(layer)} == {np.dtype(np.float32)}
    close(layer.running_mean.value, mean, 1e-6)


def test_double_precision() -> None:
    layer = BatchNorm(3)
    with float64():
        x = draw(5, 3).astype(np.float64)
        y = train(layer, x)
        assert (y.dtype, layer.running_mean.value.dtype) == (jnp.float64, jnp.float32)
        np.testing.assert_allclose(y, reference.layer_norm(x, 0, epsilon=1e-5), rtol=1e-12, atol=1e-12)
        wide = BatchNorm(3)
        train(wide, x)
        np.testing.assert_allclose(wide.running_mean.value, 0.01 * x.mean(0), rtol=1e-12)


def test_spikes() -> None:
    spikes = draw(8, 3) > 0
    y = train(BatchNorm(3), spikes)
    assert y.dtype == jnp.float32
    close(y, reference.layer_norm(spikes.astype(float), 0, epsilon=1e-5))


def test_units() -> None:
    layer = BatchNorm(3, unit=u.mV, out_unit=u.UNITLESS, momentum=0.0)
    x = draw(6, 3, loc=-60.0, scale=4.0)
    y = train(layer, x * 1e-3 * u.volt)
    close(y, reference.layer_norm(x, 0, epsilon=1e-5), 1e-4)
    close(layer.running_mean.value, x.mean(0), 1e-4)
    assert layer.running_mean_quantity.unit == u.mV
    assert layer.running_var_quantity.unit == u.mV**2
    close(layer.running_var_quantity / u.mV**2, x.astype(float).var(0), 1e-3)
    close(evaluate(layer, x * u.mV), y, 1e-3)
    plain = BatchNorm(3)
    for run in (train, evaluate):
        with pytest.raises(
            errors.UnitError, match=r"the running statistics have one unit.*got an input in mV.*BatchNorm\(..., unit"
        ):
            run(plain, x * u.mV)
    assert plain.running_mean_quantity is plain.running_mean.value
    forgetful = BatchNorm(3, track_running_stats=False)
    assert forgetful(x * u.mV).unit == u.mV
    assert (forgetful.running_mean_quantity, forgetful.running_var_quantity) == (None, None)


def test_without_running_statistics() -> None:
    """Every call by its own, in both phases and without any."""
    layer, x = BatchNorm(3, track_running_stats=False), draw(6, 3)
    assert (layer.running_mean, layer.running_var) == (None, None)
    for y in (layer(x), train(layer, x), evaluate(layer, x), jax.jit(layer)(x)):
        close(y, reference.layer_norm(x, 0, epsilon=1e-5))


def test_frozen() -> None:
    """Held in training too, while scale and bias are learned; compiled functions follow."""
    layer, x = BatchNorm(3, momentum=0.5), draw(6, 3, loc=2.0)
    step = transform.jit(layer)
    train(step, x)
    before = kept(layer)
    want = (x - before[0]) / np.sqrt(before[1] + 1e-5)
    layer.frozen = True
    close(train(step, x), want)
    close(step(x), want)  # no phase is needed
    np.testing.assert_array_equal(before, kept(layer))
    gradient = train(transform.grad(lambda: (layer(x) * x).sum(), layer.weight))
    close(gradient["scale"], (want * x).sum(0), 1e-4)
    layer.frozen = False
    train(step, x)
    assert np.abs(kept(layer)[0] - before[0]).min() > 0.01
    twin = copy.deepcopy(layer)
    twin.frozen = True
    assert (layer.frozen, twin.frozen, BatchNorm(3, frozen=True).frozen) == (False, True, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": 1}, "frozen must be True or False; got 1"),
        ({"frozen": True, "track_running_stats": False}, "frozen=True holds the running statistics, but"),
        ({"affine": None}, "affine must be True or False; got None"),
        ({"track_running_stats": "no"}, "track_running_stats must be True or False; got 'no'"),
        ({"unbiased": 2}, "unbiased must be True or False; got 2"),
        ({"momentum": 2.0}, "momentum must be a number from 0 to 1"),
        ({"mean_type": list}, "mean_type must be a class of brainstate.State; got"),
        ({"scale_initializer": "one"}, "scale_initializer='one' does not make a parameter of shape"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        BatchNorm(3, **options)


def test_parameters_of_each_step() -> None:
    layer, xs = BatchNorm(2, param_steps=3), jnp.asarray(draw(3, 5, 2))
    layer.weight.value = {"scale": jnp.asarray(draw(3, 2)), "bias": jnp.asarray(draw(3, 2, seed=1))}
    with brainstate.environ.context(i=jnp.arange(3)):
        y = train(layer, xs)
    parameters = {key: np.asarray(v)[:, None] for key, v in layer.weight.value.items()}
    close(y, reference.layer_norm(xs, (0, 1), epsilon=1e-5, **parameters))


def test_a_threshold_dependent_scale() -> None:
    layer = BatchNorm(2, unit=u.nA, scale_initializer=brainstate.nn.init.Constant(10.0 * u.mV))
    assert layer.out_unit == u.mV
    assert train(layer, draw(5, 2) * u.nA).unit == u.mV


def test_states_of_another_type() -> None:
    class Kept(brainstate.LongTermState):
        pass

    layer = BatchNorm(2, mean_type=Kept)
    assert type(layer.running_mean) is type(layer.running_var) is Kept


def test_copies_and_merges_keep_for_themselves() -> None:
    layer, x = BatchNorm(3, momentum=0.5), draw(5, 3, loc=3.0)
    twins = [copy.deepcopy(layer), brainstate.graph.treefy_merge(*brainstate.graph.treefy_split(layer))]
    for twin in twins:
        train(transform.jit(twin), x)
        close(twin.running_mean.value, 0.5 * x.mean(0))
        evaluate(transform.jit(twin), x)
    np.testing.assert_array_equal(layer.running_mean.value, 0)


def test_a_subclass_with_an_execute_of_its_own() -> None:
    class Doubled(braindnorm.NormParam):
        def execute(self, x: jax.Array) -> jax.Array:
            return 2 * super().execute(x)

    layer, x = BatchNorm(3, param_type=Doubled, momentum=0.0), draw(6, 3)
    close(train(layer, x), 2 * reference.layer_norm(x, 0, epsilon=1e-5))
    close(evaluate(layer, x), 2 * reference.layer_norm(x, 0, epsilon=1e-5))
