"""The example with several processes: it learns what one process learns, and says so when a process is lost."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import multi_process
import multi_process_training
import numpy as np
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
    told = re.search(
        r"^Each of 4 devices keeps a running mean of (\S+) mV and a variance of (\S+) mV\^2\.$", done.stdout, re.M
    )
    assert told, done.stdout
    voltage, mask, _ = multi_process_training.draw()  # segments of other lengths on other devices
    shares = np.broadcast_to(mask, voltage.shape).reshape(len(mask), 4, -1).sum((0, 2))
    assert len(set(shares.tolist())) == 4
    valid = voltage[np.broadcast_to(mask, voltage.shape)]
    np.testing.assert_allclose([float(told[1]), float(told[2])], [valid.mean(), valid.var()], rtol=0, atol=2e-9)


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
    assert "in update 3" in said[2] or "having lost contact" in said[2]  # whichever of the two JAX notices first
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("codes", "ended", "errors", "said"),
    [
        ([1, -9], {0: 2.0, 1: 2.1}, {0: "no peer"}, ["1 was lost: it ended by signal 9.", "0 stopped 0.0 s later"]),
        ([-9, -9], {0: 2.0}, {}, ["0 was lost: it ended by signal 9.", "1 had not noticed after 25 s, and was ended."]),
        ([1, 1], {1: 2.0, 0: 2.5}, {0: "a", 1: "b"}, ["1 was lost: it ended with 1. b", "0 stopped 0.5 s later"]),
    ],
    ids=["seen late", "a survivor that hangs", "an error of its own"],
)
def test_who_was_lost(codes: list[int], ended: dict[int, float], errors: Any, said: list[str], tmp_path: Path) -> None:
    results = [tmp_path / f"{index}.json" for index in range(2)]
    for index, error in errors.items():
        results[index].write_text(json.dumps({"error": error}))
    lines = multi_process.describe(codes, ended, results).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"Process {start}") for line, start in zip(lines, said, strict=True))
