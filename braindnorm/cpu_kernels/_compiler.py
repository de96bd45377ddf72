"""Compile the kernels: with which compiler, what tells two results apart, and how."""

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jax

from ..errors import PackageError

SOURCE = Path(__file__).with_name("norm.cpp")
HEADERS = tuple(SOURCE.with_name(name) for name in ("lanes.h", "view.h", "rows.h", "slabs.h"))
# No -ffast-math: it would take NaN and infinity for impossible, and let denormals vanish in the whole process.
FLAGS = ("-std=c++17", "-O2", "-march=native", "-fno-math-errno", "-fno-trapping-math")


def compiler() -> list[str]:
    """Return the command that compiles: that of the environment variable CXX, which may have arguments, or c++.

    Raises
    ------
    PackageError
        If there is no such program.
    """
    named = os.environ.get("CXX", "").strip() or "c++"
    try:
        # a path may have a space in it, and "ccache g++" is two words
        command = [named] if shutil.which(named) else shlex.split(named)
    except ValueError:  # a quote that is not closed
        command = [named]
    if shutil.which(command[0]) is None:
        raise PackageError(
            f"the kernels need a C++ compiler, and {named!r} was not found. Install g++ or clang++, or name one in the"
            " environment variable CXX."
        )
    return command


def fingerprint(command: Sequence[str]) -> str:
    """Return what tells apart the libraries that compilers make of different sources, for different processors."""
    # what the compiler defines of itself tells its version and the processor's instructions apart
    machine = _run([*command, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    files = (SOURCE, *HEADERS, Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h"))
    parts = (machine, repr(FLAGS), *(file.read_text() for file in files))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def compile_library(command: Sequence[str], to: Path) -> None:
    """Compile the kernels into a library.

    Raises
    ------
    PackageError
        If the compiler fails; with what it said.
    """
    _run([*command, *FLAGS, "-shared", "-fPIC", "-I", jax.ffi.include_dir(), str(SOURCE), "-o", str(to)])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:  # such as a script without an interpreter
        raise PackageError(f"the kernels could not be compiled: {error}. Check the compiler {command[0]!r}.") from error
    if done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise PackageError(f"the kernels could not be compiled. {shlex.join(command)} said:\n{said}")
    return done.stdout
