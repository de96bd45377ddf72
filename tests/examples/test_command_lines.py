"""Every command explains itself: --help, how long it takes, where the figure goes; nothing tracked is overwritten."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if '__name__ == "__main__"' in path.read_text())
DRAWING = ("contrast_response", "fashion", "patch_clamp", "receptor", "vowels", "why")
names = {"ids": [script.stem for script in SCRIPTS]}


def start(script: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a script in this process, and return the status that it exits with."""
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    return end.value.code


def test_the_scripts_are_found() -> None:
    others = {"compare", "multi_process", "online_gradients", "online_training"}
    assert {script.stem for script in SCRIPTS} == {*DRAWING, *others}


@pytest.mark.parametrize("script", SCRIPTS, **names)
def test_help(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(script, monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: {script.name}")
    assert re.search(r"\b(seconds|minutes?)\b", said), "how long it takes"
    assert ("--figure" in said) == (script.stem in DRAWING)
    for figure in re.findall(r"where the figure goes\s+\((.*?)\)", said, re.DOTALL):
        assert Path("".join(figure.split())) == ROOT / "build" / "figures" / f"{script.stem}.png"


@pytest.mark.parametrize("script", SCRIPTS, **names)
def test_an_unknown_option_is_refused_before_anything_is_done(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(script, monkeypatch, "--misspelt") == 2
    said = capsys.readouterr()
    assert "unrecognized arguments: --misspelt" in said.err
    assert not said.out


def test_compare_refuses_an_unknown_package(monkeypatch, capsys) -> None:
    assert start(ROOT / "examples" / "compare.py", monkeypatch, "braindnorm", "tensorflow") == 2
    said = "unknown packages: tensorflow; known are braindnorm, brainstate.nn, torch, flax.nnx, equinox, brainpy"
    assert said in capsys.readouterr().err


def test_why_writes_where_the_user_says(monkeypatch, capsys, tmp_path: Path) -> None:
    picture = tmp_path / "folder" / "picture.png"
    monkeypatch.setattr(sys, "argv", ["why.py", "--figure", str(picture)])
    runpy.run_path(str(ROOT / "examples" / "why.py"), run_name="__main__")
    plt.close("all")
    assert picture.stat().st_size > 10_000
    said = capsys.readouterr().out
    assert said.endswith(f"The figure is in {picture}.\n")
    wrong = float(re.search(r"without the mask: wrong by (\d\.\d) standard deviations", said)[1])
    np.testing.assert_allclose(wrong, 2, atol=0.5)


def test_what_the_scripts_write_is_ignored_by_git() -> None:
    assert "build/" in (ROOT / ".gitignore").read_text().splitlines()


def test_make_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(re.findall(r"^  make (\S+)", listed, re.MULTILINE)) == sorted(phony)
    timed = re.findall(r"^  make (\S+) .*\bminutes?\b", listed, re.MULTILINE)
    long = {target for target in phony if re.match(r"setup|test|demo|lint|docs|package|fuzz|coverage|bench", target)}
    assert long <= set(timed)
