"""Online learning under braintrace: scale and bias that leave an eligibility trace."""

import brainstate
import braintrace
import jax

from ..layers import NormParam

__all__ = ["ETraceNormParam"]


class ETraceNormParam(NormParam):
    r"""The scale and bias of a norm, learned online: the ``param_type`` for a network that braintrace compiles.

    .. math:: y = \gamma \odot z + \beta

    Both go through ``braintrace.element_wise``, which marks them for its eligibility traces [1]_. Element k of the
    scale acts on element k of the hidden state alone, so where the rest of the step from one state to the next is
    elementwise too, the online gradient of D-RTRL is that of backpropagation through time. Under any other program the
    parameter is a :class:`~braindnorm.NormParam`, in values and in gradients.

    Notes
    -----
    braintrace works on one sample: take a batch with ``braintrace.compile(..., vmap=True)``.

    References
    ----------
    .. [1] Wang, C. et al. (2026). Model-agnostic linear-memory online learning in spiking neural networks. Nature
       Communications. doi:10.1038/s41467-026-68453-w

    Examples
    --------
    >>> import brainunit as u
    >>> from braindnorm import RMSNorm
    >>> from braindnorm.interop.braintrace import ETraceNormParam
    >>> norm = RMSNorm(4, unit=u.mV, param_type=ETraceNormParam)
    """

    def execute(self, x: jax.Array) -> jax.Array:
        """Return ``x * scale + bias``, with what there is of the two."""
        weight: dict[str, jax.Array] = brainstate.maybe_state(self)
        if "scale" in weight:
            x = x * braintrace.element_wise(weight["scale"])
        return x + braintrace.element_wise(weight["bias"]) if "bias" in weight else x
