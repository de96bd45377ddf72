"""Batch norms of other packages: their channels, their scale and bias, their running statistics."""

from collections.abc import Collection
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from .._numerics.axes import Axes, as_size
from ..layers import BatchNorm, BatchNorm0d, BatchNorm1d, BatchNorm2d, BatchNorm3d
from ..layers._never_updated import trust
from ..units import Mantissa, Shape
from ._common import Foreign, check_expressible, lacks, load, refuse, weights_of

# by how many axes of space there are
BY_SPACE = (BatchNorm0d, BatchNorm1d, BatchNorm2d, BatchNorm3d)
BATCH_NORMS = (BatchNorm, *BY_SPACE)
_SPACES = ((), ("length",), ("height", "width"), ("depth", "height", "width"))
BatchNormT = TypeVar("BatchNormT", bound=BatchNorm)


def running_values(layer: BatchNorm | Foreign) -> tuple[jax.Array | None, jax.Array | None]:
    """Return the running mean and variance as arrays, None if none are kept."""
    mean, var = layer.running_mean, layer.running_var
    return (None, None) if mean is None else (mean.value, var.value)


def load_running(layer: BatchNormT, mean: Mantissa | None, var: Mantissa | None) -> BatchNormT:
    """Put running statistics into a batch norm, ours or brainstate's, in the wider dtype of the two, and return it."""
    for state, new in ((layer.running_mean, mean), (layer.running_var, var)):
        if state is not None and new is not None:
            wide = jnp.promote_types(state.value.dtype, jnp.asarray(new).dtype)
            state.value = jnp.asarray(new, wide).reshape(state.value.shape)
    trust(layer)
    return layer


def load_batch_norm(
    layer: BatchNormT, scale: Mantissa | None, bias: Mantissa | None, mean: Mantissa | None, var: Mantissa | None
) -> BatchNormT:
    """Put scale, bias and running statistics into a batch norm, and return it."""
    return load_running(load(layer, scale, bias), mean, var)


def affine_of(module: Foreign, scale: Any, bias: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return whether a module learns a scale and a bias, as our arguments.

    Raises
    ------
    ConversionError
        If it learns a bias without a scale, and the caller has not said what to do.
    """
    if "affine" not in options:
        if scale is None and bias is not None:
            remedy = "Pass affine=True for a scale that starts at 1 and is learned."
            refuse(type(module).__name__, "has a bias without a scale, which ours lacks", remedy)
        if scale is not None and bias is None:
            return {"affine": True, "bias_initializer": None}
    return {"affine": scale is not None}


def sized(module: Foreign, channels: int, in_size: Axes | None, spaces: Collection[int]) -> Shape:
    """Return the size of an input whose channels stand before so many axes of space, any of `spaces`.

    Raises
    ------
    ConversionError
        If `in_size` is missing, which alone tells the axes of space, or does not fit.
    """
    known = " or ".join(str((channels, *_SPACES[space])).replace("'", "") for space in spaces)
    if in_size is None:
        refuse(type(module).__name__, "does not know the size of its input", f"Give in_size={known}.")
    size = as_size(in_size)
    if len(size) - 1 not in spaces or size[0] != channels:
        refuse(type(module).__name__, f"takes {known}, but in_size={size}", "Begin in_size with the channels.")
    return size


def check_batch_norm(
    layer: BatchNorm,
    target: str,
    *,
    unbiased: bool,
    untracked: bool = False,
    scale_alone: bool = False,
    has: Collection[str] = (),
) -> None:
    """Raise if a batch norm of ours has an option that the target lacks.

    Parameters
    ----------
    layer : BatchNorm
        Ours.
    target : str
        What the error calls the target.
    unbiased : bool
        Whether the target keeps a variance over n - 1.
    untracked : bool
        Whether it can do without running statistics.
    scale_alone : bool
        Whether it can learn a scale and no bias.
    has : collection of str
        The options that it has, and may have any value of.

    Raises
    ------
    ConversionError
        Naming the option.
    """
    check_expressible(layer, target, has=has)
    if layer.frozen:
        lacks(layer, "frozen=True", target, "Set layer.frozen = False, and call the other in evaluation alone.")
    if not layer.track_running_stats and not untracked:
        remedy = "Build the layer with track_running_stats=True."
        lacks(layer, "track_running_stats=False", target, remedy)
    if not scale_alone and layer.weight is not None and weights_of(layer)[1] is None:
        lacks(layer, "a scale without a bias", target, "Build the layer with a bias.")
    if layer.track_running_stats and layer.unbiased != unbiased:
        lacks(layer, f"unbiased={layer.unbiased}", target, f"Build the layer with unbiased={unbiased}.")


def check_space(layer: BatchNorm, package: str, spaces: Collection[int], *, first: bool) -> int:
    """Return how many axes of space a batch norm has, whose channels stand before them (`first`) or after them.

    Raises
    ------
    ConversionError
        If it has more or fewer than a package knows, or its channels stand elsewhere.
    """
    size, space = layer.in_size, len(layer.in_size) - 1
    if space not in spaces:
        remedy = "Reshape the input, and build the layer with in_size=channels."
        lacks(layer, f"{space} axes of space in in_size={size}", package, remedy)
    if layer.feature_axes != ((0,) if first else (space,)):
        where = "first" if first else "last"
        remedy = f"Its channels come {where}: build the layer with feature_axis={0 if first else -1}."
        lacks(layer, f"channels on axes {layer.feature_axes} of in_size={size}", package, remedy)
    return space
