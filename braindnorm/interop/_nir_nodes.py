"""The nodes of NIR, each from a layer: values in SI units, channels first."""

from collections.abc import Callable
from typing import Any

import numpy as np
from brainstate import nn

from .. import units
from ..units import QuantityLike, Shape
from ._batch_norm import BATCH_NORMS
from ._common import Foreign, refuse
from ._fold_neuron import is_lif
from ._fold_synapses import CONVS, channel_first, padding_of
from ._line import first_of, line_of

Array = np.ndarray[Any, Any]


class Writer:
    """Write one layer after the other as nodes, and know in which order the values of a signal are.

    `arrange` puts an array with the shape of the signal here into the order that it has in NIR.
    """

    def __init__(self, nir: Any) -> None:
        self.nir = nir
        self.nodes: list[Any] = []
        self.size: Shape = ()
        self.arrange: Callable[[Array], Array] = _as_it_is
        self._pending: Foreign | None = None  # a norm that goes into the threshold behind it

    def write(self, layer: Foreign, following: Foreign | None) -> None:
        """Add the node of a layer; of a norm, whose turn comes with the threshold `following` it."""
        kinds: dict[type, Callable[[Foreign], None]] = {
            nn.Linear: self._linear, nn.OneToOne: self._scale, nn.Flatten: self._flatten
        }  # fmt: skip
        kinds |= dict.fromkeys(CONVS, self._convolution)
        if type(layer) in kinds:
            kinds[type(layer)](layer)
        elif is_lif(layer):
            self._neuron(layer)
        elif _is_spike_function(layer):
            self._threshold()
        elif type(layer) in BATCH_NORMS and _is_spike_function(following):
            self._pending = layer
        else:
            _unknown(layer)

    def graph(self) -> Any:
        """Return the graph of all nodes."""
        return self.nir.NIRGraph.from_list(*self.nodes)

    def _linear(self, layer: Foreign) -> None:
        if len(layer.in_size) > 1:
            what = f"has in_size={layer.in_size}, and a Linear of NIR takes a vector"
            refuse("Linear", what, "Put a Flatten before it.")
        weights = layer.weight.value
        weight = units.in_si(weights["weight"], "the weight")
        weight = weight if layer.w_mask is None else weight * np.asarray(layer.w_mask, np.float32)
        rows = self.arrange(np.arange(len(weight), dtype=np.float32)) if self.size else np.arange(len(weight))
        weight = weight[rows.astype(int)].T
        if "bias" in weights:
            self.nodes.append(self.nir.Affine(weight, units.in_si(weights["bias"], "the bias")))
        else:
            self.nodes.append(self.nir.Linear(weight))
        self.size, self.arrange = tuple(layer.out_size), _as_it_is

    def _scale(self, layer: Foreign) -> None:
        weights = layer.weight.value
        scale = self._spread(weights["weight"], layer.in_size)
        if "bias" not in weights:
            self.nodes.append(self.nir.Scale(scale))
        elif scale.ndim > 1:
            what = f"has a bias for in_size={layer.in_size}, and an Affine of NIR takes a vector"
            refuse("OneToOne", what, "Put a Flatten before it.")
        else:
            self.nodes.append(self.nir.Affine(np.diag(scale), self._spread(weights["bias"], layer.in_size)))

    def _convolution(self, layer: Foreign) -> None:
        dims = layer.num_spatial_dims
        if dims > 2:
            refuse("Conv3d", "has no node in NIR", "Its convolutions are Conv1d and Conv2d.")
        if max(layer.lhs_dilation) > 1:
            refuse(type(layer).__name__, f"has lhs_dilation={layer.lhs_dilation}, which NIR lacks", "Use 1.")
        weights, axes = layer.weight.value, (dims + 1, dims, *range(dims))
        weight = units.in_si(weights["weight"], "the weight")
        weight = weight if layer.w_mask is None else weight * np.asarray(layer.w_mask, np.float32)
        bias = units.in_si(weights["bias"], "the bias").ravel() if "bias" in weights else np.zeros(layer.out_channels)
        self.arrange = _as_it_is if channel_first(layer) else _channels_to_front
        space = self.arrange(np.empty(layer.in_size)).shape[1:]
        options = {"stride": layer.stride, "padding": _symmetric(layer), "dilation": layer.rhs_dilation}
        if dims == 1:
            space, options = space[0], {key: value[0] for key, value in options.items()}
        kind = self.nir.Conv1d if dims == 1 else self.nir.Conv2d
        transposed = weight.transpose(axes)
        node = kind(input_shape=space, weight=transposed, groups=layer.groups, bias=np.float32(bias), **options)
        self.size = tuple(layer.out_size)
        if tuple(node.output_type["output"]) != self.arrange(np.empty(self.size)).shape:
            what = f"has kernel_size={layer.kernel_size}, and nir takes the first of them for all axes"
            refuse(type(layer).__name__, what, "Use a square kernel.")
        self.nodes.append(node)

    def _flatten(self, layer: Foreign) -> None:
        size = self.size or tuple(layer.in_size or ())
        if not size:
            refuse("Flatten", "does not know the size of its input", "Give it in_size.")
        here = np.arange(np.prod(size), dtype=np.float32).reshape(size)
        there = self.arrange(here)
        order = there.ravel().astype(int)
        self.nodes.append(self.nir.Flatten({"input": np.array(there.shape)}, 0, -1))
        self.size, self.arrange = (order.size,), lambda values: values[order]

    def _neuron(self, neuron: Foreign) -> None:
        if neuron.spk_reset != "hard":
            what = f"has spk_reset={neuron.spk_reset!r}, and a LIF of NIR is reset to v_reset"
            refuse("LIF", what, "Build and train the neuron with spk_reset='hard'.")
        if neuron.current_inputs or neuron.delta_inputs:
            refuse("LIF", "has inputs besides the layer before it, which are no chain", "Remove them.")
        names = {"tau": "tau", "r": "R", "v_leak": "V_rest", "v_threshold": "V_th", "v_reset": "V_reset"}
        values = {there: self._spread(getattr(neuron, here), neuron.in_size) for there, here in names.items()}
        self.nodes.append(self.nir.LIF(**values))

    def _threshold(self) -> None:
        """Write ``x >= 0``, or with a norm before it ``a x + c >= 0``, where a > 0."""
        norm, self._pending = self._pending, None
        if norm is None:
            if not self.size:
                refuse("a spike function", "does not know the size of its input", "Put a layer before it.")
            self.nodes.append(self.nir.Threshold(self.arrange(np.zeros(self.size, np.float32))))
            return
        line = line_of(norm)
        if (line.slope <= 0).any():
            channels = first_of(np.flatnonzero(line.slope <= 0).tolist())
            remedy = "Learn a scale that stays positive, or put a layer with weights before the norm."
            refuse(type(norm).__name__, f"turns what is above the threshold into below: {channels}", remedy)
        thresholds = units.restore(-line.offset / line.slope, line.unit)
        self.nodes.append(self.nir.Threshold(self._spread(thresholds, norm.in_size)))

    def _spread(self, value: QuantityLike, size: Shape) -> Array:
        """Return a number for each element of a signal, in SI units and in the order of NIR."""
        self.size = self.size or tuple(size)
        return np.ascontiguousarray(self.arrange(np.broadcast_to(units.in_si(value, "a parameter"), size)))


def _as_it_is(values: Array) -> Array:
    return values


def _channels_to_front(values: Array) -> Array:
    return np.moveaxis(values, -1, 0)


def _is_spike_function(layer: object) -> bool:
    """Tell whether a layer is a spike function of braintools, without an import of it."""
    names = [(kind.__module__, kind.__name__) for kind in type(layer).__mro__]
    return ("braintools.surrogate", "Surrogate") in names


def _symmetric(layer: Foreign) -> Shape:
    """Return the padding of a convolution, which in NIR is the same at both ends."""
    pairs = padding_of(layer)
    if any(low != high for low, high in pairs):
        what = f"pads by {pairs} (padding={layer.padding!r}), and NIR by the same number at both ends"
        refuse(type(layer).__name__, what, "Give the padding as numbers.")
    return tuple(low for low, _ in pairs)


def _unknown(layer: object) -> None:
    name = getattr(layer, "__name__", type(layer).__name__)
    takes = "Linear, OneToOne, Flatten, Conv1d and Conv2d of brainstate.nn, LIF of brainpy.state, spike functions of"
    refuse(str(name), "has no node in NIR here", f"to_nir takes a Sequential of {takes} braintools.surrogate.")
