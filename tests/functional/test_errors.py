"""Bad input: every message says what was asked, what came, and what to do."""

import re
from typing import Any

import brainevent
import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import GroupNorm, LayerNorm, RMSNorm, errors, functional, masks
from braindnorm.masks._align import align

X = np.ones((5, 3, 4), np.float32)
Q = jnp.asarray(X) * u.mV
Constant = brainstate.nn.init.Constant
norm = functional.layer_norm

# the call, the error, and what its message says: the norm, what came, what to do
CASES: dict[str, tuple[Any, type[Exception], list[str]]] = {
    # sizes
    "no size": (lambda: LayerNorm(0), errors.AxisError, ["LayerNorm", "got 0", "such as (128,)"]),
    "negative size": (lambda: RMSNorm((3, -1)), errors.AxisError, ["RMSNorm", "(3, -1)", "positive integer"]),
    "empty size": (lambda: GroupNorm(()), errors.AxisError, ["GroupNorm", "got ()", "positive integer"]),
    "huge size": (lambda: LayerNorm(2**70), errors.AxisError, ["in_size must be a positive integer", f"{2**70}"]),
    "float size": (lambda: LayerNorm(4.0), errors.AxisError, ["in_size", "got 4.0", "positive integer"]),
    "size of words": (lambda: LayerNorm("four"), errors.AxisError, ["in_size", "'four'", "positive integer"]),
    "no size at all": (lambda: LayerNorm(None), errors.AxisError, ["in_size", "got None", "positive integer"]),
    "boolean size": (lambda: LayerNorm(True), errors.AxisError, ["in_size", "got True"]),
    "normalized_shape": (
        lambda: LayerNorm.from_normalized_shape((4, 0)),
        errors.AxisError,
        ["LayerNorm", "(4, 0)", "positive integer"],
    ),
    "other features": (
        lambda: LayerNorm(6)(X),
        errors.AxisError,
        ["LayerNorm(in_size=(6,))", "axis -1", "must be 6 long", "(5, 3, 4)", "Check in_size"],
    ),
    "one feature": (lambda: RMSNorm(4)(X[..., :1]), errors.AxisError, ["must be 4 long", "(5, 3, 1)"]),
    "other features without parameters": (
        lambda: LayerNorm(6, use_scale=False, use_bias=False)(X),
        errors.AxisError,
        ["LayerNorm(in_size=(6,))", "axis -1", "must be 6 long, as in_size says", "(5, 3, 4)"],
    ),
    "half of the features without parameters": (
        lambda: RMSNorm(8, use_scale=False)(X),
        errors.AxisError,
        ["RMSNorm(in_size=(8,))", "must be 8 long, as in_size says", "(5, 3, 4)"],
    ),
    "more channels without parameters": (
        lambda: GroupNorm(2, num_groups=1, use_scale=False, use_bias=False)(X),
        errors.AxisError,
        ["GroupNorm(in_size=(2,))", "must be 2 long, as in_size says"],
    ),
    "too few axes": (
        lambda: LayerNorm((3, 4), feature_axes=(0, 1))(X[0, 0]),
        errors.AxisError,
        ["axis -2", "must be 3 long", "(4,)"],
    ),
    "scale too long": (
        lambda: norm(X, np.ones(5)),
        errors.AxisError,
        ["layer_norm: scale of shape (5,)", "(5, 3, 4)", "count from the right"],
    ),
    "bias would enlarge": (lambda: norm(X[0], None, np.ones((5, 3, 4))), errors.AxisError, ["bias of shape (5, 3, 4)"]),
    # axes
    "axis out of range": (
        lambda: norm(X, reduction_axes=3),
        errors.AxisError,
        ["layer_norm: reduction_axes=3", "no axis 3", "3 axes"],
    ),
    "axis far out of range": (lambda: norm(X, reduction_axes=(0, 7)), errors.AxisError, ["no axis 7", "3 axes"]),
    "axis too negative": (lambda: LayerNorm(4, -4)(X), errors.AxisError, ["LayerNorm", "no axis -4", "3 axes"]),
    "axis twice": (lambda: norm(X, reduction_axes=(-1, 2)), errors.AxisError, ["(-1, 2)", "twice"]),
    "axis of a scalar": (lambda: norm(5.0), errors.AxisError, ["reduction_axes=-1", "0 axes"]),
    "float axis": (lambda: LayerNorm(4, 1.0), errors.AxisError, ["reduction_axes must be an integer", "got 1.0"]),
    "no axis": (lambda: LayerNorm(4, None), errors.AxisError, ["reduction_axes must be an integer", "got None"]),
    "feature axis out of range": (lambda: RMSNorm(4, feature_axes=1), errors.AxisError, ["feature_axes=1", "1 axes"]),
    "feature axis twice": (lambda: LayerNorm((3, 4), -1, (1, -1)), errors.AxisError, ["feature_axes=(1, -1)", "twice"]),
    "ragged axes": (lambda: norm(X, reduction_axes=[[1], [1, 0]]), errors.AxisError, ["got [[1], [1, 0]]"]),
    "no channel axis": (
        lambda: functional.group_norm(X, 2, feature_axis=()),
        errors.AxisError,
        ["group_norm: feature_axis must be one axis", "got ()"],
    ),
    "none for the channel axis": (
        lambda: functional.group_norm(X, 2, feature_axis=None, reduction_axes=-1),
        errors.AxisError,
        ["group_norm: feature_axis must be an integer", "got None"],
    ),
    "no channels": (
        lambda: functional.group_norm(np.ones((2, 0)), 1),
        errors.AxisError,
        ["group_norm: the channel axis has length 0"],
    ),
    "two channel axes": (
        lambda: GroupNorm((4, 4), (0, 1), 2),
        errors.AxisError,
        ["feature_axis must be one axis", "got (0, 1)"],
    ),
    # groups
    "does not divide": (
        lambda: GroupNorm(6, num_groups=4),
        errors.OptionError,
        ["GroupNorm(in_size=(6,))", "num_groups=4", "6 channels", "[1, 2, 3, 6]"],
    ),
    "default does not divide": (lambda: GroupNorm(6), errors.OptionError, ["num_groups=32", "[1, 2, 3, 6]"]),
    "size does not divide": (lambda: GroupNorm(6, group_size=4), errors.OptionError, ["group_size=4", "6 channels"]),
    "the default written out, and a size": (
        lambda: GroupNorm(64, num_groups=32, group_size=4),
        errors.OptionError,
        ["GroupNorm(in_size=(64,))", "num_groups=32", "group_size=4", "None for the other"],
    ),
    "the same of a function": (
        lambda: functional.group_norm(np.ones((2, 64)), 32, group_size=4),
        errors.OptionError,
        ["group_norm", "num_groups=32", "group_size=4"],
    ),
    "torch's order": (
        lambda: GroupNorm(2, 4),
        errors.AxisError,
        ["feature_axis=4 has no axis 4", "GroupNorm(num_channels, num_groups=num_groups)"],
    ),
    "both": (
        lambda: GroupNorm(6, num_groups=2, group_size=3),
        errors.OptionError,
        ["num_groups or group_size", "num_groups=2", "group_size=3", "None for the other"],
    ),
    "groups with a unit": (
        lambda: GroupNorm(6, num_groups=1.0 * u.mV, group_size=3),
        errors.OptionError,
        ["num_groups or group_size", "mV"],
    ),
    "neither": (lambda: GroupNorm(6, num_groups=None), errors.OptionError, ["None for the other", "num_groups=None"]),
    "float groups": (lambda: GroupNorm(6, num_groups=2.0), errors.OptionError, ["must be an integer", "got 2.0"]),
    "no groups": (lambda: functional.group_norm(X, 0), errors.OptionError, ["group_norm: num_groups=0", "4 channels"]),
    # masks
    "float mask": (
        lambda: LayerNorm(4)(X, mask=np.ones(4)),
        errors.MaskError,
        ["LayerNorm", "dtype float64", "not weights", "mask != 0"],
    ),
    "complex mask": (lambda: norm(X, mask=np.ones(4, complex)), errors.MaskError, ["dtype complex128", "mask != 0"]),
    "mask of words": (lambda: norm(X, mask="all"), errors.MaskError, ["booleans or of integers", "'all'"]),
    "mask of too large a number": (
        lambda: norm(X, mask=2**70),
        errors.MaskError,
        ["booleans or of integers", f"{2**70}"],
    ),
    "ragged mask": (
        lambda: norm(X, mask=[[1], [1, 0]]),
        errors.MaskError,
        ["booleans or of integers", "[[1], [1, 0]]"],
    ),
    "mask with a unit": (lambda: norm(X, mask=Q[0, 0]), errors.MaskError, ["booleans or of integers", "mV"]),
    "leading axes": (
        lambda: RMSNorm(4)(X, mask=np.ones((5, 3), bool)),
        errors.MaskError,
        ["RMSNorm", "(5, 3)", "(5, 3, 4)", "mask[..., None]", "from the right"],
    ),
    "both ends": (
        lambda: norm(np.ones((4, 4)), mask=np.ones(4, bool)),
        errors.MaskError,
        ["(4,)", "leading axes", "trailing axes too", "mask[..., None]", "all 2 axes"],
    ),
    "too many axes": (
        lambda: norm(X, mask=np.ones((1, 5, 3, 4), bool)),
        errors.MaskError,
        ["(1, 5, 3, 4)", "does not broadcast", "(5, 3, 4)", "one entry, or 1, for each axis"],
    ),
    "no fit": (lambda: norm(X, mask=np.ones(3, bool)), errors.MaskError, ["(3,)", "does not broadcast"]),
    "mode": (
        lambda: LayerNorm(4, masked_output="nan"),
        errors.OptionError,
        ["LayerNorm", "'zero', 'input' or 'normalize'", "got 'nan'"],
    ),
    "modes": (lambda: norm(X, masked_output=np.ones(2)), errors.OptionError, ["masked_output must be", "array"]),
    "mode of a function": (lambda: norm(X, masked_output=None), errors.OptionError, ["'zero'", "got None"]),
    "input in another unit": (
        lambda: norm(Q, masked_output="input", out_unit=u.mA, mask=True),
        errors.UnitError,
        ["masked_output='input'", "mV", "mA", "'zero' or 'normalize'"],
    ),
    # builders
    "float lengths": (lambda: masks.from_lengths([1.0], 3), errors.MaskError, ["from_lengths", "integers", "float64"]),
    "lengths too long": (lambda: masks.from_lengths([1, 4], 3), errors.MaskError, ["num_steps=3", "got 1 to 4"]),
    "negative lengths": (lambda: masks.from_lengths([-1], 3), errors.MaskError, ["between 0", "got -1"]),
    "negative steps": (lambda: masks.from_lengths([0], -1), errors.MaskError, ["num_steps", "got -1"]),
    "float steps": (lambda: masks.from_lengths([0], 3.0), errors.MaskError, ["num_steps", "got 3.0"]),
    "times of two axes": (
        lambda: masks.from_end_times(1.0, np.ones((2, 3))),
        errors.MaskError,
        ["from_end_times", "one axis", "(2, 3)"],
    ),
    "times in another unit": (
        lambda: masks.from_end_times(1.0 * u.ms, jnp.arange(3) * u.mV),
        errors.UnitError,
        ["end_times in ms", "times in mV", "one dimension"],
    ),
    "times without a unit": (
        lambda: masks.from_end_times(1.0 * u.ms, jnp.arange(3)),
        errors.UnitError,
        ["end_times in ms", "times without a unit", "Give them"],
    ),
    "gaps along no axis": (lambda: masks.from_nan(X, 3), errors.AxisError, ["from_nan: axes=3", "3 axes"]),
    # units
    "plain array": (
        lambda: LayerNorm(4, unit=u.mV)(X),
        errors.UnitError,
        ["LayerNorm(in_size=(4,))", "unit=mV", "plain array", "x * brainunit.mV", "unit=None"],
    ),
    "another dimension": (
        lambda: RMSNorm(4, unit=u.mA, name="drive")(Q),
        errors.UnitError,
        ["RMSNorm 'drive'", "unit=mA", "in mV", "converts to mA", "unit=mV"],
    ),
    "unit for unitless": (lambda: norm(Q, unit=u.UNITLESS), errors.UnitError, ["mV", "another dimension"]),
    "compound unit": (
        lambda: LayerNorm(4, unit=u.mV / u.ms)(jnp.ones(4)),
        errors.UnitError,
        ["x * (brainunit.mV / brainunit.ms)"],
    ),
    "power of a unit": (lambda: LayerNorm(4, unit=u.mV**2)(jnp.ones(4)), errors.UnitError, ["x * brainunit.mV**2)"]),
    "unit of words": (lambda: LayerNorm(4, unit="mV"), errors.UnitError, ["unit must be", "'mV'", "brainunit.mV"]),
    "unit as quantity": (lambda: norm(Q, unit=1.0 * u.mV), errors.UnitError, ["unit must be", "Quantity"]),
    "out_unit of words": (lambda: LayerNorm(4, out_unit="mV"), errors.UnitError, ["out_unit must be", "'mV'"]),
    "scale and out_unit": (
        lambda: LayerNorm(4, out_unit=u.mA, scale_init=Constant(1.0 * u.mV)),
        errors.UnitError,
        ["scale is in mV", "out_unit is in mA", "one dimension"],
    ),
    "scale and bias": (
        lambda: norm(X, 1.0 * u.mV, 1.0 * u.mA),
        errors.UnitError,
        ["bias is in mA", "scale is in mV", "one dimension"],
    ),
    "ratio of units": (
        lambda: LayerNorm(4, unit=u.mV / u.volt)(X),
        errors.UnitError,
        ["plain array", "x * brainunit.Unit(scale=-3)"],
    ),
    # other options
    "scale or not": (lambda: RMSNorm(4, use_scale="no"), errors.OptionError, ["use_scale must be True", "'no'"]),
    "bias or not": (lambda: LayerNorm(4, use_bias=None), errors.OptionError, ["use_bias must be True", "None"]),
    # arguments
    "torch's epsilon": (
        lambda: LayerNorm(4, eps=1e-3),
        errors.ArgumentError,
        ["LayerNorm: there is no argument 'eps'", "Write epsilon=..."],
    ),
    "torch's epsilon of a function": (
        lambda: functional.rms_norm(X, eps=1e-3),
        errors.ArgumentError,
        ["rms_norm: there is no argument 'eps'", "Write epsilon=..."],
    ),
    "a slip of the pen": (
        lambda: GroupNorm(4, num_group=2),
        errors.ArgumentError,
        ["no argument 'num_group'", "Write num_groups=..."],
    ),
    "no such argument": (
        lambda: norm(X, foo=1),
        errors.ArgumentError,
        ["layer_norm: there is no argument 'foo'", "It takes x, scale, bias, reduction_axes, ", "mask, "],
    ),
    "a mask without its name": (
        lambda: LayerNorm(4)(X, X > 0),
        errors.ArgumentError,
        ["LayerNorm(in_size=(4,)): only x", "got 2", "mask=mask"],
    ),
    "too many parameters": (
        lambda: norm(X, 1.0, 0.0, X > 0),
        errors.ArgumentError,
        ["layer_norm: only x, scale, bias", "got 4", "mask=mask"],
    ),
    "a mask as scale": (lambda: norm(X, X > 0), errors.DtypeError, ["scale or bias is boolean", "mask=mask"]),
    "fast or not": (
        lambda: norm(X, use_fast_variance=np.ones(2)),
        errors.OptionError,
        ["use_fast_variance must be True or False", "array"],
    ),
    "a number as name": (lambda: RMSNorm(4, name=3), errors.OptionError, ["RMSNorm: name must be text", "got 3"]),
    # epsilon
    "negative": (lambda: LayerNorm(4, epsilon=-1e-6), errors.OptionError, ["epsilon", "zero or larger", "-1e-06"]),
    "negative quantity": (lambda: norm(Q, epsilon=-1.0 * u.mV), errors.OptionError, ["epsilon", "zero or larger"]),
    "not a number": (lambda: RMSNorm(4, epsilon=np.nan), errors.OptionError, ["epsilon", "one finite number", "nan"]),
    "infinite": (lambda: RMSNorm(4, epsilon=np.inf), errors.OptionError, ["epsilon", "one finite number", "inf"]),
    "many": (lambda: norm(X, epsilon=np.ones(4)), errors.OptionError, ["epsilon", "one finite number"]),
    "none": (lambda: norm(X, epsilon=None), errors.DtypeError, ["epsilon must be a number", "None"]),
    "boolean": (lambda: norm(X, epsilon=True), errors.OptionError, ["epsilon", "True"]),
    "words": (lambda: LayerNorm(4, epsilon="small"), errors.DtypeError, ["epsilon must be a number", "'small'"]),
    "another dimension of epsilon": (
        lambda: LayerNorm(4, unit=u.mV, epsilon=1.0 * u.mA),
        errors.UnitError,
        ["epsilon is in mA", "input is in mV", "variance in (mV)^2", "standard deviation in mV"],
    ),
    "epsilon without dimension for plain input": (
        lambda: norm(X, epsilon=1.0 * (u.mV / u.volt) ** 2),
        errors.UnitError,
        ["brainunit.Unit(scale=-6)", "the input has no unit", "a variance or a standard deviation", "plain number"],
    ),
    "epsilon without dimension in another unit": (
        lambda: LayerNorm(4, unit=u.mV / u.volt, epsilon=1.0 * (u.volt / u.mV)),
        errors.UnitError,
        ["brainunit.Unit(scale=3)", "is in brainunit.Unit(scale=-3)", "exactly the input's unit squared"],
    ),
    "epsilon with a unit for plain input": (
        lambda: LayerNorm(4, epsilon=1.0 * u.mV)(X),
        errors.UnitError,
        ["epsilon is in mV", "plain number"],
    ),
    # dtypes
    "complex input": (
        lambda: GroupNorm(4, num_groups=2)(X * 1j),
        errors.DtypeError,
        ["GroupNorm", "complex64", "real and imaginary parts"],
    ),
    "input of words": (lambda: norm("rest"), errors.DtypeError, ["layer_norm: the input must be", "'rest'"]),
    "no input": (lambda: norm(None), errors.DtypeError, ["layer_norm", "array of numbers", "None"]),
    "objects": (lambda: norm([None]), errors.DtypeError, ["layer_norm", "array of numbers", "None"]),
    "ragged input": (
        lambda: GroupNorm(4, num_groups=2, use_scale=False, use_bias=False)([[1], [1, 0]]),
        errors.DtypeError,
        ["GroupNorm(in_size=(4,)): the input must be", "[[1], [1, 0]]"],
    ),
    "random keys": (lambda: norm(jax.random.key(0)), errors.DtypeError, ["the input must be", "key"]),
    "too large a number": (lambda: norm(2**70), errors.DtypeError, ["the input must be", f"{2**70}"]),
    "dates": (
        lambda: norm(X, np.array(["2020-01-01"], "datetime64[D]")),
        errors.DtypeError,
        ["scale must be", "2020-01-01"],
    ),
    "a unit as scale": (lambda: norm(X, u.mV), errors.DtypeError, ["scale must be a number", "mV"]),
    "a set as bias": (lambda: norm(X, None, {1, 2}), errors.DtypeError, ["bias must be a number"]),
    "scale of words": (lambda: norm(X, "big"), errors.DtypeError, ["scale must be", "'big'"]),
    "integer result": (
        lambda: LayerNorm(4, dtype=int),
        errors.DtypeError,
        ["LayerNorm", "dtype=int", "floating dtype"],
    ),
    "complex result": (lambda: norm(X, dtype=complex), errors.DtypeError, ["dtype=complex", "floating dtype"]),
    "array as dtype": (
        lambda: norm(X, dtype=jax.random.key(0)),
        errors.DtypeError,
        ["layer_norm: dtype=", "is not a dtype"],
    ),
    "no dtype": (lambda: LayerNorm(4, dtype="real"), errors.DtypeError, ["'real' is not a dtype", "jnp.float32"]),
    "complex scale": (lambda: norm(X, 1j), errors.DtypeError, ["scale or bias is complex", "real"]),
    "float8": (
        lambda: norm(jnp.asarray(X, jnp.float8_e4m3fn)),
        errors.DtypeError,
        ["layer_norm: the input is float8_e4m3fn", "x.astype(jnp.float32)"],
    ),
    "float8 result": (
        lambda: LayerNorm(4, dtype=jnp.float8_e5m2),
        errors.DtypeError,
        ["LayerNorm", "dtype is float8_e5m2", "norm(x).astype(jnp.float8_e5m2)"],
    ),
    "float8 scale": (
        lambda: RMSNorm(4, scale_init=jnp.ones(4, jnp.float8_e4m3fn)),
        errors.DtypeError,
        ["RMSNorm", "scale or bias is float8_e4m3fn", "scale.astype(jnp.float32)"],
    ),
    "float8 bias of a function": (
        lambda: norm(X, None, jnp.ones(4, jnp.float8_e4m3fn)),
        errors.DtypeError,
        ["layer_norm: scale or bias is float8_e4m3fn"],
    ),
    # initializers
    "no initializer": (lambda: LayerNorm(4, scale_init=None), errors.OptionError, ["scale_init=None", "shape (4,)"]),
    "initializer of words": (
        lambda: LayerNorm(4, bias_init="zero"),
        errors.OptionError,
        ["bias_init='zero'", "shape (4,)"],
    ),
    "wrong shape": (
        lambda: LayerNorm((3, 4), bias_init=lambda shape: jnp.zeros(7)),
        errors.OptionError,
        ["bias_init made shape (7,)", "(1, 4)"],
    ),
    "complex initializer": (lambda: RMSNorm(4, scale_init=1j), errors.DtypeError, ["complex scale", "real"]),
    # devices
    "groups without a name": (
        lambda: LayerNorm(4, axis_index_groups=[[0, 1], [2, 3]]),
        errors.OptionError,
        ["LayerNorm", "[[0, 1], [2, 3]]", "axis_name is None", "Name the axis"],
    ),
    "a position as axis_name": (
        lambda: norm(X, axis_name=0),
        errors.OptionError,
        ["axis_name must be the name of a mapped axis", "got 0", "reduction_axes"],
    ),
    "positions among names": (
        lambda: functional.moments(X, axis_name=("batch", 1)),
        errors.OptionError,
        ["moments: axis_name", "('batch', 1)"],
    ),
    "a list as axis_name": (
        lambda: LayerNorm(4, axis_name=["a"]),
        errors.OptionError,
        ["LayerNorm", "a tuple of names"],
    ),
    "axis that is not bound": (
        lambda: LayerNorm(4, axis_name="device")(X),
        errors.AxisNameError,
        ["LayerNorm", "axis_name='device'", "no such axis is bound", "brainstate.transform.vmap"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message(case: str) -> None:
    call, kind, says = CASES[case]
    with pytest.raises(kind) as raised:
        call()
    message = str(raised.value)
    assert [words for words in says if words not in message] == [], message
    assert re.search(r"[.)]$", message)
    assert isinstance(raised.value, errors.NormError)


def test_each_error_is_what_a_caller_without_us_would_catch() -> None:
    builtin = {
        errors.OptionError: ValueError,
        errors.ArgumentError: TypeError,
        errors.AxisError: ValueError,
        errors.MaskError: ValueError,
        errors.UnitError: TypeError,
        errors.DtypeError: TypeError,
        errors.AxisNameError: NameError,
    }
    assert {errors.NormError, *builtin} <= {getattr(errors, name) for name in errors.__all__}
    for kind, base in builtin.items():
        assert issubclass(kind, errors.NormError)
        assert issubclass(kind, base)


@pytest.mark.parametrize("case", ["plain array", "leading axes", "other features", "complex input", "negative"])
def test_under_jit_the_same(case: str) -> None:
    call, kind, says = CASES[case]
    with pytest.raises(kind, match=re.escape(says[0])):
        jax.jit(call)()


def test_nothing_is_lost() -> None:
    """A refused call leaves the layer as it was."""
    layer = LayerNorm(4, unit=u.mV)
    before = layer(Q)
    for bad in (X, Q[..., :3], jnp.asarray(X) * u.mA):
        with pytest.raises(errors.NormError):
            layer(bad)
    np.testing.assert_array_equal(layer(Q) / u.mV, before / u.mV)


def test_events_of_floats_are_no_float_mask() -> None:
    align(brainevent.BinaryArray(jnp.ones(4)), (4,))
