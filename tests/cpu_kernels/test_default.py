"""The kernels as they come with the package: in use without a call, and no word said where they cannot be."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from braindnorm import LayerNorm, cpu_kernels
from braindnorm.cpu_kernels import _build, _library, _processor
from tests.cpu_kernels.test_enable import FORGED
from tests.support import reference
from tests.support.kernels import needs_compiler
from tests.support.norms import draw

pytestmark = needs_compiler

# what a user writes, and what it should give
USE = """
import numpy as np
from braindnorm import LayerNorm, cpu_kernels
x = np.random.default_rng(0).normal(2, 1, (300, 400)).astype(np.float32)
wide = x.astype(float)
wanted = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-6)
def used():
    y = LayerNorm(400)(x)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    return "kernels" if cpu_kernels.status().in_use else f"plain: {cpu_kernels.status().reason}"
"""


def run(*lines: str, folder: Path | None = None, **environment: str) -> str:
    """Run lines in a process with one device; return what it prints. It may say nothing else, on either stream."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "BRAINDNORM_KERNELS")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join((USE, *lines))],
        env=inherited | environment,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def installed_from(folder: Path) -> str:
    """Return the lines that have the library looked for in a folder."""
    return "\n".join(
        (
            "from pathlib import Path",
            "from braindnorm.cpu_kernels import _library",
            f"_library.FOLDER = Path({str(folder)!r})",
        )
    )


def test_they_are_in_use(installed: Path) -> None:
    assert run("print(used())", "print(cpu_kernels.status())") == f"kernels\nkernels in use: {installed}\n"


def test_they_are_opened_when_a_norm_is_called(installed: Path) -> None:
    """Not when the package is imported: a library that XLA refused then would take all of JAX on CPU with it."""
    lines = (
        "from pathlib import Path",
        "mapped = lambda: '/cpu_kernels/lib/kernels-' in Path('/proc/self/maps').read_text()",
        "print(mapped())",
        "used()",
        "print(mapped())",
    )
    assert run(*lines) == "False\nTrue\n"


def test_the_environment_switches_them_off(installed: Path) -> None:
    off = "the environment variable BRAINDNORM_KERNELS=0 switches them off."
    assert run("print(used())", BRAINDNORM_KERNELS="0") == f"plain: {off}\n"
    lines = (
        "import warnings",
        "with warnings.catch_warnings(record=True) as caught:",
        "    warnings.simplefilter('always')",
        "    print(cpu_kernels.enable(), caught[0].message)",
    )
    said = f"False cpu_kernels.enable(): {off} The norms go on without kernels.\n"
    assert run(*lines, BRAINDNORM_KERNELS="0") == said


def library_of(source: str, folder: Path) -> None:
    """Put a library in place of the one that is installed."""
    lines = folder / "source.cpp"
    lines.write_text(source)
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    library = folder / _build.installed_name()
    subprocess.run(
        [*compiler, "-shared", "-fPIC", "-I", jax.ffi.include_dir(), str(lines), "-o", str(library)], check=True
    )


def test_a_library_that_jaxlib_refuses(tmp_path: Path) -> None:
    """A canary: it says that it is of another version of XLA's interface. JAX goes on, and nothing is printed."""
    library_of(FORGED, tmp_path)
    said = run(installed_from(tmp_path), "print(used())", "import jax; print(jax.jit(lambda x: x + 1)(1.0))")
    assert said.startswith("plain: jaxlib refuses the kernels: ")
    assert "99" in said
    assert said.endswith("\n2.0\n")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "not a library": (lambda library: library.write_bytes(b"nothing"), "file too short"),
    "without handlers": (lambda library: library_of("int nothing;", library.parent), "undefined symbol"),
    "nothing there": (lambda library: None, "installed without kernels for this system"),
    "of other sources": (lambda library: library.with_name("kernels-0.so").touch(), "of other sources. Install"),
    "a folder": (lambda library: library.mkdir(), "installed without kernels|of other sources"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_without_a_library_that_works(case: str, nothing_installed: Path, recwarn: pytest.WarningsRecorder) -> None:
    make, because = BROKEN[case]
    make(nothing_installed / _build.installed_name())
    _goes_on_plain(because)
    assert not recwarn.list


def test_on_a_processor_that_lacks_an_instruction(
    nothing_installed: Path, installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is not opened: an instruction that is not known ends the process."""
    opened: list[Path] = []
    monkeypatch.setattr(_library, "handlers_of", opened.append)
    monkeypatch.setattr(_library, "FOLDER", installed.parent)
    monkeypatch.setattr(_processor, "CPUINFO", tmp_path / "cpuinfo")
    _processor.CPUINFO.write_text(
        "processor\t: 0\nflags\t\t: fpu avx bmi1 bmi2 f16c abm movbe\n\nprocessor\t: 1\nflags\t\t: avx2 fma\n"
    )
    _goes_on_plain("this processor lacks avx2, fma, and plain JAX is faster without")
    assert not opened


def test_a_processor_of_which_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_processor, "CPUINFO", tmp_path / "nothing")
    assert _processor.missing_instructions() == list(_processor.NEEDED)


def _goes_on_plain(because: str) -> None:
    x = draw(300, 400)
    np.testing.assert_allclose(LayerNorm(400)(x), reference.layer_norm(x), rtol=1e-5, atol=1e-5)
    assert "@braindnorm_" not in jax.jit(LayerNorm(400)).lower(x).as_text()
    status = cpu_kernels.status()
    assert (status.in_use, status.library) == (False, "")
    np.testing.assert_equal(bool(status.reason), True)
    assert any(part in status.reason for part in because.split("|")), status.reason
    assert str(status) == f"no kernels in use: {status.reason}"


def test_a_fork_after_use(installed: Path) -> None:
    """JAX computes nothing in a child, with kernels or without; but the child goes on, and so does the parent."""
    lines = (
        "import os, signal, warnings",
        "warnings.simplefilter('ignore')  # Python and JAX warn of the fork",
        "used()",
        "child = os.fork()",
        "if child == 0:",
        "    signal.alarm(60)",
        "    os._exit(int(np.sum(x)) == 0)",
        "print(os.waitpid(child, 0)[1], used())",
    )
    assert run(*lines) == "0 kernels\n"


def test_two_processes_at_once(installed: Path) -> None:
    lines = "\n".join((USE, "[used() for _ in range(5)]", "print(used())"))
    inherited = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "BRAINDNORM_KERNELS")}
    both = [
        subprocess.Popen([sys.executable, "-c", lines], env=inherited, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == ["kernels\n"] * 2


@pytest.mark.parametrize("cache", ["/proc/cache", "missing"])
def test_no_cache_is_needed(cache: str, installed: Path, tmp_path: Path) -> None:
    """As in a home that is mounted for reading alone: nobody can write to the first, whatever their rights."""
    found = run("print(used())", HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / cache), MPLCONFIGDIR=str(tmp_path))
    assert found == "kernels\n"
    assert list(tmp_path.rglob("braindnorm*")) == []


def test_the_names_that_programs_call_them_by_have_a_version(installed: Path) -> None:
    """A program that is kept in a file is never run with handlers that it was not compiled for."""
    text = jax.jit(LayerNorm(400)).lower(np.ones((300, 400), np.float32)).as_text()
    assert f"@braindnorm_forward_v{_library.VERSION}(" in text


def test_only_the_handlers_are_exported(installed: Path) -> None:
    """A C++ library that others could see might be taken for theirs."""
    shown = subprocess.run(["nm", "-D", "--defined-only", str(installed)], capture_output=True, text=True, check=True)
    assert {line.split()[-1] for line in shown.stdout.splitlines()} == set(_library.HANDLERS)
