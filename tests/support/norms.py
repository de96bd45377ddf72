"""The three norms side by side, each with its reference: what the tests of all three share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

import braindnorm
from braindnorm import functional
from tests.support import reference


class Norm(NamedTuple):
    """A layer, brainstate's layer, the pure function, and the reference; all with two groups where there are groups."""

    layer: Callable[..., Any]
    theirs: Callable[..., Any]
    function: Callable[..., Any]
    reference: Callable[..., np.ndarray]


TWO_GROUPS: dict[str, Any] = {"num_groups": 2, "reduction_axes": ()}
NORMS = {
    "LayerNorm": Norm(braindnorm.LayerNorm, brainstate.nn.LayerNorm, functional.layer_norm, reference.layer_norm),
    "RMSNorm": Norm(braindnorm.RMSNorm, brainstate.nn.RMSNorm, functional.rms_norm, reference.rms_norm),
    "GroupNorm": Norm(
        partial(braindnorm.GroupNorm, **TWO_GROUPS),
        partial(brainstate.nn.GroupNorm, num_groups=2),
        partial(functional.group_norm, **TWO_GROUPS),
        partial(reference.group_norm, **TWO_GROUPS),
    ),
}
CENTRED = ("LayerNorm", "GroupNorm")
LAYERS = {kind: getattr(braindnorm, kind) for kind in NORMS}
THEIRS = {kind: getattr(brainstate.nn, kind) for kind in NORMS}


def weight_of(layer: Any) -> Any:
    """Return the state of scale and bias, which RMSNorm calls `scale` as brainstate's does."""
    return layer.scale if "RMSNorm" in type(layer).__name__ else layer.weight


def parameters(layer: Any) -> dict[str, np.ndarray]:
    """Return scale and bias, with those that a layer does not have left out."""
    weight = weight_of(layer)
    return {} if weight is None else {key: np.asarray(value) for key, value in weight.value.items()}


def randomize(layer: Any, seed: int = 0) -> Any:
    """Give a layer a scale and a bias that are neither 1 nor 0 nor alike."""
    rng = np.random.default_rng(seed)
    weight = weight_of(layer)
    weight.value = {
        key: jnp.asarray(rng.normal(loc=1.5 * (key == "scale"), size=v.shape), v.dtype)
        for key, v in sorted(weight.value.items())
    }
    return layer


@contextmanager
def float64() -> Iterator[None]:
    """Compute in float64, as brainstate sets it, and go back."""
    with brainstate.environ.context(precision=64):
        yield
    assert not jax.config.jax_enable_x64


def draw(*shape: int, seed: int = 0, loc: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Draw float32 numbers that are the same in every run."""
    return np.random.default_rng(seed).normal(loc, scale, shape).astype(np.float32)
