"""Draw two known curves of divisive normalization: the contrast response, and its shift by a mask.

A neuron is driven by the contrast of a grating that it prefers, and all the neurons around it by that grating and by a
mask that it does not prefer. Both gratings enter the pool, so the response to contrast c under a mask of contrast m is

    R(c, m) = Rmax c^n / (c50^n + c^n + m^n) = Rmax c^n / (c50(m)^n + c^n),    c50(m) = (c50^n + m^n)^(1/n) :

the mask divides, and moves the curve to the right on an axis of log contrast (D. J. Heeger 1992, Vis. Neurosci. 9, 181;
M. Carandini and D. J. Heeger 2012, Nat. Rev. Neurosci. 13, 51). It takes seconds:
``python examples/contrast_response.py``.
"""

import argparse
from pathlib import Path

import brainunit as u
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from braindnorm import DivisiveNorm

PATH = Path(__file__).parents[1] / "build" / "figures" / "contrast_response.png"
RMAX, C50, EXPONENT = 50 * u.Hz, 15.0, 2.0  # the contrasts are in percent
MASKS = (0.0, 12.5, 25.0, 50.0)
CONTRASTS = np.geomspace(1, 100, 100)
COLORS = ("#000000", "#7d3c98", "#c0392b", "#e67e22")


def response(contrasts: np.ndarray, mask: float) -> u.Quantity:
    """Return what the layer responds to each contrast: the first of two neurons, one for each grating."""
    norm = DivisiveNorm(2, exponent=EXPONENT, sigma=C50, gamma=RMAX, pool="sum")
    drives = jnp.stack([contrasts, jnp.full(len(contrasts), mask)], axis=-1)
    return norm(drives)[:, 0]


def closed_form(contrasts: np.ndarray, mask: float) -> np.ndarray:
    """Return the response in Hz by the formula."""
    half = (C50**EXPONENT + mask**EXPONENT) ** (1 / EXPONENT)
    return RMAX.to_decimal(u.Hz) * contrasts**EXPONENT / (half**EXPONENT + contrasts**EXPONENT)


def draw(path: Path) -> None:
    """Draw the layer's responses as lines and the formula as dots, and the contrast of half the response."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (curves, shift) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", width_ratios=[1.5, 1])
    for mask, color in zip(MASKS, COLORS, strict=True):
        curves.plot(CONTRASTS, response(CONTRASTS, mask).to_decimal(u.Hz), color=color, label=f"{mask:g}")
        curves.plot(CONTRASTS[::9], closed_form(CONTRASTS[::9], mask), "o", ms=3.5, color=color)
    curves.set(xscale="log", xlabel="contrast of the grating (%)", ylabel="response (Hz)")
    curves.set_title("Contrast response: the layer (lines), the formula (dots)")
    curves.set(xticks=(1, 10, 100), xticklabels=("1", "10", "100"), xlim=(1, 100), ylim=(0, 52))
    curves.legend(title="contrast of\nthe mask (%)", frameon=False, loc="upper left")
    masks = np.linspace(0, 50, 60)
    shift.plot(masks, (C50**EXPONENT + masks**EXPONENT) ** (1 / EXPONENT), color="black")
    for mask, color in zip(MASKS, COLORS, strict=True):
        shift.plot(mask, half_contrast(mask), "o", color=color, clip_on=False)
    shift.set(xlabel="contrast of the mask (%)", ylabel="contrast of half the maximum (%)", title="Shift to the right")
    shift.set(xlim=(0, 52), ylim=(0, 55))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def half_contrast(mask: float) -> float:
    """Return the contrast at which the layer responds with half its maximum, read off its curve."""
    contrasts = np.geomspace(1, 1000, 3000)
    return float(np.interp(RMAX.to_decimal(u.Hz) / 2, response(contrasts, mask).to_decimal(u.Hz), contrasts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=PATH, help="where the figure goes (%(default)s)")
    path = parser.parse_args().figure
    draw(path)
    print(f"The figure is in {path}.")
