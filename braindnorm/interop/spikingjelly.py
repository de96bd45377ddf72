"""The batch norms of spikingjelly, there and back."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._numerics.axes import Axes
from .._optional import package
from ..errors import named
from ..layers import BatchNorm
from ._batch_norm import BATCH_NORMS, check_batch_norm, check_space, load_running, sized
from ._common import Foreign, epsilon_of, lacks, refuse, unknown, weights_of

__all__ = ["from_spikingjelly", "to_spikingjelly"]

PLAIN = tuple(f"BatchNorm{d}d" for d in (1, 2, 3))
THRESHOLD = tuple(f"ThresholdDependentBatchNorm{d}d" for d in (1, 2, 3))
GAIN = tuple(f"TemporalEffectiveBatchNorm{d}d" for d in (1, 2, 3))
STEPS = tuple(f"BatchNormThroughTime{d}d" for d in (1, 2, 3))
# how many axes of space an input may have
SPACES = {"1d": (0, 1), "2d": (2,), "3d": (3,)}


@named("from_spikingjelly")
def from_spikingjelly(module: Foreign, in_size: Axes | None = None, **options: Any) -> BatchNorm:
    """Build our layer from a batch norm of ``spikingjelly.activation_based.layer``.

    Parameters
    ----------
    module : torch.nn.Module
        ``BatchNorm1d`` to ``3d``, or ``ThresholdDependentBatchNorm``, ``TemporalEffectiveBatchNorm`` or
        ``BatchNormThroughTime`` with such a number.
    in_size : int or sequence of int
        The size of the input without time and batch: ``(channels, height, width)``. The module does not know it.
    **options
        Options of our layer: `unit`, `out_unit`, `masked_output` and so on.

    Returns
    -------
    BatchNorm
        With the same values in both phases for the same input, (time, batch, channels, space); channels come first, as
        there. It is a function of the whole sequence or of a step: there is no step mode.

    Raises
    ------
    ConversionError
        If it is of another class, comes without `in_size`, or has an option that ours lacks.
    PackageError
        If spikingjelly is not installed.
    """
    layers = package("spikingjelly.activation_based.layer")
    kinds = {getattr(layers, name): name for name in (*PLAIN, *THRESHOLD, *GAIN, *STEPS)}
    name = kinds.get(type(module))
    if name is None:
        unknown(module, kinds.values())
    parts: list[Foreign] = list(module.bn_list) if name in STEPS else [module]
    first = parts[0]
    size = sized(first, first.num_features, in_size, SPACES[name[-2:]])
    if first.momentum is None:
        refuse(name, "has momentum=None, a plain average over all calls, which BatchNorm lacks", "Give it a number.")
    defaults: dict[str, Any] = {"in_size": size, "feature_axis": 0, "epsilon": first.eps, "affine": first.affine}
    defaults |= {"momentum": 1 - first.momentum, "unbiased": True, "track_running_stats": first.track_running_stats}
    if name in STEPS:
        defaults |= {"param_steps": module.T, "running_steps": module.T, "bias_initializer": None}
    if name in GAIN:
        defaults |= {"gain_steps": len(module.scale)}
    layer = BatchNorm(**{**defaults, **options})
    _load(layer, parts, module.scale if name in GAIN else None)
    return layer


@named("to_spikingjelly")
def to_spikingjelly(layer: BatchNorm) -> Foreign:
    """Build a batch norm of ``spikingjelly.activation_based.layer`` from our layer.

    Parameters
    ----------
    layer : BatchNorm
        Ours, with the channels first.

    Returns
    -------
    torch.nn.Module
        In step mode 'm': a ``TemporalEffectiveBatchNorm`` where ours has `gain_steps`, a ``BatchNormThroughTime`` where
        it has `running_steps`, or else a ``BatchNorm``, with 1d to 3d by the axes of space. (Their
        ``ThresholdDependentBatchNorm`` is the latter with another initial scale.)

    Raises
    ------
    ConversionError
        If the layer has an option that spikingjelly lacks, which it names.
    PackageError
        If spikingjelly is not installed.
    """
    layers = package("spikingjelly.activation_based.layer")
    if type(layer) not in BATCH_NORMS:
        unknown(layer, [kind.__name__ for kind in BATCH_NORMS])
    stem = "TemporalEffectiveBatchNorm" if layer.gain_steps else "BatchNorm"
    stem = "BatchNormThroughTime" if layer.running_steps else stem
    _check(layer, f"spikingjelly's {stem}")
    kind = getattr(layers, f"{stem}{max(len(layer.in_size) - 1, 1)}d")
    steps = [n for n in (layer.running_steps or layer.gain_steps,) if n]
    common = (epsilon_of(layer), 1 - float(layer.momentum), layer.affine, layer.track_running_stats)
    module = kind(*steps, layer.in_size[0], *common)
    module.step_mode = "m"
    _fill(module, layer)
    return module


def _fill(module: Foreign, layer: BatchNorm) -> None:
    """Put the numbers of a layer into a module, or into its parts, one for each step."""
    torch = package("torch")
    values: dict[str, Any] = dict(zip(("weight", "bias"), weights_of(layer), strict=True))
    if layer.track_running_stats:
        values |= {"running_mean": layer.running_mean.value, "running_var": layer.running_var.value}
    parts = list(module.bn_list) if layer.running_steps else [module]
    with torch.no_grad():
        for key, value in values.items():
            if value is not None:
                rows = np.asarray(value, np.float64).reshape(len(parts), -1)
                for part, row in zip(parts, rows, strict=True):
                    getattr(part, key).copy_(torch.tensor(row))
        if layer.gain is not None:
            module.scale.copy_(torch.tensor(np.asarray(layer.gain.value, np.float64)))


def _check(layer: BatchNorm, target: str) -> None:
    """Raise if the layer has an option that the target lacks."""
    stepped, bias = layer.running_steps is not None, weights_of(layer)[1] is not None
    has = ("running_steps", "gain_steps", *(("param_steps",) if stepped else ()))
    check_batch_norm(layer, target, unbiased=True, untracked=True, scale_alone=stepped, has=has)
    check_space(layer, target, range(4), first=True)
    if layer.gain_power != 1 or (layer.gain_steps and stepped):
        what = f"gain_steps={layer.gain_steps}, gain_power={layer.gain_power}, running_steps={layer.running_steps}"
        lacks(layer, what, target, "It has one of the two, and the gain itself.")
    if stepped and layer.affine and (bias or layer.param_steps is None):
        lacks(layer, "a bias, or a scale that is that of all steps,", target, "Build the layer as bntt does.")


def _load(layer: BatchNorm, parts: Sequence[Foreign], gain: Foreign | None) -> None:
    """Put the numbers of a module, or of one for each step, into a layer."""

    def put(key: str, shape: tuple[int, ...]) -> Any:
        return jnp.asarray(np.stack([getattr(part, key).detach().cpu().numpy() for part in parts])).reshape(shape)

    names = {"scale": "weight", "bias": "bias"}
    if layer.weight is not None:
        old: dict[str, Any] = layer.weight.value
        layer.weight.value = {key: put(names[key], v.shape) for key, v in old.items()}
    if layer.track_running_stats and parts[0].running_mean is not None:
        load_running(layer, *(put(key, layer.running_mean.value.shape) for key in ("running_mean", "running_var")))
    if layer.gain is not None and gain is not None:
        layer.gain.value = jnp.asarray(gain.detach().cpu().numpy())
