"""See what a norm does to a run: its statistics step by step, with their units, and a plot of them.

Nothing here is in the way of a model that does not use it, and no norm warns by itself: what is nearly always a mistake
(:class:`NormWarning`) is looked for here alone.
"""

from ._findings import NormWarning
from ._plot import plot
from ._record import check, record
from ._recorded import Recorded
from ._totals import Record

__all__ = ["NormWarning", "Record", "Recorded", "check", "plot", "record"]
