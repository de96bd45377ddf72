"""Keep a compiled library for later processes, where nobody else can put one, and tell whether it is still whole.

A library is followed by its checksum, in the same file: the loader does not look beyond the end of a library. What lost
its end, in a crash or on a full disk, would otherwise end the process that reads from it with SIGBUS.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import PackageError

_CURE = "Let the environment variable XDG_CACHE_HOME name a folder of your own."


def private_folder() -> Path:
    """Return the folder for libraries, which is made if it is missing, and which this user alone can write to.

    Raises
    ------
    PackageError
        If there is no place for it, or another user could put a library there.
    OSError
        If it cannot be made.
    """
    folder = _cache_home() / "braindnorm"
    folder.parent.mkdir(parents=True, exist_ok=True)
    above = folder.parent.stat()
    _refuse_foreign(folder.parent, above.st_uid in (0, os.geteuid()), above.st_mode & 0o1002 == 0o002)  # /tmp is fine
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise PackageError(f"the kernels cannot be kept: {folder} is not a folder. Remove it. {_CURE}")
    _refuse_foreign(folder, status.st_uid == os.geteuid(), bool(status.st_mode & 0o022))
    if stat.S_IMODE(status.st_mode) != 0o700:  # it may lie where nothing can be changed, with a library in it
        folder.chmod(0o700)
    return folder


def _cache_home() -> Path:
    """Return where programs keep what they can make again, as the XDG base directory specification has it."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # the specification: a relative path is invalid, and to be ignored
        return named
    with contextlib.suppress(RuntimeError):
        home = Path.home()
        if home.is_absolute():
            return home / ".cache"
    raise PackageError(f"the kernels cannot be kept: this user has no home folder. {_CURE}")


def _refuse_foreign(folder: Path, owned: bool, shared: bool) -> None:
    """Refuse a folder where others may exchange what is in it: the code in it would run with this user's rights."""
    if not owned:
        raise PackageError(f"the kernels cannot be kept: {folder} belongs to another user. {_CURE}")
    if shared:
        raise PackageError(
            f"the kernels cannot be kept: other users can write to {folder}. Take that right away (chmod go-w), after a"
            f" look at what is in it. {_CURE}"
        )


def is_whole(library: Path) -> bool:
    """Tell whether there is a library of this user's that is as it was when it was kept."""
    try:
        file = os.open(library, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    with open(file, "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return False
        content = opened.read()
    size = hashlib.sha256().digest_size
    return len(content) > size and hashlib.sha256(content[:-size]).digest() == content[-size:]


@contextlib.contextmanager
def replacing(library: Path) -> Iterator[Path]:
    """Give a path to write a library to, which is kept afterwards, with its checksum: all of it at once, or nothing."""
    with tempfile.TemporaryDirectory(dir=library.parent) as here:
        made, sealed = Path(here, library.name), Path(here, "sealed")
        yield made
        content = made.read_bytes()
        with open(os.open(sealed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "wb") as file:
            file.write(content + hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        sealed.replace(library)  # at once, whoever else compiles it too
    folder = os.open(library.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name as well as the content
    finally:
        os.close(folder)
