"""Compile the kernels and make them known to XLA: once on a machine, and once in a process."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax

from ..errors import PackageError

SOURCE = Path(__file__).with_name("norm.cpp")
HEADERS = tuple(SOURCE.with_name(name) for name in ("lanes.h", "view.h", "rows.h", "slabs.h"))
HANDLERS = ("braindnorm_forward", "braindnorm_backward")
# No -ffast-math: it would take NaN and infinity for impossible, and let denormals vanish in the whole process.
FLAGS = ("-std=c++17", "-O2", "-march=native", "-fno-math-errno", "-fno-trapping-math")


@functools.cache
def load() -> None:
    """Compile the kernels, unless such a machine has done it before, and register them with XLA.

    Raises
    ------
    PackageError
        If there is no compiler, or it fails; or if what it makes cannot be kept or loaded.
    """
    try:
        library = ctypes.CDLL(str(_compiled(os.environ.get("CXX") or "c++")))
    except OSError as error:
        raise PackageError(
            f"the kernels could not be kept or loaded: {error}. Let the environment variable XDG_CACHE_HOME name a"
            " folder for programs that can be written."
        ) from error
    for handler in HANDLERS:
        jax.ffi.register_ffi_target(handler, jax.ffi.pycapsule(getattr(library, handler)), platform="cpu")


def _compiled(compiler: str) -> Path:
    """Return where the compiled kernels lie."""
    if shutil.which(compiler) is None:
        raise PackageError(
            f"the kernels need a C++ compiler, and {compiler!r} is none that can be found. Install g++ or clang++, or"
            " name one in the environment variable CXX."
        )
    # what the compiler defines of itself tells its version and the processor's instructions apart
    machine = _run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    includes = jax.ffi.include_dir()
    files = (SOURCE, *HEADERS, Path(includes, "xla/ffi/api/c_api.h"))
    parts = (machine, repr(FLAGS), *(file.read_text() for file in files))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "braindnorm"
    library = folder / f"norm-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as here:
            made = Path(here, library.name)
            _run([compiler, *FLAGS, "-shared", "-fPIC", "-I", includes, str(SOURCE), "-o", str(made)])
            made.replace(library)  # at once, whoever else compiles it too
    return library


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PackageError(f"the kernels could not be compiled. {' '.join(command)} said:\n{done.stderr.strip()}")
    return done.stdout
