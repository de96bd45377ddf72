"""A batch norm that runs step by step: whose statistics a step takes, and when the running ones are updated."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import functional, units
from .._numerics.running import whole_axis
from ..errors import OptionError
from ..functional import Statistics
from ..functional._batch_norm import known
from ..functional._enter import Entry
from ..functional._over_time import By
from ..functional._standardize import Observed
from ..units import MaskLike, QuantityLike, Result
from ._affine import affine_arguments
from ._gain import with_gain
from ._norm import norm_options
from ._phase import held, trains
from ._running import counted_apart, known_to, remember, running_of
from .batch_norm import BatchNorm

if TYPE_CHECKING:
    from .over_time import OverTime

Way = Literal["step", "past", "running"]


def check_way(layer: "OverTime", normalize_by: Way | None, max_ratio: float, min_count: float) -> None:
    """Set what steps are normalized by, as attributes of the layer.

    Raises
    ------
    OptionError
        If an option has no meaning, or none for this norm.
    """
    batch = isinstance(layer.norm, BatchNorm)
    way: Way = ("step" if batch else "past") if normalize_by is None else normalize_by
    if way not in ("step", "past", "running"):
        raise OptionError(f"normalize_by must be 'step', 'past', 'running' or None; got {normalize_by!r}.")
    if way != "past" and not batch:
        cure = "Write decay=0, or call the norm itself" if way == "step" else "Wrap a BatchNorm"
        raise OptionError(f"normalize_by={way!r} is for a BatchNorm; got a {type(layer.norm).__name__}. {cure}.")
    if way == "running" and not getattr(layer.norm, "track_running_stats", False):
        raise OptionError("normalize_by='running' needs running statistics, but track_running_stats=False keeps none.")
    if not _is_number(max_ratio) or not max_ratio >= 1:
        raise OptionError(f"max_ratio must be a number from 1 on, of standard deviations; got {max_ratio!r}.")
    if not _is_number(min_count) or not min_count >= 0:
        raise OptionError(f"min_count must be a number of elements, 0 or more; got {min_count!r}.")
    if min_count > 1 and way != "past":
        raise OptionError(f"min_count={min_count} applies to normalize_by='past' alone; got {way!r}. Leave it out.")
    layer.normalize_by, layer.max_ratio, layer.min_count = way, float(max_ratio), float(min_count)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def evaluates(layer: "OverTime") -> bool:
    """Tell whether this call takes running statistics, element by element, and writes nothing."""
    norm = layer.norm
    frozen = held(layer)
    return isinstance(norm, BatchNorm) and norm.track_running_stats and (frozen or not trains(norm))


def evaluate(norm: Any, x: QuantityLike, mask: MaskLike | None) -> Result:
    """Normalize by the running statistics; the leading axis of a sequence is time."""
    options: dict[str, Any] = {**arguments_of(norm, x), **norm_options(norm, mask)}
    running, apart = known_to(norm, x), counted_apart(norm, x)
    return functional.batch_norm(x, running=running, feature_axis=apart, **options)[0]


def arguments_of(norm: Any, x: QuantityLike) -> dict[str, Any]:
    """Return scale and bias as arguments of the functional norm of a step or of a sequence, time first."""
    arguments = affine_arguments(norm, norm.affine_param, x)
    return dict(with_gain(norm, arguments, x)) if isinstance(norm, BatchNorm) else arguments


def by_of(layer: "OverTime", entry: Entry, x: QuantityLike) -> By:
    """Return what the steps of a call are standardized by."""
    norm = layer.norm
    by = By(layer.normalize_by, max_ratio=layer.max_ratio, min_count=layer.min_count, frozen=layer.frozen)
    if layer.normalize_by != "running" or not isinstance(norm, BatchNorm):
        return by
    mean, var = known(running_of(norm, x), entry)
    return by._replace(mean=mean, var=var)


def remember_steps(layer: "OverTime", seen: Observed, entry: Entry, x: QuantityLike) -> None:
    """Update the running statistics of the steps of a call, where each step has its own."""
    norm = layer.norm
    if isinstance(norm, BatchNorm) and norm.track_running_stats and norm.running_steps is not None:
        remember(norm, _statistics(norm, seen, entry.unit), x)


def end_of_sequence(layer: "OverTime") -> None:
    """Update the running statistics once, by the moments of the memory."""
    norm = layer.norm
    if not isinstance(norm, BatchNorm) or not norm.track_running_stats or norm.running_steps is not None:
        return
    memory = layer._memory()
    seen = Observed(memory.count.value, memory.mean.value, memory.var)
    remember(norm, _statistics(norm, seen, norm.unit or units.UNITLESS), ())


def _statistics(norm: BatchNorm, seen: Observed, unit: units.Unit) -> Statistics:
    count, mean, var = whole_axis(*seen, norm.reduction(seen.mean.shape))
    return Statistics(count, units.restore(mean, unit), units.restore(var, unit**2))
