"""Turning the kernels on: once compiled, and with a word on why where they cannot be used."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import LayerNorm, cpu_kernels
from braindnorm.cpu_kernels import _library
from tests.support import reference
from tests.support.kernels import needs_compiler
from tests.support.norms import draw


@pytest.fixture(autouse=True)
def off_afterwards() -> Iterator[None]:
    before = cpu_kernels.enabled()
    yield
    cpu_kernels._enabled = before


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture
def nothing_loaded(one_device: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a new process, with an empty cache."""
    monkeypatch.setattr(_library, "load", _library.load.__wrapped__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def refused(because: str) -> None:
    """Expect that they are not used, and that the norms go on."""
    with pytest.warns(RuntimeWarning, match=because) as caught:
        assert not cpu_kernels.enable()
    assert caught[0].filename == __file__
    assert not cpu_kernels.enabled()
    x = draw(3, 40)
    np.testing.assert_allclose(LayerNorm(40)(x), reference.layer_norm(x), rtol=1e-5, atol=1e-5)


def test_on_several_devices() -> None:
    refused("JAX has 8 devices here")


def test_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    refused("they are for CPUs, and JAX computes on gpu here")


def test_without_a_compiler(nothing_loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused("'no-such-compiler' is none that can be found. Install")


def test_with_a_compiler_that_fails(nothing_loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho this is all wrong >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    refused("could not be compiled.*\n.*this is all wrong")
    assert list(tmp_path.rglob("*.so")) == []


@needs_compiler
def test_without_a_place_to_keep_them(nothing_loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused("could not be kept or loaded: .* Let the environment variable XDG_CACHE_HOME name")


@needs_compiler
def test_on_and_off(one_device: None) -> None:
    x = jnp.asarray(draw(600, 400))

    def used() -> bool:
        return "@braindnorm_forward" in jax.jit(LayerNorm(400)).lower(x).as_text()

    assert cpu_kernels.enable()
    assert cpu_kernels.enabled()
    assert used()
    cpu_kernels.disable()
    assert not cpu_kernels.enabled()
    assert not used()


@needs_compiler
def test_a_layer_follows_the_switch(one_device: None) -> None:
    """What braindnorm itself compiled before is not reused."""
    layer, x = LayerNorm(5000), jnp.asarray(draw(20, 5000, loc=-65, scale=0.01))
    off = layer(x)
    cpu_kernels.enable()
    on = layer(x)
    cpu_kernels.disable()
    np.testing.assert_array_equal(layer(x), off)
    assert np.any(np.asarray(on) != np.asarray(off))


@needs_compiler
def test_compiled_once_on_a_machine(one_device: None) -> None:
    compiler = os.environ.get("CXX") or "c++"
    library = _library._compiled(compiler)
    written = library.stat().st_mtime_ns
    assert _library._compiled(compiler) == library
    assert library.stat().st_mtime_ns == written


@needs_compiler
def test_a_simulation_in_a_process_with_one_device() -> None:
    """As a user has it: no test in between, a loop of brainstate's, and its gradient."""
    lines = Path(__file__).with_name("simulation.py").read_text()
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done: Any = subprocess.run(
        [sys.executable, "-W", "error", "-c", lines], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["the", "same"]
