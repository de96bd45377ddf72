"""Law L8: derivatives of every kind, and the tangent of a constant shift."""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import GroupNorm, LayerNorm, functional
from tests.support import reference
from tests.support.norms import NORMS, draw, float64, parameters, randomize, weight_of

SHAPE = (3, 4)
EPSILON = 0.1
every_norm = pytest.mark.parametrize("kind", NORMS)
either_way = pytest.mark.parametrize("fast", [True, False], ids=["default", "compensated"])
masked_or_not = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])


class Case:
    """A norm in float64 with random parameters and perhaps a mask, beside its reference."""

    def __init__(self, kind: str, fast: bool, masked: bool) -> None:
        self.layer = randomize(NORMS[kind].layer(SHAPE[-1], use_fast_variance=fast, epsilon=EPSILON))
        self.mask = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0]], bool) if masked else None
        self.options = {"epsilon": EPSILON, **parameters(self.layer), **({"mask": self.mask} if masked else {})}
        self.numeric = NORMS[kind].reference
        self.x, self.tangent, self.g = (draw(*SHAPE, seed=seed).astype(float) for seed in (1, 2, 3))
        if masked:
            self.x = np.where(self.mask, self.x, np.nan)

    def f(self, x: Any) -> jax.Array:
        return self.layer(x, mask=self.mask)

    def want(self, x: Any) -> np.ndarray:
        return self.numeric(x, **self.options)

    def loss(self, x: Any) -> jax.Array:
        """Curved in y, so that second derivatives hold more than those of the norm."""
        return jnp.sum(jnp.sin(self.f(x)) * self.g)

    def want_loss(self, x: Any) -> Any:
        return np.sum(np.sin(self.want(x)) * self.g)

    @property
    def seen(self) -> np.ndarray:
        return np.where(np.isnan(self.x), 0, self.x)

    @property
    def want_gradient(self) -> np.ndarray:
        return reference.jacobian(self.want_loss, self.seen)


@pytest.fixture
def case(kind: str, fast: bool, masked: bool) -> Any:
    with float64():
        yield Case(kind, fast, masked)


def same(got: Any, want: Any, digits: int = 9) -> None:
    np.testing.assert_allclose(got, want, rtol=10.0**-digits, atol=10.0 ** -(digits + 1))


@either_way
@masked_or_not
@every_norm
def test_first_derivatives(case: Case) -> None:
    @jax.jit
    def every(x: Any) -> Any:
        y, along = jax.jvp(case.f, (x,), (case.tangent,))
        linear = jax.linearize(case.f, x)[1](case.tangent)
        within = jax.jvp(jax.jit(case.f), (x,), (case.tangent,))[1]
        return (
            y,
            [along, linear, within],
            jax.vjp(case.f, x)[1](case.g)[0],
            jax.jacfwd(case.f)(x),
            jax.jacrev(case.f)(x),
        )

    y, tangents, pulled, *jacobians = every(case.x)
    want = reference.jacobian(case.want, case.seen)
    same(y, case.want(case.seen))
    for jacobian in jacobians:
        same(jacobian, want)
    for tangent in tangents:
        same(tangent, np.tensordot(want, case.tangent, 2))
    same(pulled, np.tensordot(case.g, want, 2))


@either_way
@masked_or_not
@every_norm
def test_second_derivatives(case: Case) -> None:
    @jax.jit
    def every(x: Any) -> Any:
        gradient = jax.grad(case.loss)
        full = {
            "forward over reverse": jax.jacfwd(gradient)(x),
            "reverse over forward": jax.jacrev(jax.jacfwd(case.loss))(x),
            "reverse over reverse": jax.jacrev(gradient)(x),
            "forward over forward": jax.jacfwd(jax.jacfwd(case.loss))(x),
        }
        along = {
            "forward over reverse": jax.jvp(gradient, (x,), (case.tangent,))[1],
            "reverse over forward": jax.grad(lambda x: jax.jvp(case.loss, (x,), (case.tangent,))[1])(x),
        }
        return full, along

    full, along = every(case.x)
    want = reference.hessian(case.want_loss, case.seen)
    for hessian in full.values():
        same(hessian, want, digits=6)
    for product in along.values():
        same(product, np.tensordot(want, case.tangent, 2), digits=6)


@either_way
@masked_or_not
@every_norm
def test_third_derivatives(case: Case) -> None:
    """Forward over reverse over forward, against differences of the Hessian along one tangent."""

    def curvature(x: Any) -> Any:
        return jax.jvp(lambda x: jax.jvp(case.loss, (x,), (case.tangent,))[1], (x,), (case.tangent,))[1]

    def want_curvature(x: Any) -> Any:
        return case.tangent.ravel() @ reference.hessian(case.want_loss, x).reshape(12, 12) @ case.tangent.ravel()

    step = 1e-3
    (up, down) = (want_curvature(case.seen + sign * step * case.tangent) for sign in (1, -1))
    got = jax.jit(lambda x: jax.jvp(curvature, (x,), (case.tangent,))[1])(case.x)
    np.testing.assert_allclose(got, (up - down) / (2 * step), rtol=1e-3, atol=1e-4)


@either_way
@masked_or_not
@every_norm
def test_derivatives_of_the_parameters(case: Case) -> None:
    weight = weight_of(case.layer)
    got = brainstate.transform.jit(brainstate.transform.grad(case.loss, weight))(case.x)
    for key, start in parameters(case.layer).items():

        def loss(value: Any, key: str = key) -> Any:
            return np.sum(np.sin(case.numeric(case.seen, **{**case.options, key: value})) * case.g)

        same(got[key], reference.jacobian(loss, start))


@either_way
@masked_or_not
@every_norm
def test_derivative_of_epsilon(case: Case) -> None:
    def loss(epsilon: Any) -> Any:
        case.layer.epsilon = epsilon
        return case.loss(case.x)

    got, forward = jax.jit(lambda e: (jax.grad(loss)(e), jax.jvp(loss, (e,), (1.0,))[1]))(EPSILON)

    def want(epsilon: Any) -> Any:
        return np.sum(np.sin(case.numeric(case.seen, **{**case.options, "epsilon": epsilon})) * case.g)

    same(got, reference.jacobian(want, np.array(EPSILON)))
    same(forward, got)


@either_way
@masked_or_not
@every_norm
def test_vmap_remat_and_scan(case: Case) -> None:
    def row_loss(x: Any, g: Any, mask: Any = None) -> Any:
        return jnp.sum(jnp.sin(case.layer(x, mask=mask)) * g)

    rest = (case.g,) if case.mask is None else (case.g, jnp.asarray(case.mask))

    def scanned(x: Any) -> Any:
        return jax.lax.scan(lambda total, step: (total + row_loss(*step), None), 0.0, (x, *rest))[0]

    @jax.jit
    def every(x: Any) -> dict[str, Any]:
        return {
            "vmap of grad": jax.vmap(jax.grad(row_loss))(x, *rest),
            "grad of vmap": jax.grad(lambda x: jax.vmap(row_loss)(x, *rest).sum())(x),
            "vmap of jvp": jax.vmap(lambda t: jax.jvp(case.loss, (x,), (t,))[1])(np.eye(12).reshape(12, *SHAPE)),
            "remat": jax.grad(jax.checkpoint(case.loss))(x),
            "brainstate's remat": jax.grad(brainstate.transform.checkpoint(case.loss))(x),
            "reverse through scan": jax.grad(scanned)(x),
            "forward through scan": jax.jacfwd(scanned)(x),
        }

    for got in every(case.x).values():
        same(got.reshape(SHAPE), case.want_gradient)


@pytest.mark.parametrize("masked", [True], ids=["masked"])
@either_way
@every_norm
def test_brainstate_transforms(case: Case) -> None:
    transform = brainstate.transform
    want, jacobian = case.want_gradient, reference.jacobian(case.want, case.seen)

    @transform.jit
    def every(x: Any) -> Any:
        gradient, forward = transform.grad(case.loss)(x), transform.fwd_grad(case.loss, key=5)(x)
        return (
            gradient,
            forward,
            transform.jacrev(case.f)(x),
            transform.jacfwd(case.f)(x),
            transform.hessian(case.loss)(x),
        )

    gradient, forward, reverse_jacobian, forward_jacobian, hessian = every(case.x)
    same(gradient, want)
    # along one random direction: the same that a linear function of that gradient gets
    same(forward, transform.fwd_grad(lambda x: jnp.sum(jnp.asarray(want) * x), key=5)(case.g))
    same(reverse_jacobian, jacobian)
    same(forward_jacobian, jacobian)
    same(hessian, reference.hessian(case.want_loss, case.seen), digits=6)


def values_and_derivatives(f: Callable[..., Any], x: Any, tangent: Any) -> Any:
    @jax.jit
    def every(x: Any) -> Any:
        return *jax.jvp(f, (x,), (tangent,)), jax.vjp(f, x)[1](tangent)[0]

    return every(x)


@pytest.mark.parametrize("axes", [0, (0, 1), (0, 2), (0, 1, 2), 1], ids=str)
@either_way
def test_derivatives_over_any_axes(fast: bool, axes: Any) -> None:
    x, tangent, scale = draw(3, 2, 4), draw(3, 2, 4, seed=1), draw(2, 1, seed=2)

    def f(x: Any) -> Any:
        return functional.layer_norm(x, scale, reduction_axes=axes, use_fast_variance=fast, epsilon=EPSILON)

    def want(x: Any) -> Any:
        return reference.layer_norm(x, axes, scale=scale, epsilon=EPSILON)

    with float64():
        x, tangent = x.astype(float), tangent.astype(float)
        y, moved, pulled = values_and_derivatives(f, x, tangent)
        same(y, want(x))
        same(moved, reference.directional(want, x, tangent))
        same(pulled, np.tensordot(tangent, reference.jacobian(want, x), 3))


@pytest.mark.parametrize("channel", [-1, 0, 1])
@pytest.mark.parametrize("axes", [(), (0, 1), (1, 2), (0, 1, 2)], ids=str)
@either_way
def test_derivatives_in_groups(fast: bool, axes: Any, channel: int) -> None:
    x, tangent = draw(4, 4, 4, loc=1), draw(4, 4, 4, seed=1)
    scale = draw(4, seed=2).reshape([4 if axis == channel % 3 else 1 for axis in range(3)])

    def f(x: Any) -> Any:
        options: dict[str, Any] = {"feature_axis": channel, "reduction_axes": axes, "epsilon": EPSILON}
        return functional.group_norm(x, 2, scale, use_fast_variance=fast, **options)

    def want(x: Any) -> Any:
        return reference.group_norm(x, 2, channel, axes, scale=scale, epsilon=EPSILON)

    with float64():
        x, tangent = x.astype(float), tangent.astype(float)
        y, moved, pulled = values_and_derivatives(f, x, tangent)
        same(y, want(x))
        same(moved, reference.directional(want, x, tangent))
        same(pulled, np.tensordot(tangent, reference.jacobian(want, x), 3))


# The tangent of a constant shift: 0, since the output does not change.

LENGTHS = [41, 55, 83, 97, 100, 784]
SHIFTED: dict[str, Callable[..., Any]] = {
    "LayerNorm": LayerNorm,
    "GroupNorm": lambda n, **options: GroupNorm(n, num_groups=1, **options),
    "GroupNorm of two groups": lambda n, **options: GroupNorm(2 * n, num_groups=2, **options),
}


def shift(kind: str, n: int, fast: bool, jit: bool, loc: float) -> np.ndarray:
    layer = randomize(SHIFTED[kind](n, use_fast_variance=fast))
    x = jnp.asarray(draw(3, *layer.in_size, loc=loc))
    f = jax.jit(layer.update) if jit else layer.update
    return np.asarray(jax.jvp(f, (x,), (jnp.ones_like(x),))[1])


@pytest.mark.parametrize("loc", [0.0, -65.0])
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("kind", SHIFTED)
def test_a_constant_shift_has_no_tangent(kind: str, n: int, jit: bool, loc: float) -> None:
    np.testing.assert_array_equal(shift(kind, n, False, jit, loc), 0)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("kind", SHIFTED)
def test_a_constant_shift_has_next_to_no_tangent_by_default(kind: str, n: int, jit: bool) -> None:
    assert np.abs(shift(kind, n, True, jit, 0.0)).max() < 1e-4


@pytest.mark.parametrize(("kind", "n"), [("LayerNorm", 41), ("LayerNorm", 55), ("LayerNorm", 784), ("GroupNorm", 83)])
def test_a_constant_shift_in_every_other_way(kind: str, n: int) -> None:
    """Vmapped, inside jit, in a scan, and under a mask: exactly 0 all the same."""
    layer = randomize(SHIFTED[kind](n, use_fast_variance=False))
    x = jnp.asarray(draw(3, n))
    ones = jnp.ones_like(x)

    def tangent(x: Any) -> Any:
        return jax.jvp(layer.update, (x,), (jnp.ones_like(x),))[1]

    def scanned(x: Any) -> Any:
        return jax.lax.scan(lambda carry, row: (carry, layer(row[None])), 0.0, x)[1]

    mask = np.random.default_rng(1).random((3, n)) < 0.7
    for got in (
        jax.jit(tangent)(x),
        jax.vmap(jax.jit(lambda row: tangent(row[None])))(x),
        jax.jvp(jax.jit(scanned), (x,), (ones,))[1],
        jax.jvp(jax.jit(lambda x: layer(x, mask=mask)), (x,), (ones,))[1],
    ):
        np.testing.assert_array_equal(got, 0)


@pytest.mark.parametrize("n", LENGTHS)
def test_gradients_sum_to_nothing(n: int) -> None:
    """The same seen from behind: the gradient of a loss along the shift, in units of the gradient."""
    layer = randomize(LayerNorm(n, use_fast_variance=False))
    x, g = jnp.asarray(draw(3, n)), draw(3, n, seed=1)
    (gx,) = jax.vjp(layer.update, x)[1](g)
    assert np.abs(np.sum(gx, -1, dtype=float)).max() < 1e-5 * np.abs(gx).max()
