"""Packages that are needed for some calls alone."""

from importlib import import_module
from typing import Any

from .errors import PackageError


def package(name: str) -> Any:
    """Import an optional package.

    Raises
    ------
    PackageError
        If it is not installed.
    """
    root = name.partition(".")[0]
    try:
        import_module(root)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        raise PackageError(f"this needs the package {root}, which is not installed: pip install {root}") from error
    return import_module(name)
