"""Masks: which elements are valid. Read, aligned with the input, and built from what an experiment knows.

True (or non-zero) means valid. Masks broadcast as numpy broadcasts, from the right, and a mask that could be meant in
another way is refused.
"""

from ._spikes import not_refractory, off_reset, spiked
from ._step_mask import step_mask
from ._trials import from_end_times, from_lengths, from_nan

__all__ = ["from_end_times", "from_lengths", "from_nan", "not_refractory", "off_reset", "spiked", "step_mask"]
