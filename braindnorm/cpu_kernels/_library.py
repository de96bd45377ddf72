"""Find the kernels' library, or have it compiled, and make it known to XLA: once in a process."""

import ctypes
import functools
from typing import Any

import jax

from ..errors import PackageError
from ._cache import is_whole, private_folder, replacing
from ._compiler import compile_library, compiler, fingerprint

HANDLERS = ("braindnorm_forward", "braindnorm_backward")


@functools.cache
def load() -> None:
    """Register the kernels with XLA.

    It starts JAX's backend: a library that XLA refuses is refused here and now. Registered before that, it would take
    all of JAX on the CPU with it.

    Raises
    ------
    PackageError
        If there is no compiler, or it fails; if what it makes cannot be kept or loaded; or if XLA does not take it.
    """
    try:
        found = handlers()
    except OSError as error:
        raise PackageError(
            f"the kernels could not be kept or loaded: {error}. Let the environment variable XDG_CACHE_HOME name a"
            " folder for programs that can be written."
        ) from error
    jax.devices("cpu")
    for name, handler in found.items():
        try:
            jax.ffi.register_ffi_target(name, handler, platform="cpu")
        except jax.errors.JaxRuntimeError as error:
            raise PackageError(
                f"jaxlib refuses the kernels: {error}. Install jax and jaxlib of the same release."
            ) from error


def handlers() -> dict[str, Any]:
    """Return the handlers by name, of a library compiled earlier if there is one that is whole and can be loaded.

    Raises
    ------
    PackageError, OSError
        If there is none, and none can be compiled, kept or loaded.
    """
    command = compiler()
    library = private_folder() / f"norm-{fingerprint(command)}.so"
    if is_whole(library):
        try:
            return _handlers_of(str(library))
        except (PackageError, OSError):
            pass  # such as one that needs what this machine no longer has: compiled anew
    try:
        with replacing(library) as made:
            compile_library(command, made)
        return _handlers_of(str(library))
    except (PackageError, OSError):
        library.unlink(missing_ok=True)
        raise


def _handlers_of(library: str) -> dict[str, Any]:
    opened = ctypes.CDLL(library)
    try:
        return {name: jax.ffi.pycapsule(getattr(opened, name)) for name in HANDLERS}
    except AttributeError as error:
        raise PackageError(
            f"the kernels could not be loaded: {error}. Check the compiler that the environment variable CXX names."
        ) from error
