"""Law L10: what is kept in training gives in evaluation what training gave, and no program runs in the wrong phase."""

import threading
from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import braindnorm
from braindnorm import BatchNorm, errors
from tests.support.norms import draw

transform = brainstate.transform
MOMENTUM = 0.5
X = draw(5, 4, 3, loc=2.0)  # (time, batch, channels)
Layer = Callable[[Any], Any]


def phase(fit: bool) -> Any:
    return brainstate.environ.context(fit=fit)


def fresh(**options: Any) -> BatchNorm:
    return BatchNorm(3, momentum=MOMENTUM, **options)


class Expected:
    """What a norm is to do, call by call, in float64."""

    def __init__(self) -> None:
        self.mean, self.var = np.zeros(3), np.ones(3)

    def train(self, x: Any, axes: tuple[int, ...] = (0, 1)) -> np.ndarray:
        x = np.asarray(x, float)
        mean, var = x.mean(axes), x.var(axes)
        self.mean = MOMENTUM * self.mean + (1 - MOMENTUM) * mean
        self.var = MOMENTUM * self.var + (1 - MOMENTUM) * var
        return (x - mean) / np.sqrt(var + 1e-5)

    def evaluate(self, x: Any) -> np.ndarray:
        return (np.asarray(x, float) - self.mean) / np.sqrt(self.var + 1e-5)

    def run(self, x: Any, fit: bool) -> np.ndarray:
        return self.train(x) if fit else self.evaluate(x)

    def steps(self, xs: Any, fit: bool) -> np.ndarray:
        return np.stack([self.train(x, (0,)) if fit else self.evaluate(x) for x in xs])

    def check(self, layer: Any) -> None:
        close(layer.running_mean.value, self.mean)
        close(layer.running_var.value, self.var)


def close(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# data of constant moments: the same numbers in every call, in another order
@pytest.mark.parametrize("where", [0.0, -65.0], ids=["at 0", "at rest"])
@pytest.mark.parametrize("clock", ["pooled", "step by step"])
def test_evaluation_gives_what_training_gave(clock: str, where: float) -> None:
    rng, spread = np.random.default_rng(0), 1.0 if where == 0 else 0.01
    values = (where + spread * rng.standard_normal((64, 3))).astype(np.float32)
    xs = np.stack([rng.permutation(values) for _ in range(20)])
    layer = BatchNorm(3, momentum=0.9)
    run = transform.jit(layer if clock == "pooled" else lambda xs: transform.for_loop(layer, xs))
    with phase(True):
        for _ in range(20 if clock == "step by step" else 300):
            trained = run(xs)
    with phase(False):
        evaluated = run(xs)
    error = float(np.abs(trained - evaluated).max())
    print(f"{clock} at {where} +- {spread}: {error:.1e}")  # pytest -rP shows it
    assert error < (1e-5 if where == 0 else 2e-3)


@pytest.mark.parametrize("order", [(True, False), (False, True), (False, True, False, True, True)], ids=str)
@pytest.mark.parametrize(
    "how", ["jit", "jit of for_loop", "for_loop", "jit of grad", "jit of checkpoint", "jit of cond", "EnvironContext"]
)
def test_what_was_compiled_in_one_phase_is_right_in_the_other(how: str, order: tuple[bool, ...]) -> None:
    layer, expected = fresh(), Expected()
    looped = how in ("jit of for_loop", "for_loop")

    def pulled(x: Any) -> Any:
        return transform.grad(lambda x: layer(x).sum(), return_value=True)(x)[1]

    functions: dict[str, Layer] = {
        "jit": transform.jit(layer),
        "jit of for_loop": transform.jit(lambda xs: transform.for_loop(layer, xs)),
        "for_loop": lambda xs: transform.for_loop(layer, xs),
        "jit of grad": transform.jit(pulled),
        "jit of checkpoint": transform.jit(lambda x: transform.checkpoint(layer)(x)),
        "jit of cond": transform.jit(lambda x: transform.cond(jnp.sum(x) > -1e9, layer, lambda x: 0 * x, x)),
        "EnvironContext": transform.jit(layer),
    }
    f = functions[how]
    inside = {fit: transform.jit(brainstate.nn.EnvironContext(layer, fit=fit)) for fit in (True, False)}
    for fit in order:
        want = expected.steps(X, fit) if looped else expected.run(X, fit)
        if how == "EnvironContext":
            got = inside[fit](X)
        else:
            with phase(fit):
                got = f(X)
        close(got, want.sum() if how == "jit of grad" else want, 1e-4 if how == "jit of grad" else 1e-5)
        expected.check(layer)


def test_a_phase_that_a_function_sets_itself() -> None:
    """Whatever there is outside; training and evaluation in one function; traced once."""
    layer, expected, traced = fresh(), Expected(), []

    @transform.jit
    def both(x: Any) -> Any:
        traced.append(1)
        with phase(True):
            trained = layer(x)
        with phase(False):
            return trained, layer(x)

    for _ in range(3):
        for got, want in zip(both(X), (expected.train(X), expected.evaluate(X)), strict=True):
            close(got, want)
    assert len(traced) == 1
    for fit in (True, False):
        with phase(fit):
            for got, want in zip(both(X), (expected.train(X), expected.evaluate(X)), strict=True):
                close(got, want)
    expected.check(layer)


def test_a_phase_is_traced_once() -> None:
    layer, traced = fresh(), []
    f = transform.jit(lambda x: (traced.append(1), layer(x))[1])
    for fit in (True, False):
        with phase(fit):
            for _ in range(3):
                f(X)
    assert len(traced) == 2


def test_set_for_the_program() -> None:
    layer, expected = fresh(), Expected()
    f = transform.jit(layer)
    try:
        for fit in (False, True, False):
            brainstate.environ.set(fit=fit)
            close(f(X), expected.run(X, fit))
        with phase(True):
            close(f(X), expected.train(X))
        close(f(X), expected.evaluate(X))
    finally:
        brainstate.environ.pop("fit")
    expected.check(layer)


def test_two_threads() -> None:
    """Each has the phase that it sets; one that sets none is told so."""
    layer, found = fresh(), {}
    f = transform.jit(layer)
    with phase(True):
        f(X)
    before = np.array(layer.running_mean.value)
    entered, leave = threading.Event(), threading.Event()

    def evaluate() -> None:
        with phase(False):
            entered.set()
            leave.wait(60)
            found["y"] = np.array(f(X))

    def unset() -> None:
        with pytest.raises(errors.PhaseError, match="not known whether to train or to evaluate"):
            f(X)
        found["unset"] = True

    threads = [threading.Thread(target=evaluate), threading.Thread(target=unset)]
    with phase(True):
        for thread in threads:
            thread.start()
        entered.wait(60)
        leave.set()
        for thread in threads:
            thread.join(60)
    assert found["unset"]
    close(found["y"], (X - before) / np.sqrt(np.asarray(layer.running_var.value) + 1e-5))
    np.testing.assert_array_equal(before, layer.running_mean.value)


def test_without_a_phase() -> None:
    for f in (fresh(), transform.jit(fresh()), fresh(name="soma")):
        message = r"not known whether to train or to evaluate.*environ.context\(fit=True\) to train, fit=False"
        with pytest.raises(errors.PhaseError, match=message):
            f(X)


@pytest.mark.parametrize("fit", ["train", 2, 0.5, np.ones(2, bool)], ids=str)
def test_a_phase_that_is_none(fit: Any) -> None:
    with phase(fit), pytest.raises(errors.PhaseError, match="fit must be True or False, and known while"):
        fresh()(X)
    with pytest.raises(errors.PhaseError, match="phase: fit must be True or False"), braindnorm.phase(fit):
        pass


def test_a_phase_that_is_not_known() -> None:
    def f(x: Any, fit: Any) -> Any:
        with phase(fit):
            return fresh()(x)

    with pytest.raises(errors.PhaseError, match="known while a function is traced"):
        transform.jit(f)(X, True)


@pytest.mark.parametrize("fit", [np.True_, 1, jnp.array(True), np.array(0)], ids=repr)
def test_other_ways_to_write_a_phase(fit: Any) -> None:
    layer, expected = fresh(), Expected()
    with phase(fit):
        close(layer(X), expected.run(X, bool(fit)))
    expected.check(layer)


STAGED: dict[str, Callable[[Layer], Layer]] = {
    "jit": jax.jit,
    "scan": lambda f: lambda x: jax.lax.scan(lambda carry, x: (carry, f(x)), 0.0, x[None])[1][0],
    "checkpoint": jax.checkpoint,
    "jit of for_loop": lambda f: jax.jit(lambda x: transform.for_loop(f, x[None])[0]),
}


@pytest.mark.parametrize("how", STAGED)
def test_what_jax_compiles_is_refused_or_told(how: str) -> None:
    """A phase from outside would be kept; with braindnorm.phase jax compiles anew in the other."""
    layer, expected = fresh(), Expected()
    with phase(True):
        layer(X)
    expected.train(X)
    f = STAGED[how](layer)
    for fit in (False, True):
        message = rf"jax compiles this function.*would keep the phase fit={fit} for good.*braindnorm.phase\(fit={fit}\)"
        with phase(fit), pytest.raises(errors.PhaseError, match=message):
            f(X)
    with braindnorm.phase(False):
        close(f(X), expected.evaluate(X))
    with pytest.raises(Exception, match=r"(?i)tracer"), braindnorm.phase(True):  # not silently in the other phase
        f(X)
    with braindnorm.phase(False):
        close(f(X), expected.evaluate(X))
    expected.check(layer)

    def inside(x: Any) -> Any:
        with braindnorm.phase(False):
            return layer(x)

    close(STAGED[how](inside)(X), expected.evaluate(X))


def test_frozen_in_what_jax_compiles() -> None:
    layer, expected = fresh(), Expected()
    with phase(True):
        layer(X)
    expected.train(X)
    f = jax.jit(layer)
    layer.frozen = True
    with braindnorm.phase(True):
        close(f(X), expected.evaluate(X))
        with pytest.raises(errors.PhaseError, match=r"frozen is changed inside a block of braindnorm.phase"):
            layer.frozen = False
    layer.frozen = False
    with pytest.raises(Exception, match=r"(?i)tracer"), braindnorm.phase(True):  # it would train now
        f(X)


def test_a_function_of_jax_inside_one_of_brainstate() -> None:
    """Such a function holds what it was compiled with: never silently another phase."""
    layer, expected = fresh(), Expected()
    with phase(True):
        layer(X)
    expected.train(X)
    inner = jax.jit(layer)
    f = transform.jit(lambda x: inner(x))
    with phase(False):
        close(f(X), expected.evaluate(X))
    with pytest.raises(Exception, match=r"(?i)tracer"), phase(True):
        f(X)


def test_vmap() -> None:
    """Evaluation needs no name and no batch; training without a name is refused with the cure."""
    layer, named, expected = fresh(), fresh(axis_name="batch"), Expected()
    maps: dict[str, Callable[..., Layer]] = {
        "jax": jax.vmap, "vmap": transform.vmap, "vmap2": transform.vmap2,
        "jit": lambda f, **options: transform.jit(transform.vmap(f, **options)),
    }  # fmt: skip
    for name, vmap in maps.items():
        with phase(True):
            if name != "jax":
                close(vmap(named, axis_name="batch")(X), expected.train(X))
                expected.check(named)
                layer.running_mean.value, layer.running_var.value = named.running_mean.value, named.running_var.value
            with pytest.raises(errors.AxisNameError, match=r"each of the 5 lanes.*axis_name='batch'"):
                vmap(layer)(X)
        with phase(False):
            for norm in (layer, named):
                close(vmap(norm)(X), expected.evaluate(X))
                close(vmap(vmap(norm))(X), expected.evaluate(X))
        expected.check(layer)


def test_evaluation_writes_nothing() -> None:
    layer = fresh()
    f = transform.StatefulFunction(layer)
    with phase(False):
        f.make_jaxpr(X)
        assert f.get_write_states(X) == ()
        assert {id(layer.running_mean), id(layer.running_var)} < {id(s) for s in f.get_read_states(X)}


def test_the_phase_is_no_state_of_the_model() -> None:
    layer = fresh()
    with phase(True):
        transform.jit(layer)(X)
    assert {path[0] for path in layer.states()} == {"running_mean", "running_var", "weight"}


def test_gradients_in_both_phases() -> None:
    layer, pull = fresh(), draw(5, 4, 3, seed=3)
    with phase(True):
        layer(X)
    mean, var = (np.asarray(s.value, float) for s in (layer.running_mean, layer.running_var))
    with phase(False):
        close(transform.grad(lambda x: (layer(x) * pull).sum())(X), pull / np.sqrt(var + 1e-5))
    x, pulled = X.astype(float), pull.astype(float)
    s = np.sqrt(x.var((0, 1)) + 1e-5)
    z = (x - x.mean((0, 1))) / s
    want = (pulled - pulled.mean((0, 1)) - z * (pulled * z).mean((0, 1))) / s
    with phase(True):
        close(transform.grad(lambda x: (layer(x) * pull).sum())(X), want)
    assert not np.allclose(mean, layer.running_mean.value)
