"""Run the benchmark: ``python -m benchmarks [--quick] [--gpu] [--no-kernels] [--sweep] [--only norms]``."""

import argparse
import functools
import json
import os
import subprocess
import sys

from . import timing

DEVICES = "--xla_force_host_platform_device_count=8"
# glibc then gives nothing back to the kernel, whose fresh pages else cost more than the arithmetic on them
KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}


def main() -> None:
    """Measure, print as it goes, and keep the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes and few rounds, to see that all runs")
    parser.add_argument("--gpu", action="store_true", help="measure on a GPU, beside torch and a device copy")
    parser.add_argument("--no-kernels", action="store_true", help="plain JAX, where the kernels for a CPU are in use")
    parser.add_argument("--sweep", action="store_true", help="every axis, mask, transform and size, worst first")
    parser.add_argument("--laws", action="store_true", help="in the sweep: precision and derivatives, not times")
    parser.add_argument("--minutes", type=float, default=10, help="how long the sweep may take")
    parser.add_argument(
        "--only", help="one part: norms, batch_norms, masked, eager, loop, growth, devices or compile_time"
    )
    parser.add_argument("--clock", choices=timing.CLOCKS, default="wall", help="processor time bears other load better")
    parser.add_argument("--kept-memory", action="store_true", help="reuse freed memory, as a tuned allocator does")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, and keep nothing")
    options = parser.parse_args()
    if options.kept_memory and not KEPT.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], os.environ | KEPT)
    timing.choose_clock(options.clock)
    if not options.gpu:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from braindnorm import cpu_kernels

    from . import cases, report

    if options.no_kernels:
        cpu_kernels.disable()
    if not options.json:
        print(cpu_kernels.status())
    parts = list(cases.ALL)
    if options.gpu:
        from .gpu import bandwidth

        parts = [bandwidth]
    kept = label(options)
    if options.sweep:
        from .sweep import laws, sweep

        if options.laws:
            sys.exit(bool(laws.check(options.minutes)))
        parts = [functools.partial(sweep, minutes=options.minutes, label=kept)]
    where, rounds = report.machine(), 7 if options.quick else 25
    rows: report.Rows = {}
    for part in parts:
        if options.only is not None and options.only != part.__name__:
            continue
        alone = part is cases.devices and options.only is None
        for name, times in elsewhere(options).items() if alone else part(rounds, options.quick):
            rows[name] = times
            if not options.json:
                print(report.line(name, times), flush=True)
    if options.json:
        print(json.dumps(rows))
    elif options.only is None:
        for verdict in [] if options.sweep else report.verdicts(rows):
            print(verdict)
        where |= {"clock": options.clock, "kernels": cpu_kernels.status().in_use}
        report.keep(rows, where, kept, plotted=not options.sweep)


def label(options: argparse.Namespace) -> str:
    """Return the name of what is kept."""
    parts = [
        "gpu" if options.gpu else "quick" if options.quick else "cpu",
        *["sweep"] * options.sweep,
        *["plain"] * options.no_kernels,
        *["kept-memory"] * options.kept_memory,
        *["processor"] * (options.clock != "wall"),
    ]
    return "-".join(parts)


def elsewhere(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure several devices in a process of its own, since the others are measured on one."""
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--only",
        "devices",
        "--json",
        "--clock",
        options.clock,
        *["--quick"] * options.quick,
        *["--no-kernels"] * options.no_kernels,
    ]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=True)
    rows: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return rows


if __name__ == "__main__":
    main()
