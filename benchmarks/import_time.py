"""Time what importing braindnorm adds to importing brainstate: ``python -m benchmarks.import_time [--slowest 10]``.

Both imports are timed in the same processes, by the time of the processor: other load makes both slower, or neither.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

BUDGET = 0.05  # of the import of brainstate
CLOCKED = """
import time
start = time.process_time()
import brainstate
between = time.process_time()
import braindnorm
print(between - start, time.process_time() - between)
"""


def added(python: str, folder: Path, rounds: int = 7) -> tuple[float, float]:
    """Return the median milliseconds of brainstate and then of braindnorm, in processes started in `folder`."""
    times = [map(float, _run(python, folder, "-c", CLOCKED).stdout.split()) for _ in range(rounds + 1)]
    before, after = zip(*times[1:], strict=True)  # the first writes the byte code, and reads the disk
    return 1000 * statistics.median(before), 1000 * statistics.median(after)


def verdict(before: float, after: float) -> str:
    """Return a line about both."""
    return (
        f"importing braindnorm: {after:.1f} ms after brainstate's {before:.0f} ms,"
        f" {after / before:.1%} (of at most {BUDGET:.0%})"
    )


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
    before, after = added(sys.executable, Path.cwd(), given.rounds)
    print(verdict(before, after))
    for milliseconds, name in slowest(sys.executable, Path.cwd(), given.slowest):
        print(f"{milliseconds:8.1f} ms {name}")
    raise SystemExit(after >= BUDGET * before)


if __name__ == "__main__":
    main()
