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
from pathlib import Path

from benchmarks import import_time

ROOT = Path(__file__).resolve().parent.parent
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
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sdist, wheel = _build(work / "dist")
        python = _install(work / "venv", wheel, given.site_packages)
        _use(python, work)
        _check_import_time(python, work)
    print(f"{sdist.name} and {wheel.name}: built, installed, used.")


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
    lines = range(3, len(MISTAKES.splitlines()) + 1)
    assert wrong == [*lines], found
    print(f"mypy sees the types: it passes a right file, and finds each of {len(lines)} mistakes")


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
