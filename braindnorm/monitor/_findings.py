"""What is nearly always a mistake, found in the sums of a run."""

import warnings

import numpy as np

from ..errors import NormWarning
from ..layers._wiring import label
from ..units import Unit
from ._totals import SUMS, AnyNorm, epsilon_of

# "most": more than this share
MOST = 0.5


def findings_of(norm: AnyNorm, rows: np.ndarray, unit: Unit) -> list[str]:
    """Return a sentence for each likely mistake; none where nothing was recorded."""
    total = dict(zip(SUMS, np.asarray(rows, np.float64).sum(axis=0), strict=True))
    name, findings = label(norm), []
    if total["flat"] > MOST * total["groups"]:
        counted = "" if unit.is_unitless else f", counted in ({unit})^2,"
        findings.append(
            f"{name}: epsilon={epsilon_of(norm)} is larger than the variance{counted} in"
            f" {total['flat'] / total['groups']:.0%} of the groups, so they are hardly normalized. Is the input in the"
            " unit that epsilon was meant for? Declare it (unit=brainunit.mV), or give epsilon as a quantity."
        )
    if unit.is_unitless and total["spikes"] and total["silent"] + total["spikes"] == total["valid"]:
        findings.append(
            f"{name}: every valid input was 0 or 1. The mean and the variance of binary spikes say how many there are"
            " and nothing else: normalize a current, a potential or a rate instead."
        )
    if total["single"] > total["groups"]:
        findings.append(
            f"{name}: most groups have one valid element, which is its own mean: the output is the bias, whatever"
            " comes. Check reduction_axes, num_groups and the mask."
        )
    return findings


def tell(findings: list[str], warn: bool, *, stacklevel: int = 3) -> list[str]:
    """Warn of what was found, where that is wanted, and return it."""
    for sentence in findings if warn else ():
        warnings.warn(sentence, NormWarning, stacklevel=stacklevel)
    return findings
