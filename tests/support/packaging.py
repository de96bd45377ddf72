"""Build sdist and wheel, and use the wheel as a stranger would: in an environment of its own, without extras.

``python -m tests.support.packaging`` (or ``make package``). It needs `build` and `twine` here and a package registry.
"""

import argparse
import re
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
from braindnorm import GroupNorm, LayerNorm, RMSNorm, functional, masks, step_mask
from braindnorm.errors import NormError

layer: LayerNorm = LayerNorm(4, use_fast_variance=False)
valid = masks.from_lengths([1, 2], 2)
print(layer(jnp.ones((2, 2, 4)), mask=valid[..., None]).shape)
print(RMSNorm(4).in_size, GroupNorm(4, num_groups=2).num_groups)
print(functional.moments(jnp.arange(4.0)).mean)
with step_mask(None):
    pass
assert issubclass(NormError, Exception)
"""
MISTAKES = """
from braindnorm import LayerNorm, functional
LayerNorm(4, use_fast_variance="no")
LayerNorm(4, epsilom=1.0)
functional.layer_norm([1.0], masked_output=0)
functional.moments([1.0]).median
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site-packages", help="add this directory to the environment, instead of installing there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy what was built, and passed, to this folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _kept(Path(folder), given.keep):
        work = Path(folder)
        sdist, wheel = _build(work / "dist")
        python = _install(work / "venv", wheel, given.site_packages)
        _use(python, work)
        _check_import_time(python, work)
    print(f"{sdist.name} and {wheel.name}: built, installed, used.")


@contextmanager
def _kept(work: Path, keep: Path | None) -> Iterator[None]:
    """Copy the packages to the folder `keep`, once all is well."""
    yield
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        for pattern in ("dist/*.tar.gz", "dist/*.whl"):
            for package in work.rglob(pattern):
                copy(package, keep)


def _build(dist: Path) -> tuple[Path, Path]:
    """Build the sdist, and from it the wheel; look into both."""
    _run(sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT))
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    _run(sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel))
    files = set(zipfile.ZipFile(wheel).namelist())
    inside = [path for path in (ROOT / "braindnorm").rglob("*") if path.suffix in (".py", ".cpp", ".h")]
    sources = {str(path.relative_to(ROOT)) for path in inside} | {"braindnorm/py.typed"}
    assert sources <= files, sources - files
    others = {file for file in files - sources if ".dist-info/" not in file}
    assert not others, others
    assert any(file.endswith("licenses/LICENSE") for file in files)
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert sources | {"pyproject.toml", "README.md", "CHANGELOG.md", "tests/conftest.py"} <= packed
    (version,) = re.findall(r'__version__ = "(.*)"', (ROOT / "braindnorm/__init__.py").read_text())
    assert wheel.name.startswith(f"braindnorm-{version}-"), wheel.name
    return sdist, wheel


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


def _use(python: Path, work: Path) -> None:
    """Run a user's file outside of the repository, and see what mypy sees."""
    (work / "user.py").write_text(USER)
    (work / "mistakes.py").write_text(MISTAKES)
    print(_run(str(python), "user.py", cwd=work))
    where = _run(str(python), "-c", "import braindnorm; print(braindnorm.__file__)", cwd=work).strip()
    assert str(work) in where, where
    mypy = [str(python), "-m", "mypy", "--strict"]
    _run(*mypy, "user.py", cwd=work)
    found = subprocess.run([*mypy, "mistakes.py"], cwd=work, capture_output=True, text=True, check=False).stdout
    wrong = sorted({int(line) for line in re.findall(r"mistakes\.py:(\d+): error", found)})
    assert wrong == [3, 4, 5, 6], found
    print("mypy sees the types: it passes a right file, and finds each of four mistakes")


def _check_import_time(python: Path, work: Path) -> None:
    median = import_time.added(str(python), work)
    print(f"importing braindnorm after brainstate: {median:.1f} ms (of at most {import_time.BUDGET_MS} ms)")
    assert median < import_time.BUDGET_MS, median


def _run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
