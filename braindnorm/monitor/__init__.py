"""See what a norm does to a run: its statistics step by step, with their units, and a plot of them.

A model that is not recorded pays nothing. The norms do not look at the values that they get: what is nearly always a
mistake there (:class:`NormWarning`) is looked for here.
"""

from ..errors import NormWarning
from ._plot import plot
from ._record import check, record
from ._recorded import Recorded
from ._totals import Record

__all__ = ["NormWarning", "Record", "Recorded", "check", "plot", "record"]
