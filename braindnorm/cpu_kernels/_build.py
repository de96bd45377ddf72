"""Compile the kernels' library. It needs the standard library alone, since it also runs where nothing is installed.

``python braindnorm/cpu_kernels/_build.py`` puts the library beside the sources, as an installation does, and says so;
or says why it does not.
"""

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE, INCLUDE = HERE / "norm.cpp", HERE / "include"
# where an installation puts the library; beside modules it would be taken for one
INSTALLED = HERE / "lib"
# No -ffast-math: it would take NaN and infinity for impossible, and let denormals vanish in the whole process.
FLAGS = ("-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-fvisibility-inlines-hidden", "-w")
# What a library is compiled for that is installed. Machines without these instructions go without: with fewer of them
# the kernels are slower than plain JAX.
PROCESSORS = {"x86_64": "x86-64-v3"}
# A library that is loaded beside others shows its handlers alone: no C++ library that would be taken for another one.
EXPORTS = "{ global: braindnorm_*; local: *; };\n"
SMALL = ("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-s")
POLICY = (2, 28)  # of manylinux_2_28: the newest glibc that its libraries may ask for


class BuildError(Exception):
    """The library cannot be compiled here."""


def sources() -> tuple[Path, ...]:
    """Return all files that the library is made of."""
    return (*sorted(HERE.glob("*.cpp")), *sorted(HERE.glob("*.h")), *sorted(INCLUDE.rglob("*.h")))


def digest(*parts: str) -> str:
    """Return what tells apart libraries of different sources; and of different `parts`."""
    text = (repr(FLAGS), repr(SMALL), EXPORTS, *parts, *(file.read_text() for file in sources()))
    return hashlib.sha256("\0".join(text).encode()).hexdigest()[:16]


def installed_name() -> str:
    """Return the name of the library that is installed; it tells whether it was made of these sources."""
    return f"kernels-{digest()}.so"


def compiler() -> list[str]:
    """Return the command that compiles: that of the environment variable CXX, which may have arguments, or c++.

    Raises
    ------
    BuildError
        If there is no such program.
    """
    named = os.environ.get("CXX", "").strip() or "c++"
    try:
        # a path may have a space in it, and "ccache g++" is two words
        command = [named] if shutil.which(named) else shlex.split(named)
    except ValueError:  # a quote that is not closed
        command = [named]
    if shutil.which(command[0]) is None:
        raise BuildError(
            f"the kernels need a C++ compiler, and {named!r} was not found. Install g++ or clang++, or name one in the"
            " environment variable CXX."
        )
    return command


def compile_library(command: Sequence[str], to: Path, include: Path, *flags: str) -> None:
    """Compile the kernels into a library, with the headers of XLA's foreign function interface in a folder.

    Raises
    ------
    BuildError
        If the compiler fails; with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        exports = Path(folder, "exports.map")
        exports.write_text(EXPORTS)
        script = [f"-Wl,--version-script={exports}"] if sys.platform == "linux" else []
        run([*command, *FLAGS, *flags, *script, "-shared", "-fPIC", "-I", str(include), str(SOURCE), "-o", str(to)])


def compile_for_installation(to: Path) -> None:
    """Compile the library that is installed, for every processor of a kind and without a C++ library of the system's.

    Raises
    ------
    BuildError
        If there is no compiler or it fails, or if there are no kernels for this system or processor.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in PROCESSORS:
        raise BuildError(
            f"there are kernels for Linux on {', '.join(PROCESSORS)}; this is {sys.platform} on {machine}."
        )
    command, processor = compiler(), PROCESSORS[machine]
    if "ziglang" in command:  # a cross compiler, which has other names for processors and its C++ library inside
        glibc = ".".join(map(str, POLICY))
        flags = [f"-mcpu={processor.replace('-', '_')}", "-target", f"{machine}-linux-gnu.{glibc}"]
    else:
        flags = [f"-march={processor}", "-static-libstdc++", "-static-libgcc"]
    compile_library(command, to, INCLUDE, *flags, *SMALL)


def platform_tag(library: Path) -> str:
    """Return the platform that a wheel with this library is for: all of a policy, or this machine's like alone."""
    content, machine = library.read_bytes(), platform.machine()
    asked = {(int(a), int(b)) for a, b in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", content)}
    within = b"\0libstdc++.so" not in content and max(asked, default=(0, 0)) <= POLICY
    return f"manylinux_{POLICY[0]}_{POLICY[1]}_{machine}" if within else f"linux_{machine}"


def install_beside_sources() -> Path:
    """Put the library where an editable installation looks for it, in place of earlier ones; return its path.

    Raises
    ------
    BuildError
        If it cannot be compiled.
    """
    library = INSTALLED / installed_name()
    INSTALLED.mkdir(exist_ok=True)
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=INSTALLED) as folder:
            made = Path(folder, library.name)
            compile_for_installation(made)
            made.replace(library)  # at once, whoever imports the package now
    for other in INSTALLED.glob("kernels-*.so"):
        if other != library:
            other.unlink(missing_ok=True)
    return library


def run(command: Sequence[str]) -> str:
    """Return what a compiler prints.

    Raises
    ------
    BuildError
        If it fails; with what it said.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:  # such as a script without an interpreter
        raise BuildError(f"the kernels could not be compiled: {error}. Check the compiler {command[0]!r}.") from error
    if done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise BuildError(f"the kernels could not be compiled. {shlex.join(command)} said:\n{said}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(f"kernels: {install_beside_sources()}")
    except BuildError as error:
        print(f"no kernels: {error} The norms run by plain JAX.")
