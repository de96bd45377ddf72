"""Turning the kernels on: once compiled, and with a word on why where they cannot be used."""

import os
import pwd
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import LayerNorm, cpu_kernels
from tests.support import reference
from tests.support.kernels import needs_compiler
from tests.support.norms import draw

pytestmark = pytest.mark.usefixtures("as_before")


def refused(because: str) -> None:
    """Expect that they are not used, and that the norms go on."""
    with pytest.warns(RuntimeWarning, match=because) as caught:
        assert not cpu_kernels.enable()
    assert caught[0].filename == __file__
    assert not cpu_kernels.enabled()
    assert re.search(because, cpu_kernels.status().reason)
    x = draw(3, 40)
    np.testing.assert_allclose(LayerNorm(40)(x), reference.layer_norm(x), rtol=1e-5, atol=1e-5)


def test_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    refused("they are for CPUs, and JAX computes on gpu here")


def test_without_a_compiler(nothing_loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused("'no-such-compiler' was not found. Install g")


def test_with_a_compiler_that_fails(nothing_loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho this is all wrong >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    refused("could not be compiled.*\n.*this is all wrong")
    assert list(tmp_path.rglob("*.so")) == []


def test_with_a_compiler_that_is_no_program(
    nothing_loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "c++"
    broken.write_text("no program")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    refused(r"could not be compiled: .*Exec format error.* Check the compiler '.*/c\+\+'\.")


def test_with_words_that_are_no_command(nothing_loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", 'ccache "g++')
    refused(r"""'ccache "g\+\+' was not found\.""")


def test_on_a_system_that_is_not_like_unix(nothing_loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "geteuid")
    refused("they are compiled on Linux and macOS alone")


@needs_compiler
def test_without_a_place_to_keep_them(nothing_loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused("could not be kept or loaded: .* Let the environment variable XDG_CACHE_HOME name")


@needs_compiler
@pytest.mark.parametrize("home", [None, "relative"])
def test_without_a_home(home: str | None, nothing_loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    refused("this user has no home folder. Let the environment variable XDG_CACHE_HOME name a folder of your own")


def stub(tmp_path: Path, source: str) -> Path:
    """Return a library that stands for the kernels'."""
    lines, library = tmp_path / "stub.c", tmp_path / "stub.so"
    lines.write_text(source)
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    include = jax.ffi.include_dir()
    subprocess.run([*compiler, "-shared", "-fPIC", "-I", include, str(lines), "-o", str(library)], check=True)
    return library


@needs_compiler
def test_with_a_library_that_lacks_a_kernel(nothing_loaded: None, copying: Any, tmp_path: Path) -> None:
    copying(stub(tmp_path, "int nothing;"))
    refused("could not be loaded: .*undefined symbol: braindnorm_forward. Check the compiler")


FORGED = """
#include "xla/ffi/api/c_api.h"
extern "C" XLA_FFI_Error* braindnorm_forward(XLA_FFI_CallFrame* frame) {
  XLA_FFI_Metadata* said = reinterpret_cast<XLA_FFI_Metadata_Extension*>(frame->extension_start)->metadata;
  said->api_version.major_version = 99;
  return nullptr;
}
extern "C" XLA_FFI_Error* braindnorm_backward(XLA_FFI_CallFrame* frame) { return braindnorm_forward(frame); }
extern "C" XLA_FFI_Error* braindnorm_forward_columns(XLA_FFI_CallFrame* frame) { return braindnorm_forward(frame); }
extern "C" XLA_FFI_Error* braindnorm_backward_columns(XLA_FFI_CallFrame* frame) { return braindnorm_forward(frame); }
"""


@needs_compiler
def test_with_a_library_for_another_jaxlib(nothing_loaded: None, copying: Any, tmp_path: Path) -> None:
    """It says that it was compiled for another version of XLA's foreign function interface."""
    copying(stub(tmp_path, FORGED))
    refused(r"(?s)jaxlib refuses the kernels: .*version.*99.* Install jax and jaxlib of the same release\.")


@needs_compiler
def test_it_takes_what_was_installed(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert cpu_kernels.enable()
    assert cpu_kernels.status().in_use


@needs_compiler
def test_on_and_off(installed: Path) -> None:
    x = jnp.asarray(draw(600, 400))

    def used() -> bool:
        return "@braindnorm_forward_v" in jax.jit(LayerNorm(400)).lower(x).as_text()

    assert cpu_kernels.enable()
    assert cpu_kernels.enabled()
    assert used()
    cpu_kernels.disable()
    assert not cpu_kernels.enabled()
    assert not used()


COMPILED: dict[str, tuple[Any, Any]] = {
    "jax": (jax.jit, lambda compiled: jax.clear_caches()),
    "brainstate": (brainstate.transform.jit, lambda compiled: compiled.clear_cache()),
}


@needs_compiler
@pytest.mark.parametrize("jit", COMPILED)
def test_what_was_compiled_keeps_its_kernels_until_it_is_cleared(jit: str, installed: Path) -> None:
    """As the docstring of `disable` says; their digits tell whether kernels are used."""
    compile, clear = COMPILED[jit]
    layer, x = LayerNorm(5000), jnp.asarray(draw(20, 5000, loc=-65, scale=0.01))
    cpu_kernels.disable()
    off = jax.jit(layer)(x)
    cpu_kernels.enable()
    compiled = compile(lambda x: layer(x))
    on = np.asarray(compiled(x))
    assert np.any(on != np.asarray(off))
    cpu_kernels.disable()
    np.testing.assert_array_equal(compiled(x), on)
    clear(compiled)
    np.testing.assert_array_equal(compiled(x), off)


@needs_compiler
def test_a_layer_follows_the_switch(installed: Path) -> None:
    """What braindnorm itself compiled before is not reused."""
    layer, x = LayerNorm(5000), jnp.asarray(draw(20, 5000, loc=-65, scale=0.01))
    cpu_kernels.disable()
    off = layer(x)
    cpu_kernels.enable()
    on = layer(x)
    cpu_kernels.disable()
    np.testing.assert_array_equal(layer(x), off)
    assert np.any(np.asarray(on) != np.asarray(off))


def run_alone(name: str, **environment: str) -> str:
    """Run a script of this folder in a process with one device, and return what it prints."""
    lines = Path(__file__).with_name(name).read_text()
    inherited = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", lines], env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_compiler
def test_a_simulation_in_a_process_with_one_device() -> None:
    """As a user has it: no test in between, a loop of brainstate's, and its gradient."""
    assert run_alone("simulation.py") == "the same\n"


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="a library is preloaded")
def test_without_memory_a_call_raises_and_the_process_goes_on(tmp_path: Path) -> None:
    """In tasks that run on XLA's threads as well, where what is thrown would end the process."""
    preloaded = stub(tmp_path, Path(__file__).with_name("refusing_malloc.cpp").read_text())
    assert run_alone("out_of_memory.py", LD_PRELOAD=str(preloaded)) == "it went on\n"
