"""Masks of spiking neurons: those that can respond, and those that did."""

from __future__ import annotations

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .._numerics.axes import Axes, canonical_axes
from ..errors import MaskError, OptionError, named
from ..units import QuantityLike, convert, is_masked, known, strip, unwrap
from ._edges import SHARE, Compared, check_shapes, in_one_unit, module_of, refuse_blurred


@named("not_refractory")
def not_refractory(last_spike_time: QuantityLike, tau_ref: QuantityLike, t: QuantityLike | None = None) -> jax.Array:
    r"""Mask the neurons that are refractory: their membrane is held and says nothing of their input.

    .. math:: \mathrm{valid} = t - t_{\mathrm{spike}} \ge \tau_{\mathrm{ref}}

    Parameters
    ----------
    last_spike_time : Quantity, array_like or State
        When each neuron spiked last, of any shape; :math:`-\infty` (or -1e7 ms) if it never did.
    tau_ref : Quantity or array_like
        The refractory period: one, or one for each neuron.
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
    MaskError
        If `tau_ref` or `t` does not broadcast to the neurons. If it cannot be told whether a period is over, since
        times of this size are rounded to more than half of a step (where values are known; see Notes).
    UnitError
        If the three are not of one dimension.

    Notes
    -----
    A period that ends within a thousandth of a step of `t` is over, if the environment has the step, ``dt``; so is one
    that ends within four roundings of `t` (float32: 5e-7 of it). After a million steps or more float32 cannot tell them
    apart: an error, where values are known; in a compiled loop they are not, and periods may be off by a step.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.masks import not_refractory
    >>> not_refractory(jnp.array([-1e7, 8., 9.5]) * u.ms, 2. * u.ms, t=0.01 * u.second)
    Array([ True,  True, False], dtype=bool)
    """
    t = brainstate.environ.get("t", None) if t is None else t
    if t is None:
        raise OptionError("the time is not known. Give t=, or set it with brainstate.environ.context(t=...).")
    compared = in_one_unit(last_spike_time=last_spike_time, tau_ref=tau_ref, t=t)
    check_shapes(compared)
    last, period, now = compared.values.values()
    step = _step(compared)
    half = (period if step is None else step) / 2
    left, numpy = period - (now - last), module_of(last, period, now)
    blur = compared.blur(numpy.abs(now) + numpy.abs(period))
    if numpy is np:
        near = (blur > half) & (period > 0) & (abs(left) <= blur)
        refuse_blurred(near, "the end of a refractory period", compared)
    # however coarse the time, a neuron that spiked just now is refractory
    blur = numpy.where(half > 0, numpy.minimum(blur, half), blur)
    return jnp.asarray(left <= blur + (0 if step is None else SHARE * step))


@named("off_reset")
def off_reset(membrane: QuantityLike, reset: QuantityLike, tolerance: QuantityLike | None = None) -> jax.Array:
    r"""Mask the neurons whose membrane is held at its reset potential, where no time of a last spike is kept.

    .. math:: \mathrm{valid} = |V - V_{\mathrm{reset}}| > \theta

    Parameters
    ----------
    membrane : Quantity, array_like or State
        The membrane potential :math:`V`, of any shape.
    reset : Quantity or array_like
        The reset potential: one, or one for each neuron.
    tolerance : Quantity or array_like, optional
        :math:`\theta`, a potential. None is 0: for a model that writes the reset potential itself. Four roundings of
        the potentials are added to it (float32: 5e-7 of them, 3e-5 mV at -65 mV), so that prefixes do not matter.

    Returns
    -------
    Array
        Booleans of the shape of the membrane: False where it is at the reset potential.

    Raises
    ------
    MaskError
        If `reset` or `tolerance` does not broadcast to the membrane.
    UnitError
        If they are not of one dimension.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.masks import off_reset
    >>> off_reset(jnp.array([-65., -60.]) * u.mV, -0.065 * u.volt, tolerance=0.1 * u.mV)
    Array([False,  True], dtype=bool)
    """
    potentials = {"membrane": membrane, "reset": reset, "tolerance": tolerance}
    compared = in_one_unit(**{key: value for key, value in potentials.items() if value is not None})
    check_shapes(compared)
    v, held, *rest = compared.values.values()
    theta = rest[0] if rest else 0
    numpy = module_of(*compared.values.values())
    return jnp.asarray(numpy.abs(v - held) > theta + compared.blur(numpy.abs(held) + theta))


@named("spiked")
def spiked(spikes: QuantityLike, axes: Axes = 0) -> jax.Array:
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
        If `spikes` is not an array of numbers.

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
    if is_masked(unwrap(spikes)):
        raise MaskError("spikes are a masked array of numpy, whose mask would be lost. Write spikes.filled(0).")
    try:
        array = jnp.asarray(strip(unwrap(spikes), None)[0])
    except (TypeError, ValueError) as error:
        raise MaskError(f"spikes must be an array of numbers; got {spikes!r}.") from error
    along = canonical_axes(axes, array.ndim, option="axes")
    return jnp.any(array != 0, axis=along, keepdims=True)


def _step(compared: Compared) -> np.ndarray | None:
    """Return the environment's time step in the unit of what is compared; None if it has none of that dimension."""
    dt = brainstate.environ.get("dt", None)
    if dt is None:
        return None
    mantissa, unit = strip(dt, None, what="dt of the environment")
    step = known(mantissa)
    if step is None or not unit.has_same_dim(compared.unit):
        return None
    return np.asarray(convert(step, unit, compared.unit))
