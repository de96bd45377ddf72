"""The example with several processes: it learns what one process learns, and says so when a process is lost."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the example with 2 processes of 2 devices, outside of this process and its 8 devices."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(ROOT / "examples" / "multi_process.py"), "--updates=6", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})


def test_several_processes_learn_what_one_learns() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ +\d+ +(\d\.\d{12}) +(\d\.\d{12})$", done.stdout, re.MULTILINE)
    losses = [(float(several), float(single)) for several, single in rows]
    assert len(losses) == 6
    assert all(abs(several - single) < 1e-9 for several, single in losses)
    assert all(after[0] < before[0] for before, after in pairwise(losses))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others_with_a_sentence(lost: int) -> None:
    """Process 0 coordinates, process 1 does not. A survivor that noticed nothing would be ended without a sentence."""
    done = run(f"--lose={lost}")
    assert done.returncode == 1
    assert f"Process {lost} was lost: it ended by signal 9." in done.stderr
    survivor = rf"^Process {1 - lost} stopped (\d+\.\d) s later, because every sum needs all: (.+)$"
    said = re.search(survivor, done.stderr, re.MULTILINE)
    assert said, done.stderr
    assert float(said[1]) < 30
    assert "update 3" in said[2]
    assert "Traceback" not in done.stderr
