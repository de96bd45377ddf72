"""The calls of the kernels: the value, and the gradient of a cotangent; None where XLA is as fast.

Arrays have `lanes` leading axes, along which each entry has a scale and a bias of its own: they are one call.
"""

import math
from collections.abc import Callable, Sequence

import jax

from .._numerics.moments import Reduction
from .._numerics.plan import Plan
from .._numerics.shapes import Mask
from ._library import target
from ._placement import alike
from ._view import View, gather_statistics, is_worth_it, mask_of, spread_statistics, view_of

# x and the mask; epsilon, scale and bias
Inputs = tuple[jax.Array, Mask]
Constants = tuple[jax.Array, jax.Array, jax.Array]
# x, the mask, what is kept of the statistics, and a tangent or a cotangent of x
Kept = tuple[jax.Array, Mask, jax.Array, jax.Array]
Results = tuple[jax.Array, ...]


def value(plan: Plan, rows: Inputs, shared: Constants, lanes: int) -> Results | None:
    """Return y and what is kept of the statistics."""
    (x, valid), (epsilon, scale, bias) = rows, shared
    view, reduction = _seen(plan, x, scale, lanes)
    if not is_worth_it(view, x.shape):
        return None
    statistics = (view.batch, 5, view.groups) if view.columns else (view.batch * view.groups, 3)
    results = [jax.ShapeDtypeStruct(shape, plan.dtype) for shape in (x.shape, statistics)]
    mask = mask_of(view, reduction, x.shape, valid)
    y, kept = _call("braindnorm_forward", results, plan, view, x, mask, epsilon, scale, bias)
    return y, spread_statistics(view, reduction, x.shape, kept)


def value_alone(plan: Plan, rows: Inputs, shared: Constants, lanes: int) -> Results | None:
    """Return y."""
    results = value(plan, rows, shared, lanes)
    return None if results is None else results[:1]


def gradient(plan: Plan, rows: Kept, shared: tuple[jax.Array], lanes: int, *, of_x: bool = True) -> Results | None:
    """Return the gradients of x, scale and bias; that of x with no elements if it is not asked for."""
    (x, valid, kept, g), (scale,) = rows, shared
    view, reduction = _seen(plan, x, scale, lanes)
    if not is_worth_it(view, x.shape):
        return None
    shapes = ((x.shape if of_x else (0,), x.dtype), *[(scale.shape, scale.dtype)] * 2)
    results = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    mask, statistics = mask_of(view, reduction, x.shape, valid), gather_statistics(view, reduction, kept)
    return _call("braindnorm_backward", results, plan, view, x, mask, g, scale, statistics)


def gradient_of_parameters(plan: Plan, rows: Kept, shared: tuple[jax.Array], lanes: int) -> Results | None:
    """Return the gradients of scale and bias."""
    results = gradient(plan, rows, shared, lanes, of_x=False)
    return None if results is None else results[1:]


def gradient_of_x(plan: Plan, rows: Kept, shared: tuple[jax.Array], lanes: int) -> Results | None:
    """Return the gradient of x."""
    results = gradient(plan, rows, shared, lanes)
    return None if results is None else results[:1]


def _seen(plan: Plan, x: jax.Array, scale: jax.Array, lanes: int) -> tuple[View, Reduction]:
    """Return how the kernels see x, and what the statistics of all lanes run over."""
    view, reduction = view_of(plan.reduction, x.shape[lanes:], (scale.shape[lanes:],)), plan.reduction
    assert view is not None, "the kernels were asked for what they cannot do"
    for _ in range(lanes):
        reduction = reduction.behind_lanes()
    return view.in_lanes(math.prod(x.shape[:lanes])), reduction


def _call(name: str, results: Sequence[jax.ShapeDtypeStruct], plan: Plan, view: View, *operands: jax.Array) -> Results:
    name = f"{name}_columns" if view.columns else name
    call: Callable[..., Sequence[jax.Array]] = jax.ffi.ffi_call(target(name), results)
    like = alike(operands, (operands[0], *operands[2:]))
    return tuple(alike(call(*like, lengths=view.lengths, centred=plan.centred), like))
