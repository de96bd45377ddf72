"""Evaluating by statistics that nobody has updated: said once a layer, at the line that did it, and never wrongly."""

import warnings
from collections.abc import Callable
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import pytest

from braindnorm import BatchNorm
from braindnorm.errors import NormWarning
from braindnorm.interop import from_brainstate

transform, environ = brainstate.transform, brainstate.environ
X = jnp.ones((2, 3)) * u.mV


def fresh(**options: Any) -> BatchNorm:
    return BatchNorm(3, unit=u.mV, **options)


def said(run: Callable[[], object]) -> list[str]:
    """Return what is warned of, each from a line of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    assert all(w.category is NormWarning and w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught]


WAYS: dict[str, Callable[[BatchNorm], Callable[[], object]]] = {
    "eager": lambda norm: lambda: norm(X),
    "jit": lambda norm: (lambda f: lambda: f(X))(transform.jit(norm)),
    "a loop in jit": lambda norm: (lambda f: lambda: f(X))(transform.jit(lambda x: transform.for_loop(norm, x))),
    "vmap": lambda norm: lambda: transform.vmap(norm)(X),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_said_once(way: str) -> None:
    norm = fresh(name="input")
    run = WAYS[way](norm)
    with environ.context(fit=False):
        assert said(run) == [
            "BatchNorm 'input': this evaluates by running statistics that no call has updated, mean 0 mV and variance"
            " 1 mV^2. Train first (with brainstate.environ.context(fit=True); in OverTime end_sequence() updates them),"
            " or load what was trained. If they are meant, build the norm with frozen=True."
        ]
        assert said(run) == said(lambda: norm(X)) == []


def trained() -> BatchNorm:
    norm = fresh(momentum=1.0)  # which keeps what there was
    with environ.context(fit=True):
        norm(X)
    return norm


def loaded() -> BatchNorm:
    norm = fresh()
    norm.running_mean.value = norm.running_mean.value - 65
    return norm


RIGHT: dict[str, Callable[[], BatchNorm]] = {
    "trained": trained,
    "loaded": loaded,
    "frozen": lambda: fresh(frozen=True),
    "converted": lambda: from_brainstate(brainstate.nn.BatchNorm0d(3), unit=u.mV),
    "untracked": lambda: fresh(track_running_stats=False),
}


@pytest.mark.parametrize("how", RIGHT)
def test_it_is_not_said_of(how: str) -> None:
    norm = RIGHT[how]()
    with environ.context(fit=False):
        assert said(lambda: norm(X)) == said(lambda: transform.jit(norm)(X)) == []


def test_it_is_not_said_while_the_values_are_unknown() -> None:
    """Within jax.jit nobody can see them later; a function that trains first is none of its own phase."""
    norm, other = fresh(), fresh()

    def train_and_evaluate(x: Any) -> Any:
        with environ.context(fit=True):
            other(x)
        return other(x)

    def compiled() -> None:
        jax.make_jaxpr(lambda x: norm(x * u.mV) / u.mV)(jnp.ones((2, 3)))

    import braindnorm

    with braindnorm.phase(fit=False):
        assert said(compiled) == []
        assert said(lambda: transform.jit(train_and_evaluate)(X)) == []
