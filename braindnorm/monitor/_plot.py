"""Draw what was recorded: the input before a norm and the output after it, over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .. import units
from .._optional import package
from ..errors import OptionError, named
from ..units import QuantityLike, Unit
from ._recorded import Recorded
from ._totals import Record

if TYPE_CHECKING:  # optional
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# what can be drawn
Rows = Record | Recorded | Mapping[str, Record | Recorded]


@named("plot")
def plot(records: Rows, times: QuantityLike | None = None) -> Figure:
    """Plot the mean and the spread of a norm's input and output over a run.

    Parameters
    ----------
    records : Record, Recorded or dict of them
        What :func:`record` gave, one norm of it, or what ``read`` returned. A dict makes a row for each.
    times : array_like or Quantity, optional
        The time of each step; the number of the step without it.

    Returns
    -------
    matplotlib.figure.Figure
        A row a norm (and a row for each dimension that its input had): left the input, right the output, each as mean
        and mean ± standard deviation, with its unit on the axis. What a BatchNorm keeps is dashed, left. Where elements
        were masked, their share is in grey, on an axis of its own.

    Raises
    ------
    OptionError
        If nothing of it was recorded: a norm, a model, an empty dict.
    PackageError
        If matplotlib is not installed.

    Examples
    --------
    >>> import brainstate, jax.numpy as jnp
    >>> from braindnorm import LayerNorm, monitor
    >>> norm = monitor.Recorded(LayerNorm(2), num_steps=3)
    >>> _ = brainstate.transform.for_loop(norm, jnp.array([[1., 2.], [2., 4.], [3., 6.]]))
    >>> figure = monitor.plot(norm)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['input', 'output']
    """
    pyplot = package("matplotlib.pyplot")
    rows = _rows(records)
    figure: Figure
    figure, grid = pyplot.subplots(
        len(rows), 2, figsize=(9, 2.6 * len(rows)), sharex=True, squeeze=False, layout="constrained"
    )
    for axes, (title, read) in zip(grid, rows, strict=True):
        along, time_unit = _times(times, read)
        _band(axes[0], along, read.mean, read.std, "input")
        _band(axes[1], along, read.out_mean, read.out_std, "output")
        if np.isfinite(np.asarray(units.strip(read.running_mean, None)[0])).any():
            _dashed(axes[0], along, read.running_mean, read.running_std)
        axes[0].set_title(title, loc="left")
        if np.any(read.masked > 0):
            _masked(axes[0], along, read.masked)
    for axes in grid[-1]:
        axes.set_xlabel("step" if times is None else _with_unit("time", time_unit))
    return figure


def _rows(records: Rows) -> list[tuple[str, Record]]:
    """Return the title and the statistics of each row."""
    rows = []
    for title, entry in (records if isinstance(records, Mapping) else {"": records}).items():
        if isinstance(entry, Record):
            rows.append((title, entry))
        elif not isinstance(entry, Recorded):
            raise OptionError(
                f"plot draws what record yielded, an entry of it, or what its read() returned; got"
                f" {type(entry).__name__}. Write: with monitor.record(model, num_steps) as records: (run the model),"
                " and then plot(records)."
            )
        elif len(entry.units) < 2:
            rows.append((title, entry.read()))
        else:
            rows += [(f"{title} ({unit})", entry.read(unit)) for unit, _ in entry.units]
    if not rows:
        raise OptionError("the dict of records is empty, so there is nothing to draw.")
    return rows


def _times(times: QuantityLike | None, read: Record) -> tuple[np.ndarray, Unit]:
    steps = len(read.count)
    values, unit = units.strip(np.arange(steps) if times is None else times, None)
    return np.asarray(values)[:steps], unit


def _band(axes: Axes, along: np.ndarray, mean: QuantityLike, std: QuantityLike, what: str) -> None:
    (middle, unit), (width, _) = (units.strip(v, None) for v in (mean, std))
    centre, spread = np.asarray(middle), np.asarray(width)
    (line,) = axes.plot(along, centre)
    axes.fill_between(along, centre - spread, centre + spread, color=line.get_color(), alpha=0.25, linewidth=0)
    axes.set_ylabel(_with_unit(what, unit))


def _dashed(axes: Axes, along: np.ndarray, mean: QuantityLike, std: QuantityLike) -> None:
    centre, spread = (np.asarray(units.strip(v, None)[0]) for v in (mean, std))
    for shift, width, text in ((0, 1.5, "running"), (-1, 0.8, None), (1, 0.8, None)):
        axes.plot(along, centre + shift * spread, "--", color="0.2", linewidth=width, label=text)
    axes.legend(frameon=False, fontsize=8)


def _masked(axes: Axes, along: np.ndarray, share: np.ndarray) -> None:
    twin = axes.twinx()
    twin.fill_between(along, share, step="mid", color="0.5", alpha=0.25, linewidth=0)
    twin.set_ylim(0, 1)
    twin.set_ylabel("masked share")


def _with_unit(what: str, unit: Unit) -> str:
    return what if unit.is_unitless else f"{what} ({unit})"
