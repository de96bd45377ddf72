"""A model as a graph of NIR, the exchange format of neuromorphic simulators and chips."""

from typing import Any

from brainstate.nn import Module, Sequential

from .._optional import package
from ..errors import named
from ._common import Foreign, refuse
from ._fold_model import _fold_sequence
from ._nir_nodes import Writer
from ._packages import check_model

__all__ = ["to_nir"]


@named("to_nir")
def to_nir(model: Module) -> Any:
    r"""Return a ``nir.NIRGraph`` of a model in evaluation, its norms folded and its values in SI units.

    Parameters
    ----------
    model : Module
        A ``Sequential``, nested or not, or one layer, of these:

        ============================================  =========================================
        here                                          in NIR
        ============================================  =========================================
        ``brainstate.nn.Linear``                      ``Affine``, or ``Linear`` without a bias
        ``brainstate.nn.Conv1d``, ``Conv2d``          ``Conv1d``, ``Conv2d``
        ``brainstate.nn.OneToOne``                    ``Scale``, or ``Affine`` with a bias
        ``brainstate.nn.Flatten``                     ``Flatten``
        ``brainpy.state.LIF``                         ``LIF``
        a spike function of ``braintools.surrogate``  ``Threshold``
        ``BatchNorm`` beside one of them              folded into it, as by :func:`fold_norms`
        ============================================  =========================================

    Returns
    -------
    nir.NIRGraph
        A chain of nodes with one input and one output; the model stays as it is. What has a unit is in volts, amperes,
        ohms and seconds, and plain numbers are as they were; so the input is in SI units too. Images have their
        channels first, as in NIR, and the weights behind a ``Flatten`` are in that order.

    Raises
    ------
    ConversionError
        For a norm that does not fold, with the reason; for a layer, or an option of one (``spk_reset='soft'``), that
        NIR has no node for.
    OptionError
        If it is a model of torch or another package.
    PackageError
        If nir is not installed.

    Notes
    -----
    NIR fires above the threshold, brainpy.state at the threshold too, and NIR does not say where a potential begins.
    A recurrent model is no chain: build its graph from the folded layers.

    References
    ----------
    .. [1] Pedersen, J. E. et al. (2024). Neuromorphic intermediate representation. Nature Communications 15, 8122.
    """
    check_model(model, ())
    writer = Writer(package("nir"))
    layers = _chain(model)
    reasons: dict[int, str] = {}
    _fold_sequence(layers, set(), reasons)
    for index, layer in enumerate(layers):
        if id(layer) in reasons:
            refuse(_place(layer), "does not fold, and NIR has no norms", reasons[id(layer)])
        writer.write(layer, layers[index + 1] if index + 1 < len(layers) else None)
    return writer.graph()


def _chain(model: Foreign) -> list[Any]:
    """Return the layers of a model one after the other."""
    if type(model) is not Sequential:
        return [model]
    return [layer for part in model.layers for layer in _chain(part)]


def _place(layer: Foreign) -> str:
    return f"{type(layer).__name__}(in_size={layer.in_size})"
