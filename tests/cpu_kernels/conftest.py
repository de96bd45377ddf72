"""Compilers that are none, and a cache that is empty."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from braindnorm import cpu_kernels
from braindnorm.cpu_kernels import _library


@pytest.fixture
def off_afterwards() -> Iterator[None]:
    before = cpu_kernels.enabled()
    yield
    cpu_kernels._enabled = before


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch, off_afterwards: None) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture
def cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    home = tmp_path / "cache"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def nothing_loaded(one_device: None, cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process, with an empty cache."""
    monkeypatch.setattr(_library, "load", _library.load.__wrapped__)


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
