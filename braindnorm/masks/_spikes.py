"""Masks of spiking neurons: those that can respond, and those that did."""

from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from .._numerics.axes import Axes, canonical_axes
from ..errors import MaskError, OptionError
from ..units import strip, unwrap


def not_refractory(last_spike_time: Any, tau_ref: Any, t: Any = None) -> jax.Array:
    r"""Mask the neurons that are refractory: their membrane is held and says nothing of their input.

    .. math:: \mathrm{valid} = t - t_{\mathrm{spike}} \ge \tau_{\mathrm{ref}}

    Parameters
    ----------
    last_spike_time : Quantity, array_like or State
        When each neuron spiked last, of any shape; :math:`-\infty` (or -1e7 ms) if it never did.
    tau_ref : Quantity or array_like
        The refractory period, broadcast to it.
    t : Quantity or array_like, optional
        The time. None takes ``t`` of ``brainstate.environ``.

    Returns
    -------
    Array
        Booleans of the shape of the neurons: True where a neuron is not refractory.

    Raises
    ------
    OptionError
        If there is no `t`, neither here nor in the environment.
    UnitError
        If the three are not of one dimension.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.masks import not_refractory
    >>> not_refractory(jnp.array([-1e7, 8., 9.5]) * u.ms, 2. * u.ms, t=0.01 * u.second)
    Array([ True,  True, False], dtype=bool)
    """
    name = "not_refractory"
    t = brainstate.environ.get("t", None) if t is None else t
    if t is None:
        raise OptionError(f"{name}: what time is it? Give t=, or set it with brainstate.environ.context(t=...).")
    last, unit = strip(last_spike_time, None, name=name)
    now, period = (jnp.asarray(strip(v, unit, name=name)[0]) for v in (t, tau_ref))
    elapsed: jax.Array = now - jnp.asarray(last)
    return elapsed >= period


def off_reset(membrane: Any, reset: Any, tolerance: Any = None) -> jax.Array:
    r"""Mask the neurons whose membrane is held at its reset potential, where no time of a last spike is kept.

    .. math:: \mathrm{valid} = |V - V_{\mathrm{reset}}| > \theta

    Parameters
    ----------
    membrane : Quantity, array_like or State
        The membrane potential :math:`V`, of any shape.
    reset : Quantity or array_like
        The reset potential, broadcast to it.
    tolerance : Quantity or array_like, optional
        :math:`\theta`, a potential. None is 0: for a model that writes the reset potential itself.

    Returns
    -------
    Array
        Booleans of the shape of the membrane: False where it is at the reset potential.

    Raises
    ------
    UnitError
        If they are not of one dimension.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.masks import off_reset
    >>> off_reset(jnp.array([-65., -60.]) * u.mV, -0.065 * u.volt, tolerance=0.1 * u.mV)
    Array([False,  True], dtype=bool)
    """
    v, unit = strip(membrane, None, name="off_reset")
    v = jnp.asarray(v)
    held = jnp.asarray(strip(reset, unit, name="off_reset")[0], v.dtype)
    theta = 0 if tolerance is None else jnp.asarray(strip(tolerance, unit, name="off_reset")[0])
    return jnp.abs(v - held) > theta


def spiked(spikes: Any, axes: Axes = 0) -> jax.Array:
    r"""Mask the neurons that did not spike in a window.

    Parameters
    ----------
    spikes : array_like, BinaryArray or Quantity
        Spikes, or currents of spikes: whatever is not 0 is a spike.
    axes : int or tuple of int
        The axes of the window, usually time, the leading one.

    Returns
    -------
    Array
        Booleans with the axes of `spikes`, of length 1 along `axes`: True where a neuron spiked in the window.

    Raises
    ------
    AxisError
        If `spikes` has no such axis.
    MaskError
        If `spikes` is no array of numbers.

    Notes
    -----
    This looks at the whole window, its end included: do not use it step by step in a causal model. And do not normalize
    the spikes of one step with it: all valid elements are 1, so their mean is always 1 and their variance 0, and a
    LayerNorm gives 0 whatever the input. Normalize the rate over the window, the membrane or the current.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from braindnorm.masks import spiked
    >>> spiked(jnp.array([[0., 1., 0.], [0., 1., 1.]]))
    Array([[False,  True,  True]], dtype=bool)
    """
    try:
        array = jnp.asarray(strip(unwrap(spikes), None, name="spiked")[0])
    except (TypeError, ValueError) as error:
        raise MaskError(f"spiked: spikes must be an array of numbers; got {spikes!r}.") from error
    along = canonical_axes(axes, array.ndim, option="axes", name="spiked")
    return jnp.any(array != 0, axis=along, keepdims=True)
