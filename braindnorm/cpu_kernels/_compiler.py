"""Compile the kernels for the machine at hand, and tell apart the libraries that compilers make for different ones."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax

from ..errors import PackageError
from . import _build

NATIVE = "-march=native"


def compiler() -> list[str]:
    """Return the command that compiles: that of the environment variable CXX, which may have arguments, or c++.

    Raises
    ------
    PackageError
        If there is no such program.
    """
    try:
        return _build.compiler()
    except _build.BuildError as error:
        raise PackageError(str(error)) from error


def fingerprint(command: Sequence[str]) -> str:
    """Return what tells apart the libraries that compilers make of different sources, for different processors.

    Raises
    ------
    PackageError
        If the compiler fails.
    """
    try:
        # what the compiler defines of itself tells its version and the processor's instructions apart
        machine = _build.run([*command, *_build.FLAGS, NATIVE, "-dM", "-E", "-x", "c++", os.devnull])
    except _build.BuildError as error:
        raise PackageError(str(error)) from error
    return _build.digest(machine, Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h").read_text())


def compile_library(command: Sequence[str], to: Path) -> None:
    """Compile the kernels into a library, with the headers of the jaxlib that is installed.

    Raises
    ------
    PackageError
        If the compiler fails; with what it said.
    """
    try:
        _build.compile_library(command, to, Path(jax.ffi.include_dir()), NATIVE)
    except _build.BuildError as error:
        raise PackageError(str(error)) from error
