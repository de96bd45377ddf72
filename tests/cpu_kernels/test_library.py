"""The compiled library: kept where nobody else can put one, and never opened unless it is whole."""

import errno
import os
import shlex
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from braindnorm.cpu_kernels import _library
from braindnorm.cpu_kernels._cache import is_whole, replacing
from braindnorm.errors import PackageError
from tests.cpu_kernels.conftest import Compiler
from tests.support.kernels import needs_compiler

pytestmark = needs_compiler

HANDLERS = {f"braindnorm_{name}" for name in ("forward", "backward", "forward_columns", "backward_columns")}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A library with handlers that do nothing: it is kept and opened as the real one is."""
    source, library = tmp_path / "small.cpp", tmp_path / "small.so"
    source.write_text("".join(f'extern "C" void {name}() {{}}\n' for name in sorted(HANDLERS)))
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    subprocess.run([*compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return library


@pytest.fixture
def compiler(small: Path, copying: Callable[[Path], Compiler], cache_home: Path) -> Compiler:
    return copying(small)


def kept(cache_home: Path) -> Path:
    (library,) = (cache_home / "braindnorm").iterdir()
    return library


def test_it_is_compiled_once_and_kept_for_this_user(compiler: Compiler, cache_home: Path) -> None:
    before = os.umask(0)
    try:
        assert set(_library.handlers_of(_library.compiled())) == HANDLERS
    finally:
        os.umask(before)
    assert set(_library.handlers_of(_library.compiled())) == HANDLERS
    assert compiler.compiled() == 1
    library = kept(cache_home)
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(library.stat().st_mode) == 0o700


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "the first page": lambda whole: whole[:4096],
    "half": lambda whole: whole[: len(whole) // 2],
    "no checksum": lambda whole: whole[:-32],
    "a bit": lambda whole: whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:],
    "longer": lambda whole: whole + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_not_whole_is_compiled_anew(
    damage: Callable[[bytes], bytes], compiler: Compiler, cache_home: Path
) -> None:
    """Opened, a library that lost its end kills the process (SIGBUS)."""
    _library.compiled()
    library = kept(cache_home)
    whole = library.read_bytes()
    library.unlink()  # another file: this process still uses the first
    library.write_bytes(damage(whole))
    library.chmod(0o700)
    assert set(_library.handlers_of(_library.compiled())) == HANDLERS
    assert compiler.compiled() == 2
    assert library.read_bytes() == whole


def _move_away(library: Path) -> None:
    elsewhere = library.parent.parent / "planted.so"
    library.rename(elsewhere)
    library.symlink_to(elsewhere)


PLANTED: dict[str, Callable[[Path], None]] = {
    "others can write": lambda library: library.chmod(0o702),
    "a group can write": lambda library: library.chmod(0o720),
    "a link": _move_away,
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_what_another_user_may_have_put_there_is_compiled_anew(
    plant: Callable[[Path], None], compiler: Compiler, cache_home: Path
) -> None:
    _library.compiled()
    library = kept(cache_home)
    plant(library)
    assert set(_library.handlers_of(_library.compiled())) == HANDLERS
    assert compiler.compiled() == 2
    assert not library.is_symlink()
    assert stat.S_IMODE(library.stat().st_mode) == 0o700


def test_one_of_another_user_is_not_opened(
    compiler: Compiler, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _library.compiled()
    assert is_whole(kept(cache_home))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert not is_whole(kept(cache_home))


def test_a_whole_one_that_cannot_be_opened_is_compiled_anew(small: Path, compiler: Compiler, cache_home: Path) -> None:
    """Such as one that needs a C++ library that this machine no longer has."""
    good = small.read_bytes()
    small.write_bytes(b"not a library")
    with pytest.raises(OSError, match=r"file too short|invalid ELF header"):
        _library.compiled()
    assert list((cache_home / "braindnorm").iterdir()) == []  # refused now, and not for good
    library = _library.private_folder() / f"norm-{_library.fingerprint(_library.compiler())}.so"
    with replacing(library) as made:
        made.write_bytes(b"not a library")
    assert is_whole(library)
    small.write_bytes(good)
    assert set(_library.handlers_of(_library.compiled())) == HANDLERS
    assert compiler.compiled() == 2


def refused(because: str) -> None:
    with pytest.raises(PackageError, match=f"the kernels cannot be kept: .*{because}.*XDG_CACHE_HOME name a folder of"):
        _library.compiled()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(mode: int, compiler: Compiler, cache_home: Path) -> None:
    folder = cache_home / "braindnorm"
    folder.mkdir()
    folder.chmod(mode)
    refused(r"other users can write to .*/braindnorm\. Take that right away \(chmod go-w\)")
    assert compiler.compiled() == 0


def test_a_folder_that_others_can_read_is_closed(compiler: Compiler, cache_home: Path) -> None:
    folder = cache_home / "braindnorm"
    folder.mkdir(mode=0o755)
    _library.compiled()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_library_is_found_where_nothing_can_be_written(
    compiler: Compiler, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a home that is mounted for reading alone, where a change of mode fails even if it changes nothing."""

    def read_only(path: Path, mode: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    _library.compiled()
    monkeypatch.setattr(Path, "chmod", read_only)
    assert set(_library.handlers_of(_library.compiled())) == HANDLERS
    assert compiler.compiled() == 1


def test_a_folder_of_another_user_is_refused(
    compiler: Compiler, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache_home / "braindnorm").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    refused("belongs to another user")


def test_a_link_in_place_of_the_folder_is_refused(compiler: Compiler, cache_home: Path, tmp_path: Path) -> None:
    (cache_home / "braindnorm").symlink_to(tmp_path)
    refused(r"braindnorm is not a folder\. Remove it\.")


def test_a_place_where_others_may_exchange_the_folder_is_refused(compiler: Compiler, cache_home: Path) -> None:
    cache_home.chmod(0o777)
    refused("other users can write to .*/cache")
    cache_home.chmod(0o1777)  # as /tmp is: what is there belongs to who made it
    assert set(_library.handlers_of(_library.compiled())) == HANDLERS


def test_a_relative_cache_home_is_ignored(compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    _library.compiled()
    assert not (tmp_path / "relative").exists()
    assert kept(tmp_path / "home" / ".cache").suffix == ".so"


def test_a_wrapper_before_the_compiler(compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in CXX="ccache g++"; and a path with a space in it."""
    wrapper = tmp_path / "ccache"
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", f"{wrapper} {compiler.command} -pipe")
    assert set(_library.handlers_of(_library.compiled())) == HANDLERS
    assert compiler.compiled() == 1
    spaced = tmp_path / "a b" / "c++"
    spaced.parent.mkdir()
    compiler.command.rename(spaced)
    monkeypatch.setenv("CXX", str(spaced))
    assert set(_library.handlers_of(_library.compiled())) == HANDLERS
