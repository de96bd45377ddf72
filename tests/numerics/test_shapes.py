"""The shapes and types that the pure functions declare are those that they get."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_call_is_as_declared() -> None:
    command = [sys.executable, "-m", "tests.numerics.shapes_checked"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
