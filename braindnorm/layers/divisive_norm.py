"""Divisive normalization as a Module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from brainstate.nn import Param

from .. import functional, units
from .._numerics.axes import Axes, as_axes, as_size, canonical_axes, feature_shape
from .._numerics.collectives import AxisName
from .._numerics.moments import Reduction
from ..errors import OptionError
from ..functional._divisive_options import check_exponent, not_negative, read_pool, real_parameter
from ..functional._drive import Pool
from ..functional._dtypes import result_dtype
from ..functional._enter import MaskedOutput, NormOptions, check_masked_output, in_unit_of_input
from ..functional._reduction import check_axis_name, reduction_over
from ..masks._step_mask import with_step_mask
from ..units import DtypeLike, Initializer, MaskLike, QuantityLike, Result, Unit
from ._module import NormModule
from ._positive import PositiveT
from ._wiring import check_name, keep_flags

OPTIONS = (
    "exponent", "rectify", "masked_output", "unit", "out_unit", "axis_name", "axis_index_groups", "dtype",
    "stop_statistics_gradient",
)  # fmt: skip


class DivisiveNorm(NormModule):
    r"""Divisive normalization [1]_ that knows units and masks: gain control by the pooled activity of the neighbours.

    .. math:: R_i = \gamma \, \frac{D_i^n}{\sigma^n + \operatorname{pool}_j D_j^n}

    Parameters
    ----------
    in_size : int or sequence of int
        The size of the drive without its batch axes.
    pool_axes : int or sequence of int
        The axes of the input that are pooled. Write negative ones: they count from the right, whatever batch or time
        axes come before, and under ``vmap``.
    feature_axes : int or sequence of int
        The axes of `in_size` along which sigma and gamma vary; ``()`` for one of each.
    exponent : float
        n, above 0. A drive of 0 has a finite gradient for every n (see :func:`braindnorm.functional.divisive_norm`).
    sigma : float, array_like, Quantity, callable or Param
        The semi-saturation constant in the drive's unit; as a quantity it sets `unit`. Its value is where learning
        begins: the parameter is its logarithm, so it stays positive, and a step of learning is the same whatever the
        unit's prefix. A ``brainstate.nn.Param`` is taken as it is: fixed (``fit=False``), with
        another transform, or regularized.
    gamma : float, array_like, Quantity, callable or Param
        The gain in the output's unit, in the same ways; as a quantity it sets `out_unit`.
    pool : {'mean', 'sum'}, array_like of shape (N, N) or Param
        What is pooled: see :func:`braindnorm.functional.divisive_norm`. A matrix is fixed, and a ``Param`` learned.
    rectify : bool
        True takes a negative drive as 0; False responds to its magnitude, with its sign.
    masked_output : {'zero', 'input', 'normalize'}
        What comes out at masked positions: 0; the drive, where the output's unit is of its dimension; or the response
        of the drive to the pool of the valid ones.
    axis_name : hashable or tuple of hashable, optional
        Mapped axes of ``vmap``, ``pmap`` or ``shard_map`` over which the statistics run too.
    axis_index_groups : sequence of sequence of int, optional
        Indices along `axis_name` that share statistics: each index once, groups even or uneven.
    dtype : dtype, optional
        The dtype of the result. None promotes the drive with sigma and gamma; integers and booleans become float.
    unit : Unit, optional
        The unit of the drive, in which sigma is expressed: the drive is converted to it, and anything of another
        dimension is refused, a plain array too. With None it is that of a sigma that is a quantity, or the one that
        arrives.
    out_unit : Unit, optional
        The unit of the response, in which gamma is expressed. None takes that of a gamma that is a quantity, or else
        the drive's; ``brainunit.UNITLESS`` gives a plain array.
    stop_statistics_gradient : bool
        Whether the drive of the pool is a constant to derivatives, so that each element has one of its own:
        :math:`\dot R_i = \gamma n D_i^{n-1} \dot D_i / (\sigma^n + \operatorname{pool}_j D_j^n)`. Values are the same,
        and sigma, gamma and a matrix of weights keep their derivatives.
    name : str, optional
        The module's name, which errors show.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    See Also
    --------
    RMSNorm : with epsilon = sigma, the signed square root of this for n = 2.
    braindnorm.functional.divisive_norm : the same as a function.

    References
    ----------
    .. [1] Carandini, M. and Heeger, D. J. (2012). Normalization as a canonical neural computation. Nat. Rev. Neurosci.
       13, 51-62. doi:10.1038/nrn3136

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm import DivisiveNorm
    >>> norm = DivisiveNorm(2, sigma=20. * u.Hz, gamma=14. * u.Hz, pool="sum")
    >>> norm(jnp.array([0.01, 0.03]) * u.kHz).round(1)
    Quantity([1. 9.], "Hz")
    """

    __array_ufunc__ = None  # so that numpy hands `array >> layer` over whole, and not element by element

    def __init__(
        self,
        in_size: Axes,
        pool_axes: Axes = -1,
        feature_axes: Axes = -1,
        *,
        exponent: float = 2.0,
        sigma: Initializer | Param = 1.0,
        gamma: Initializer | Param = 1.0,
        pool: Pool | Param = "mean",
        rectify: bool = True,
        masked_output: MaskedOutput = "zero",
        axis_name: AxisName | None = None,
        axis_index_groups: Sequence[Sequence[int]] | None = None,
        dtype: DtypeLike | None = None,
        unit: Unit | None = None,
        out_unit: Unit | None = None,
        stop_statistics_gradient: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name=check_name(name, self))  # type: ignore[call-arg]  # brainstate hides it from type checkers
        size = as_size(in_size)
        self.in_size = self.out_size = size
        self.pool_axes = as_axes(pool_axes, option="pool_axes")
        self.feature_axes = canonical_axes(feature_axes, len(size), option="feature_axes")
        self._shape = feature_shape(size, self.feature_axes)
        self.exponent, self.pool, self.rectify, self.masked_output = exponent, pool, rectify, masked_output
        self.axis_name, self.axis_index_groups, self.dtype = axis_name, axis_index_groups, dtype
        check_exponent(exponent, rectify)
        keep_flags(self, stop_statistics_gradient=stop_statistics_gradient)
        read_pool(_value(pool))
        check_masked_output(masked_output)
        check_axis_name(axis_name, axis_index_groups)
        result_dtype([], dtype)
        self.sigma, self.unit = self._parameter("sigma", sigma, units.check_unit(unit, option="unit"))
        self.gamma, self.out_unit = self._parameter("gamma", gamma, units.check_unit(out_unit, option="out_unit"))

    @property
    def sigma_quantity(self) -> Result:
        """Sigma with the unit of the drive, where that is declared."""
        return _quantity(self.sigma, self.unit)

    @property
    def gamma_quantity(self) -> Result:
        """Gamma with the output's unit, where that is declared."""
        return _quantity(self.gamma, self.unit if self.out_unit is None else self.out_unit)

    @property
    def has_weights(self) -> bool:
        """Whether the pool is a matrix, by which each element has a pool of its own."""
        return read_pool(_value(self.pool))[0] == "weighted"

    def reduction(self, shape: Sequence[int]) -> Reduction:
        """Return what the pools of a drive of this shape run over."""
        groups = self.axis_index_groups
        options: NormOptions = {"axis_name": self.axis_name, "axis_index_groups": groups}
        return reduction_over(shape, self.pool_axes, options, option="pool_axes")

    def update(self, x: QuantityLike, *, mask: MaskLike | None = None) -> Result:
        """Respond to the drive `x`.

        Parameters
        ----------
        x : array_like or Quantity
            The drive; its trailing axes are those of `in_size`.
        mask : array_like of bool or int, optional
            True or non-zero where the drive is valid, broadcast to it from the right.

        Returns
        -------
        Array or Quantity
            Of the shape of `x`, in `out_unit`.
        """
        return functional.divisive_norm(
            x, mask=with_step_mask(mask, x, self.in_size), pool_axes=self.pool_axes, **self.arguments()
        )

    def arguments(self) -> dict[str, Any]:
        """Return sigma, gamma and the options as arguments of the function, all but what is of one call."""
        options = {option: getattr(self, option) for option in OPTIONS}
        return options | {"sigma": self.sigma.value(), "gamma": self.gamma.value(), "pool": _value(self.pool)}

    if TYPE_CHECKING:  # brainstate's own takes anything
        __call__ = update

    def _parameter(self, option: str, value: Initializer | Param, unit: Unit | None) -> tuple[Param, Unit | None]:
        """Return a parameter as a Param of plain numbers, and their unit, if one is set."""
        if isinstance(value, Param):
            return value, unit
        shape = self._shape
        value = real_parameter(value(shape) if callable(value) else value, option)
        if option == "gamma":
            plain, unit = units.strip_parameters({option: value}, unit)
            start = jnp.asarray(plain[option])
        else:
            unit = units.strip_parameters({option: value}, None)[1] if unit is None else unit
            sigma = in_unit_of_input(value, units.UNITLESS if unit is None else unit, option)
            start = jnp.asarray(not_negative(sigma, value))
        positive = isinstance(start, jax.core.Tracer) or (np.isfinite(start) & (np.asarray(start) > 0)).all()
        if start.shape not in ((), shape) or not positive:
            raise OptionError(
                f"{option} must begin as one positive number, or as positive numbers of shape {shape}; got {value!r}."
            )
        return Param(jnp.broadcast_to(start, shape), t=PositiveT()), unit


def _quantity(parameter: Param, unit: Unit | None) -> Result:
    value, arrived = units.strip(parameter.value(), None)
    return units.restore(jnp.asarray(value), unit if arrived.is_unitless and unit is not None else arrived)


def _value(pool: Pool | Param) -> Pool:
    return pool.value() if isinstance(pool, Param) else pool
