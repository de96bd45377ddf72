"""A module of another package where one of brainstate is asked for: the message names the package and its converter."""

import brainstate
import equinox
import flax.linen
import flax.nnx
import jax
import pytest
import torch
from spikingjelly.activation_based import layer

from braindnorm import replace_norms
from braindnorm.errors import ConversionError, OptionError
from braindnorm.interop import fold_norm, fold_norms, to_nir


class Own(torch.nn.Module):
    """A user's own model."""


MODELS = {
    "torch": (torch.nn.Sequential(torch.nn.LayerNorm(4)), Own(), torch.nn.LayerNorm(4)),
    "spikingjelly": (layer.BatchNorm1d(4),),
    "flax": (flax.nnx.LayerNorm(4, rngs=flax.nnx.Rngs(0)), flax.linen.LayerNorm()),
    "equinox": (equinox.nn.MLP(2, 2, 2, 1, key=jax.random.key(0)),),
}


@pytest.mark.parametrize("package", MODELS)
def test_a_model(package: str) -> None:
    for model in MODELS[package]:
        what = rf"the model is a {type(model).__name__} of {package}, .* braindnorm\.interop\.from_{package}\(norm\)"
        for call in (replace_norms, fold_norms, to_nir):
            with pytest.raises(OptionError, match=rf"^{call.__name__}: {what}"):
                call(model)


def test_a_norm() -> None:
    linear = brainstate.nn.Linear(4, 4)
    norms = {
        "torch": torch.nn.BatchNorm1d(4),
        "spikingjelly": layer.BatchNorm1d(4),
        "flax": flax.nnx.BatchNorm(4, rngs=flax.nnx.Rngs(0)),
        "equinox": equinox.nn.BatchNorm(4, "batch", mode="batch"),
    }
    for package, norm in norms.items():
        for pair in ((linear, norm), (norm, linear)):
            what = rf"^fold_norm: {type(norm).__name__} is a norm of {package}, .*from_{package}\(norm\)"
            with pytest.raises(ConversionError, match=what):
                fold_norm(*pair)
