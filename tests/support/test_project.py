"""The project's settings: what the extras ask for, what continuous integration runs, and what a build leaves."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support import packaging

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
TARGETS = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
JOBS = re.findall(r'- \{ target: ([\w-]+), python: "([\d.]+)"', WORKFLOW)


def requirement(extra: str, package: str) -> Requirement:
    (found,) = [r for r in map(Requirement, PROJECT["optional-dependencies"][extra]) if r.name == package]
    return found


@pytest.mark.parametrize("extra", ["examples", "interop", "nir"])
def test_the_extras_of_users_replace_no_newer_release(extra: str) -> None:
    """A user's torch, flax and so on stay: there is a lower bound, and nothing above it is refused."""
    for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra]:
        (bound,) = Requirement(line).specifier
        assert bound.operator == ">=", line


@pytest.mark.parametrize("installed", ["2.4.0", "2.6.0+cu124", "2.13.0+cpu", "2.14.1"])
def test_an_installed_torch_stays(installed: str) -> None:
    assert requirement("interop", "torch").specifier.contains(installed)


@pytest.mark.parametrize("extra", ["conformance", "bench"])
def test_what_is_compared_with_torch_names_its_release(extra: str) -> None:
    assert str(requirement(extra, "torch").specifier) == "==2.13.0"


def test_continuous_integration_runs_every_check() -> None:
    checks = {target for target in TARGETS if re.match(r"test|demo|lint|docs|package|fuzz|coverage|bench", target)}
    assert len(checks) > 10
    assert {target for target, _ in JOBS} == checks


def test_continuous_integration_runs_the_oldest_and_the_newest() -> None:
    supported = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    oldest, newest = supported[0], supported[-1]
    assert PROJECT["requires-python"] == f">={oldest}"
    assert {("test-oldest", oldest), ("test-newest", oldest), ("test-newest", newest), ("lint", newest)} <= set(JOBS)
    assert {python for _, python in JOBS} == set(supported)


def test_what_was_built_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    work, keep = tmp_path / "work", tmp_path / "out" / "dist"
    for path in ("dist/a.tar.gz", "kernels/dist/a-linux.whl", "venv/lib/ensurepip/_bundled/pip.whl"):
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).touch()
    with packaging._kept(work, keep):
        assert not keep.exists()
    assert {path.name for path in keep.iterdir()} == {"a.tar.gz", "a-linux.whl"}


def test_what_fails_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "a.whl").touch()
    with pytest.raises(ZeroDivisionError), packaging._kept(tmp_path, tmp_path / "keep"):
        raise ZeroDivisionError
    assert not (tmp_path / "keep").exists()
