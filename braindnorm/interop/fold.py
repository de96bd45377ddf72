"""Fold a norm in evaluation into the layer beside it, for a chip or for speed: the model has one layer less."""

from typing import Any

from brainstate import nn

from .. import units
from ..errors import named
from ..units import Unit
from ._common import Foreign, refuse
from ._fold_neuron import fold_into_neuron, is_lif
from ._fold_synapses import SYNAPSES, fold_after, fold_before
from ._line import line_of

__all__ = ["fold_norm"]


@named("fold_norm")
def fold_norm(first: nn.Module, second: nn.Module, *, between: Unit | None = None) -> Any:
    r"""Return one layer for two that follow each other, of which one is a BatchNorm in evaluation.

    There a BatchNorm is :math:`y = a x + c` for each channel, with the running mean and variance,

    .. math:: a = \frac{\gamma}{\sqrt{\sigma^2_r + \varepsilon}}, \qquad c = \beta - a \mu_r .

    Parameters
    ----------
    first, second : Module
        The two layers, in the order in which data passes them. Beside the BatchNorm:

        - ``brainstate.nn.Linear``, ``OneToOne``, ``Conv1d`` to ``Conv3d`` before it: :math:`W' = W a` and
          :math:`b' = b_0 a + c`. After it: :math:`W' = a W` and :math:`b' = c W + b_0`.
        - ``brainpy.state.LIF`` after it, with a norm of the membrane potential, which the neuron compares with its
          threshold (``spike = norm(V) >= V_th``): :math:`V_{th}' = (V_{th} - c) / a` where :math:`a > 0`.
        - ``brainpy.state.LIF`` after it, with a norm of the input current: :math:`R' = R a` and
          :math:`V_{rest}' = V_{rest} + R c`. The norm's `out_unit` says which of the two it is.
    between : Unit, optional
        What the model multiplies by on the way from one layer to the other, as in ``norm(linear(x) * u.nA)``. The new
        layer does that too.

    Returns
    -------
    Module
        A copy of the layer beside the norm, with weights (or a threshold) of its own. Where the norm or the weights
        have units, so have the new ones; the dtype is that of the weights. The two given layers stay as they are.

    Raises
    ------
    ConversionError
        If neither layer is a norm that folds, or the other takes none; for a LayerNorm, RMSNorm, GroupNorm,
        DivisiveNorm or OverTime, which depend on the input; for a threshold where a scale is not positive, with the
        channels; before a convolution that pads with zeros.
    UnitError
        If a bias is in another unit than what it is added to.

    Notes
    -----
    The arithmetic is float64 on the host, with :math:`\varepsilon`: without it the weights are 41% too large where the
    variance is as small as that. With ``spk_reset='soft'`` a folded threshold moves `V_reset` too, so that a spike
    takes as much from the potential as before. A masked position gives what a valid one does.

    References
    ----------
    .. [1] Guo, Y. et al. (2023). Membrane potential batch normalization for spiking neural networks. ICCV.
       arXiv:2308.08359.

    Examples
    --------
    >>> import brainstate, jax.numpy as jnp
    >>> from braindnorm import BatchNorm
    >>> from braindnorm.interop import fold_norm
    >>> linear, norm = brainstate.nn.Linear(2, 3), BatchNorm(3)
    >>> folded = fold_norm(linear, norm)
    >>> x = jnp.array([1., 2.])
    >>> with brainstate.environ.context(fit=False):
    ...     bool(jnp.allclose(folded(x), norm(linear(x))))
    True
    """
    unit = units.check_unit(between, option="between") or units.UNITLESS
    if type(first) in SYNAPSES and type(second) not in SYNAPSES and not is_lif(second):
        return fold_after(first, line_of(second), unit)
    if is_lif(first):
        refuse("LIF", "gives spikes, which a norm behind it does not fold into", "Fold it into the layer after it.")
    return _fold_into_next(first, second, unit)


def _fold_into_next(norm: Foreign, layer: Foreign, between: Unit) -> Foreign:
    line = line_of(norm)
    if is_lif(layer):
        return fold_into_neuron(line, layer, between)
    if type(layer) in SYNAPSES:
        return fold_before(line, layer, between)
    kinds = ", ".join(kind.__name__ for kind in SYNAPSES)
    refuse(
        type(layer).__name__,
        f"takes no norm: the layers that do are {kinds} of brainstate.nn and LIF of brainpy.state",
        "A subclass may compute something else: fold into its parts.",
    )
