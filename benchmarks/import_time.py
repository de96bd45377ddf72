"""Time what importing braindnorm adds to importing brainstate: ``python -m benchmarks.import_time [--slowest 10]``."""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

BUDGET_MS = 50
CLOCKED = """
import brainstate, time
start = time.perf_counter()
import braindnorm
print(1000 * (time.perf_counter() - start))
"""


def added(python: str, folder: Path, rounds: int = 7) -> float:
    """Return the median milliseconds over processes of their own, started in `folder`."""
    times = [float(_run(python, folder, "-c", CLOCKED).stdout) for _ in range(rounds + 1)]
    return statistics.median(times[1:])  # the first writes the byte code, and reads the disk


def slowest(python: str, folder: Path, count: int) -> list[tuple[float, str]]:
    """Return the modules that take longest by themselves once brainstate is there, with their milliseconds."""
    done = _run(python, folder, "-X", "importtime", "-c", "import brainstate; import braindnorm")
    rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "|" in line]
    names = [name.strip() for *_, name in rows]
    after = rows[names.index("brainstate") + 1 :]
    return sorted(((int(alone) / 1000, name.strip()) for alone, _, name in after), reverse=True)[:count]


def _run(python: str, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run([python, *options], cwd=folder, env=environment, capture_output=True, text=True, check=True)


def main() -> None:
    """Measure, print, and fail if it is more than is promised."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_time", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how many processes are timed")
    parser.add_argument("--slowest", type=int, default=0, metavar="N", help="name the N slowest modules, too")
    given = parser.parse_args()
    median = added(sys.executable, Path.cwd(), given.rounds)
    print(f"importing braindnorm after brainstate: {median:.1f} ms (of at most {BUDGET_MS} ms)")
    for milliseconds, name in slowest(sys.executable, Path.cwd(), given.slowest):
        print(f"{milliseconds:8.1f} ms {name}")
    raise SystemExit(median >= BUDGET_MS)


if __name__ == "__main__":
    main()
