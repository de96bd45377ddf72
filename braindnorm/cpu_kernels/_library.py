"""Find the kernels' library, or have it compiled, and make it known to XLA: once in a process."""

import ctypes
import os
import threading
from pathlib import Path
from typing import Any

import jax

from ..errors import PackageError
from . import _build
from ._cache import is_whole, private_folder, replacing
from ._compiler import compile_library, compiler, fingerprint
from ._processor import missing_instructions

HANDLERS = (
    "braindnorm_forward",
    "braindnorm_backward",
    "braindnorm_forward_columns",
    "braindnorm_backward_columns",
)
# Of what the handlers take and return. It is a part of the names by which programs call them: JAX keeps compiled
# programs in files, and a program of an earlier release must not find a handler that it does not know how to call.
VERSION = 4

FOLDER = _build.INSTALLED  # where an installation puts its library
_lock = threading.Lock()
_loaded: Path | None = None  # what XLA knows, for as long as the process lives
_refused: str | None = None  # why the library that was installed is not in use, once that was tried


def target(handler: str) -> str:
    """Return the name by which a program calls a handler."""
    return f"{handler}_v{VERSION}"


def loaded() -> Path | None:
    """Return the library that is in use."""
    return _loaded


def ready() -> bool:
    """Tell whether the kernels can be called; the first time, take the library that was installed if there is one."""
    return _loaded is not None or (_refused is None and load_installed() is None)


def load_installed() -> str | None:
    """Register the library that was installed; return why it cannot be used. It is tried once in a process.

    It starts JAX's backend: a library that XLA refuses is refused here and now. Registered before that, it would take
    all of JAX on the CPU with it.
    """
    global _refused
    with _lock:
        if _loaded is None and _refused is None:
            try:
                _register(_installed())
            except Exception as error:  # whatever it is: the norms run by plain JAX
                _refused = str(error) or repr(error)
        return None if _loaded is not None else _refused


def load() -> None:
    """Register the kernels with XLA: those that were installed, or else those that a compiler makes here.

    It starts JAX's backend.

    Raises
    ------
    PackageError
        If there is no compiler, or it fails; if what it makes cannot be kept or loaded; or if XLA does not take it.
    """
    global _refused
    if load_installed() is None:
        return
    with _lock:
        try:
            _register(compiled())
        except OSError as error:
            _refused = (
                f"the kernels could not be kept or loaded: {error}. Let the environment variable XDG_CACHE_HOME name a"
                " folder for programs that can be written."
            )
            raise PackageError(_refused) from error
        except PackageError as error:
            _refused = str(error)
            raise


def _register(library: Path) -> None:
    """Make the handlers of a library known to XLA."""
    global _loaded
    handlers = handlers_of(library)
    jax.devices("cpu")
    for name, handler in handlers.items():
        try:
            jax.ffi.register_ffi_target(target(name), handler, platform="cpu")
        except jax.errors.JaxRuntimeError as error:
            raise PackageError(
                f"jaxlib refuses the kernels: {error}. Install jax and jaxlib of the same release."
            ) from error
    _loaded = library


def _installed() -> Path:
    """Return the library that was installed with the package, if this processor can run it."""
    library = FOLDER / _build.installed_name()
    if not library.is_file():
        stale = any(FOLDER.glob("kernels-*.so"))
        raise PackageError(
            "the library that was installed is of other sources. Install braindnorm again."
            if stale
            else "braindnorm was installed without kernels for this system. cpu_kernels.enable() compiles them."
        )
    lacking = missing_instructions()
    if lacking:
        raise PackageError(f"this processor lacks {', '.join(lacking)}, and plain JAX is faster without.")
    return library


def compiled() -> Path:
    """Return a library for this machine: one compiled earlier if there is one that is whole and can be loaded.

    Raises
    ------
    PackageError, OSError
        If there is none, and none can be compiled, kept or loaded.
    """
    if not hasattr(os, "geteuid"):
        raise PackageError("they are compiled on Linux and macOS alone.")
    command = compiler()
    library = private_folder() / f"norm-{fingerprint(command)}.so"
    if is_whole(library):
        try:
            handlers_of(library)
            return library
        except (PackageError, OSError):
            pass  # such as one that needs what this machine no longer has: compiled anew
    try:
        with replacing(library) as made:
            compile_library(command, made)
        handlers_of(library)
        return library
    except (PackageError, OSError):
        library.unlink(missing_ok=True)
        raise


def handlers_of(library: Path) -> dict[str, Any]:
    """Open a library, and return its handlers by name.

    Raises
    ------
    PackageError, OSError
        If it lacks one, or cannot be opened.
    """
    opened = ctypes.CDLL(str(library))
    try:
        return {name: jax.ffi.pycapsule(getattr(opened, name)) for name in HANDLERS}
    except AttributeError as error:
        raise PackageError(
            f"the kernels could not be loaded: {error}. Check the compiler that the environment variable CXX names."
        ) from error
