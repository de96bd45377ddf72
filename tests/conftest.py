"""What has to be set before JAX starts, and how the tests draw their examples."""

import ctypes
import gc
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Eight devices on one processor, for the tests that share a batch among devices.
DEVICES = "--xla_force_host_platform_device_count"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# What took XLA long is shared among workers, with the processes that tests start, and with the next run. JAX looks a
# program up by its text, XLA's flags and its own version: one that has changed is compiled.
COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")  # to keep a program takes 10 ms

# The same examples in every run, and no deadline: the first call of a function compiles it.
settings.register_profile("repository", derandomize=True, deadline=None, database=None)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels", action="store_true", help="run the tests with the kernels for a CPU in use")
    parser.addoption("--compiled", choices=("quickly", "fully"), help="only the tests that are compiled in this way")
    parser.addoption("--shapes", action="store_true", help="check the types and shapes of the arithmetic at each call")


# The arithmetic: what checks a user's arguments takes anything, and is left out.
CHECKED = [
    *(f"braindnorm._numerics.{name}" for name in ("barriers", "fused", "mean_and_variance", "memory", "moments")),
    *(
        f"braindnorm._numerics.{name}"
        for name in ("plan", "pools", "products", "running", "shares", "statistics", "sums", "two_term")
    ),
    *(f"braindnorm.functional.{name}" for name in ("_leave", "_over_time", "_standardize")),
]


# Compiled as for users: where rounding, speed or the program itself is tested. The laws of derivatives, masks, units,
# devices and phases hold for any compiler: `--compiled quickly` takes a third of the time for them.
FULLY = ("conformance", "cpu_kernels", "functional", "interop/frameworks", "numerics", "support")
FULLY += tuple(f"laws/test_{name}.py" for name in ("clocks", "device_traffic", "dtype", "every_axis", "precision"))
TESTS = Path(__file__).parent
# One LLVM module a program, by XLA's older emitters: to split it, or to start MLIR, costs more than a small program.
QUICK_FLAGS = ("--xla_cpu_parallel_codegen_split_count=1", "--xla_cpu_use_fusion_emitters=false")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that are compiled in the chosen way, the long files first."""
    if compiled := config.getoption("--compiled"):
        fully = [item.path.relative_to(TESTS).as_posix().startswith(FULLY) for item in items]
        items[:] = [item for item, is_full in zip(items, fully, strict=True) if is_full == (compiled == "fully")]
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-tests[item.path], item.path))


def known_flags() -> list[str]:
    """Ask XLA, which ends a process that has a flag it does not know, which of QUICK_FLAGS it knows."""
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    asked = [subprocess.Popen(start, env=os.environ | {"XLA_FLAGS": flag}, **quiet) for flag in QUICK_FLAGS]
    return [flag for flag, process in zip(QUICK_FLAGS, asked, strict=True) if process.wait() == 0]


peaks: dict[str, float] = {}  # the most memory of each worker, in GB


def pytest_configure(config: pytest.Config) -> None:
    """Set what the workers inherit, and bound what is kept: a run leaves tens of megabytes, and JAX removes nothing."""
    if not hasattr(config, "workerinput"):
        if sum(kept.stat().st_size for kept in COMPILED.glob("*")) > 5e8:
            shutil.rmtree(COMPILED)
        if config.getoption("--compiled") == "quickly":
            os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
            os.environ["XLA_FLAGS"] = " ".join([os.environ["XLA_FLAGS"], *known_flags()])
    if config.getoption("--shapes"):
        from jaxtyping import install_import_hook

        install_import_hook(CHECKED, "beartype.beartype")


def pytest_report_header() -> str:
    """Say which releases are tested."""
    releases = [f"{name} {metadata.version(name)}" for name in ("brainstate", "brainunit", "jax", "jaxlib", "numpy")]
    return f"releases: Python {sys.version.split()[0]}, {', '.join(releases)}"


def pytest_collection_finish() -> None:
    """Spare what has been imported from the garbage collector, which would look through all of it time and again."""
    gc.freeze()


def forget_programs() -> None:
    """Let go of what was compiled, and give its memory back."""
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what is freed in small pieces


@pytest.fixture(autouse=True)
def forget_when_memory_is_short() -> Iterator[None]:
    """Keep a worker under 2 GB: it grows by one every thousand programs, which many tests share."""
    yield
    if sys.platform == "linux" and resident() > 1.5:
        forget_programs()


@pytest.fixture(scope="module", autouse=True)
def forget_between_files() -> Iterator[None]:
    """Keep a worker small where its memory is not looked at."""
    yield
    if sys.platform != "linux":
        forget_programs()


def resident() -> float:
    """Return the memory of this process, in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--compiled") and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK  # what was asked for is compiled in the other way
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak
    elif not peaks:
        peaks["this process"] = peak


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    peaks[node.gateway.id] = getattr(node, "workeroutput", {}).get("peak", float("nan"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    memory = ", ".join(f"{peak:.2f} GB in {name}" for name, peak in sorted(peaks.items()))
    terminalreporter.write_line(f"memory, at most: {memory}")


@pytest.fixture(scope="session", autouse=True)
def with_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use the kernels throughout, where that is asked for."""
    if not request.config.getoption("--kernels"):
        yield
        return
    from tests.support.kernels import kernels

    with kernels():
        yield
