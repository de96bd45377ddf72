"""Scale and bias are read with their units, and looked for in the wrong place they are pointed to."""

import copy
import pickle
from typing import Any

import brainstate
import brainunit as u
import numpy as np
import pytest

from braindnorm import GroupNorm, LayerNorm, RMSNorm

MAKE: dict[str, Any] = {
    "layer": lambda **options: LayerNorm(4, **options),
    "rms": lambda **options: RMSNorm(4, **options),
    "group": lambda **options: GroupNorm(4, num_groups=2, **options),
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_scale_has_the_units_of_the_output(kind: str) -> None:
    start = {"scale_init": brainstate.nn.init.Constant(2.0)}
    for options, expected in (
        ({"unit": u.mV}, 2 * u.mV),
        ({"unit": u.mV, "out_unit": u.nA}, 2 * u.nA),
        ({"unit": u.mV, "out_unit": u.UNITLESS}, 2.0),
        ({}, 2.0),
    ):
        found = MAKE[kind](**options, **start).scale_quantity
        assert u.get_unit(found) == u.get_unit(expected)
        np.testing.assert_array_equal(u.get_mantissa(found), np.full(4, 2.0))
    assert MAKE[kind](use_scale=False).scale_quantity is None


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_a_bias_too(kind: str) -> None:
    layer = MAKE[kind](unit=u.mV, bias_init=brainstate.nn.init.Constant(3 * u.nA))
    assert u.math.allclose(layer.bias_quantity, 3 * u.nA)
    assert MAKE[kind](use_bias=False).bias_quantity is None


@pytest.mark.parametrize(
    ("kind", "name", "cure"),
    [
        ("layer", "scale", r"Write \.weight\.value\['scale'\] .*and \.scale_quantity"),
        ("layer", "bias", r"Write \.weight\.value\['bias'\] .*and \.bias_quantity"),
        ("group", "scale", r"Write \.weight\.value\['scale'\]"),
        ("rms", "weight", r"Write \.scale\.value\['scale'\] .*and \.scale_quantity"),
        ("rms", "bias", r"has no attribute 'bias'$"),
        ("rms", "feature_axis", r"has no attribute 'feature_axis'$"),
    ],
)
def test_another_place_is_pointed_to(kind: str, name: str, cure: str) -> None:
    layer = MAKE[kind]()
    with pytest.raises(AttributeError, match=cure):
        getattr(layer, name)
    assert not hasattr(layer, name)
    assert getattr(layer, name, 5) == 5


@pytest.mark.parametrize("kind", MAKE)
def test_trees_and_copies_do_not_mind(kind: str) -> None:
    layer = MAKE[kind](unit=u.mV)
    x = np.arange(8.0, dtype=np.float32).reshape(2, 4) * u.mV
    split = brainstate.graph.treefy_merge(*brainstate.graph.treefy_split(layer))
    for other in (split, copy.deepcopy(layer)):
        np.testing.assert_array_equal(other(x).mantissa, layer(x).mantissa)
    empty = object.__new__(type(layer))
    with pytest.raises(AttributeError, match=r"has no attribute 'scale'$"):
        _ = empty.scale
    assert not hasattr(empty, "__wrapped__")
    assert pickle.loads(pickle.dumps(type(layer))) is type(layer)
