"""Compilers that are none, and a cache that is empty."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from braindnorm import cpu_kernels
from braindnorm.cpu_kernels import _build, _library


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the kernels are switched off is afterwards what it was."""
    monkeypatch.setattr(cpu_kernels, "_off", cpu_kernels._off)


@pytest.fixture(scope="session")
def installed() -> Path:
    """The library of an installation, which is put there if need be."""
    return _build.install_beside_sources()


@pytest.fixture
def cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    home = tmp_path / "cache"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def nothing_installed(as_before: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As in a new process, where no library was installed; returns the folder in which one is looked for."""
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.setattr(_library, "FOLDER", folder)
    monkeypatch.setattr(_library, "_loaded", None)
    monkeypatch.setattr(_library, "_refused", None)
    return folder


@pytest.fixture
def nothing_loaded(nothing_installed: Path, cache_home: Path) -> None:
    """The same, and no library is kept."""


class Compiler(NamedTuple):
    """A script that is called as a compiler is, and copies a library."""

    command: Path
    calls: Path

    def compiled(self) -> int:
        """Return how often it made a library."""
        return len(self.calls.read_text().split()) if self.calls.exists() else 0


@pytest.fixture
def copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Compiler]:
    """Make the compiler of this test one that only copies what it is given."""

    def compiler(library: Path) -> Compiler:
        command, calls = tmp_path / "copying-c++", tmp_path / "calls"
        lines = (
            "#!/bin/sh",
            'case "$*" in *-dM*) exit 0;; esac',
            f"echo called >> '{calls}'",
            "for target; do :; done",
            f"cp '{library}' \"$target\"",
        )
        command.write_text("\n".join(lines) + "\n")
        command.chmod(0o755)
        monkeypatch.setenv("CXX", str(command))
        return Compiler(command, calls)

    return compiler
