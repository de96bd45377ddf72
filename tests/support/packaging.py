"""Build sdist and wheels, and use each wheel as a stranger would: in an environment of its own, without extras.

``python -m tests.support.packaging`` (or ``make package``). It needs `build`, `twine` and a package registry, and
`auditwheel` on Linux. There are two wheels: one with kernels for this platform, and a pure one for all others. With
`ziglang` installed, or what CXX names, the first is for all of manylinux_2_28; else for this machine's like.
"""

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copy

from benchmarks import import_time

ROOT = Path(__file__).resolve().parents[2]
# a user's file: with --strict, mypy has to know every name, and to see each mistake
USER = """
import jax.numpy as jnp
import numpy as np
from braindnorm import GroupNorm, LayerNorm, RMSNorm, functional, masks, step_mask
from braindnorm.errors import NormError

layer: LayerNorm = LayerNorm(4, use_fast_variance=False)
valid = masks.from_lengths([1, 2], 2)
print(layer(jnp.ones((2, 2, 4)), mask=valid[..., None]).shape)
print(RMSNorm(4).in_size, GroupNorm(4, num_groups=2).num_groups)
print(functional.moments(jnp.arange(4.0)).mean)
result = layer([1.0, 2.0, 3.0, 4.0], mask=[1, 1, 0, 1])
functional.divisive_norm(result, pool=jnp.eye(4), mask=True)
print(result.shape, layer.epsilon, layer.unit is None)
LayerNorm((np.int64(2), 4), unit=None if layer.unit is None else layer.unit, dtype="float32")
with step_mask(None):
    pass
assert issubclass(NormError, Exception)
"""
KERNELS = """
import jax
import jax.numpy as jnp
from braindnorm import cpu_kernels, functional
x = jnp.ones((512, 512))
assert not jnp.any(functional.layer_norm(x))
print("@braindnorm_" in jax.jit(functional.layer_norm).lower(x).as_text(), cpu_kernels.status())
"""
MISTAKES = """
from braindnorm import DivisiveNorm, LayerNorm, OverTime, functional, masks
LayerNorm(4, use_fast_variance="no")
LayerNorm(4, epsilom=1.0)
LayerNorm(4, masked_output="zeros")
LayerNorm("4")
LayerNorm(4, unit="mV")
LayerNorm(4)([1.0], mask="abc")
LayerNorm(4)([1.0], mask=0.5)
LayerNorm(4)("abc")
LayerNorm(4)([1.0], masks=None)
OverTime(4)
DivisiveNorm(4, pool="max")
masks.from_lengths([1, 2], 2.5)
functional.layer_norm([1.0], masked_output="zeros")
functional.moments([1.0]).median
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site-packages", help="add this directory to the environment, instead of installing there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy what was built, and passed, to this folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _kept(Path(folder), given.keep):
        work = Path(folder)
        sdist = _build_sdist(work / "dist")
        for kernels in (True, False):
            place = work / ("kernels" if kernels else "pure")
            wheel = _build_wheel(sdist, place / "dist", kernels=kernels)
            python = _install(place / "venv", wheel, given.site_packages)
            _use(python, place, kernels=kernels)
            _check_import_time(python, place)
            print(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} kB, built, installed, used.")


@contextmanager
def _kept(work: Path, keep: Path | None) -> Iterator[None]:
    """Copy the packages to the folder `keep`, once all is well."""
    yield
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        for pattern in ("dist/*.tar.gz", "dist/*.whl"):
            for package in work.rglob(pattern):
                copy(package, keep)


def _sources() -> set[str]:
    """Return what has to be in all that is built."""
    inside = [path for path in (ROOT / "braindnorm").rglob("*") if path.suffix in (".py", ".cpp", ".h")]
    return {str(path.relative_to(ROOT)) for path in inside} | {
        "braindnorm/py.typed",
        "braindnorm/cpu_kernels/include/NOTICE",
    }


def _build_sdist(dist: Path) -> Path:
    _run(sys.executable, "-m", "build", "--sdist", "--outdir", str(dist), str(ROOT))
    (sdist,) = dist.glob("*.tar.gz")
    _run(sys.executable, "-m", "twine", "check", "--strict", str(sdist))
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    expected = {"pyproject.toml", "hatch_build.py", "README.md", "CHANGELOG.md", "tests/conftest.py"}
    assert _sources() | expected <= packed, (_sources() | expected) - packed
    assert not [name for name in packed if name.endswith(".so")]
    return sdist


def _build_wheel(sdist: Path, dist: Path, *, kernels: bool) -> Path:
    """Build a wheel from the sdist; look into it."""
    environment = {"BRAINDNORM_KERNELS": "required" if kernels else "0"}
    if kernels and importlib.util.find_spec("ziglang"):
        environment.setdefault("CXX", f"{shlex.quote(sys.executable)} -m ziglang c++")
    with tarfile.open(sdist) as archive:
        archive.extractall(dist.parent / "unpacked", filter="data")
    (unpacked,) = (dist.parent / "unpacked").iterdir()
    command = (sys.executable, "-m", "build", "--wheel", "--outdir", str(dist), str(unpacked))
    _run(*command, environment=environment)
    (wheel,) = dist.glob("*.whl")
    _run(sys.executable, "-m", "twine", "check", "--strict", str(wheel))
    files = set(zipfile.ZipFile(wheel).namelist())
    assert _sources() <= files, _sources() - files
    others = sorted(file for file in files - _sources() if ".dist-info/" not in file)
    pattern = r"braindnorm/cpu_kernels/lib/kernels-[0-9a-f]{16}\.so"
    assert len(others) == kernels, others
    assert all(re.fullmatch(pattern, file) for file in others), others
    assert any(file.endswith("licenses/LICENSE") for file in files)
    (version,) = re.findall(r'__version__ = "(.*)"', (ROOT / "braindnorm/__init__.py").read_text())
    assert wheel.name.startswith(f"braindnorm-{version}-py3-none-"), wheel.name
    _check_platform(wheel, kernels=kernels)
    return wheel


def _check_platform(wheel: Path, *, kernels: bool) -> None:
    """Hold the wheel to what its name says of the platforms it is for."""
    if not kernels:
        assert wheel.name.endswith("-none-any.whl"), wheel.name
        return
    said = " ".join(_run(sys.executable, "-m", "auditwheel", "show", str(wheel)).split())
    print(said)
    policy = re.search(r"-(manylinux_\d+_\d+)_", wheel.name)
    if policy:
        _, _, consistent = said.partition("consistent with the following platform tag: ")
        names = re.match(r'"manylinux_(\d+)_(\d+)_', consistent)
        assert names, said
        found, wanted = (tuple(map(int, pair)) for pair in (names.groups(), policy[1].split("_")[1:]))
        assert found <= wanted, said


def _install(folder: Path, wheel: Path, borrowed: str | None) -> Path:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    if borrowed:
        (packages,) = folder.glob("lib/*/site-packages")
        (packages / "borrowed.pth").write_text(borrowed)
        _run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel))
    else:
        _run(str(python), "-m", "pip", "install", "--quiet", str(wheel), "mypy")
    return python


def _use(python: Path, work: Path, *, kernels: bool) -> None:
    """Run a user's file outside of the repository, look for the kernels, and see what mypy sees."""
    (work / "user.py").write_text(USER)
    (work / "mistakes.py").write_text(MISTAKES)
    print(_run(str(python), "user.py", cwd=work))
    (work / "kernels.py").write_text(KERNELS)
    found = _run(str(python), "kernels.py", cwd=work)
    print(found)
    assert found.startswith(
        "True kernels in use: " if kernels else "False no kernels in use: braindnorm was installed "
    ), found
    where = _run(str(python), "-c", "import braindnorm; print(braindnorm.__file__)", cwd=work).strip()
    assert str(work) in where, where
    mypy = [str(python), "-m", "mypy", "--strict"]
    _run(*mypy, "user.py", cwd=work)
    found = subprocess.run([*mypy, "mistakes.py"], cwd=work, capture_output=True, text=True, check=False).stdout
    wrong = sorted({int(line) for line in re.findall(r"mistakes\.py:(\d+): error", found)})
    lines = range(3, len(MISTAKES.splitlines()) + 1)
    assert wrong == [*lines], found
    print(f"mypy sees the types: it passes a right file, and finds each of {len(lines)} mistakes")


def _check_import_time(python: Path, work: Path) -> None:
    before, after = import_time.added(str(python), work)
    print(import_time.verdict(before, after))
    assert after < import_time.BUDGET * before


def _run(*command: str, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    inherited = {key: value for key, value in os.environ.items() if key not in ("BRAINDNORM_KERNELS", "PYTHONPATH")}
    whole = (environment or {}) | inherited
    done = subprocess.run(command, cwd=cwd, env=whole, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
