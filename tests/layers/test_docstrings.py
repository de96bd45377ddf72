"""What help() shows of a layer or a function: its signature, and a word on every parameter."""

import inspect
import pydoc
import typing
from typing import Any

import pytest

import braindnorm
from braindnorm import (
    BatchNorm,
    DivisiveNorm,
    GroupNorm,
    LayerNorm,
    OverTime,
    RMSNorm,
    functional,
    interop,
    masks,
    monitor,
)
from braindnorm.functional._enter import NormOptions
from tests.support.docstrings import OWN, entries_of, parameters_of, shared

LAYERS = [LayerNorm, RMSNorm, GroupNorm, BatchNorm, DivisiveNorm, OverTime]
MODULES = [*LAYERS, monitor.Recorded]


def public(module: Any) -> list[Any]:
    found = [getattr(module, name) for name in module.__all__]
    return [item for item in found if inspect.isfunction(item) or (inspect.isclass(item) and "__init__" in vars(item))]


CALLABLES = {
    f"{module.__name__}.{item.__name__}": item
    for module in (functional, masks, monitor, interop, braindnorm, braindnorm.cpu_kernels)
    for item in public(module)
    if not issubclass(item if inspect.isclass(item) else object, tuple)
}
METHODS = {
    f"{layer.__name__}.{name}": getattr(layer, name)
    for layer in LAYERS
    for name in ("update", "update_sequence", "init_state", "end_sequence", "from_normalized_shape")
    if name in vars(layer)
}


@pytest.mark.parametrize("layer", MODULES)
def test_the_signature_is_that_of_the_constructor(layer: Any) -> None:
    expected = list(inspect.signature(layer.__init__).parameters.values())[1:]
    assert list(inspect.signature(layer).parameters.values()) == expected
    assert expected[0].name in ("in_size", "norm")
    assert "(*args, **kwargs)" not in pydoc.plain(pydoc.render_doc(layer)).split("Method resolution")[0]


def test_a_subclass_and_an_instance_show_their_own() -> None:
    class Mine(LayerNorm):
        def __init__(self, size: int, gain: float = 2.0) -> None:
            super().__init__(size)
            self.gain = gain

        def update(self, x: Any, *, mask: Any = None, boost: float = 1.0) -> Any:
            return super().update(x, mask=mask) * boost

    assert list(inspect.signature(Mine).parameters) == ["size", "gain"]
    assert list(inspect.signature(Mine(3)).parameters) == ["x", "mask", "boost"]
    assert list(inspect.signature(LayerNorm(3)).parameters) == ["x", "mask"]
    assert list(inspect.signature(LayerNorm.update).parameters) == ["self", "x", "mask"]


@pytest.mark.parametrize("name", CALLABLES | METHODS)
def test_every_parameter_is_documented(name: str) -> None:
    documented = (CALLABLES | METHODS)[name]
    call = documented.__init__ if inspect.isclass(documented) else documented
    found = {parameter for parameter in inspect.signature(call).parameters if parameter not in ("self", "_")}
    assert set(parameters_of(documented)) == found


@pytest.mark.parametrize("layer", LAYERS)
def test_what_the_layers_share_is_said_in_the_same_words(layer: Any) -> None:
    found, source = parameters_of(layer), shared()
    copied = {name: entry for name, entry in found.items() if name not in OWN[layer]}
    assert copied == {name: source[name] for name in copied}, "run python -m tests.support.docstrings"
    assert set(found) - set(copied) == OWN[layer]


@pytest.mark.parametrize(
    "function", [functional.layer_norm, functional.rms_norm, functional.group_norm, functional.batch_norm]
)
def test_the_options_of_the_functions_are_named_and_explained(function: Any) -> None:
    options = set(typing.get_type_hints(NormOptions))
    described = parameters_of(function)["options"][1]
    assert {name.strip("`.,") for name in described.split() if name.startswith("`")} == options
    assert options <= set(entries_of(inspect.getdoc(functional) or ""))
