"""Online learning under braintrace: scale and bias that leave an eligibility trace."""

from typing import Any

import brainstate
import braintrace
import jax
import jax.numpy as jnp

from ..layers import NormParam

__all__ = ["ETraceExpT", "ETraceNormParam"]


class ETraceNormParam(NormParam):
    r"""The scale and bias of a norm, learned online: the ``param_type`` for a network that braintrace compiles.

    .. math:: y = \gamma \odot z + \beta

    Both go through ``braintrace.element_wise``, which marks them for its eligibility traces [1]_. Element k of the
    scale acts on element k of the hidden state alone, so where the rest of the step from one state to the next is
    elementwise too, the online gradient of D-RTRL is that of backpropagation through time. Under any other program the
    parameter is a :class:`~braindnorm.NormParam`, in values and in gradients.

    Notes
    -----
    What comes before a norm that subtracts the mean has an online gradient of 0, as the rules ask how a shift of all
    elements passes, and none does. Build the norm with ``stop_statistics_gradient=True``: it is then elementwise, and
    what comes before it is learned too.

    A batch goes to braintrace whole (``braintrace.compile(..., batch_size=n)``) or sample by sample (``vmap=True``).

    References
    ----------
    .. [1] Wang, C. et al. (2026). Model-agnostic linear-memory online learning in spiking neural networks. Nature
       Communications. doi:10.1038/s41467-026-68453-w

    Examples
    --------
    >>> import brainunit as u
    >>> from braindnorm import RMSNorm
    >>> from braindnorm.interop.braintrace import ETraceNormParam
    >>> norm = RMSNorm(4, unit=u.mV, param_type=ETraceNormParam, stop_statistics_gradient=True)
    """

    def execute(self, x: jax.Array) -> jax.Array:
        """Return ``x * scale + bias``, with what there is of the two."""
        weight: dict[str, jax.Array] = brainstate.maybe_state(self)
        if "scale" in weight:
            x = x * braintrace.element_wise(weight["scale"])
        return x + braintrace.element_wise(weight["bias"]) if "bias" in weight else x


class ETraceExpT(brainstate.nn.ExpT):
    r"""The transform that keeps a learned sigma or gamma positive, and is learned online.

    .. math:: \sigma = e^{\theta}

    The exponential is inside ``braintrace.element_wise``, where the eligibility trace of :math:`\theta` sees it.
    Outside of it, its derivative would be lost without an error.

    See Also
    --------
    braindnorm.DivisiveNorm : takes such a parameter as `sigma` or `gamma`.

    Examples
    --------
    >>> import brainunit as u
    >>> from brainstate.nn import Param
    >>> from braindnorm import DivisiveNorm
    >>> from braindnorm.interop.braintrace import ETraceExpT
    >>> sigma, gamma = Param([5.0] * 4, t=ETraceExpT()), Param([1.0] * 4, t=ETraceExpT())
    >>> norm = DivisiveNorm(4, unit=u.mV, sigma=sigma, gamma=gamma)
    """

    def __init__(self) -> None:
        super().__init__(0.0)

    def forward(self, x: Any) -> Any:
        """Return exp(x)."""
        return braintrace.element_wise(x, weight_fn=_exp)


def _exp(x: Any) -> Any:
    return jnp.exp(x)
