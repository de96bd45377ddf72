"""What has to be set before JAX starts, and how the tests draw their examples."""

import ctypes
import gc
import os
import resource
import shutil
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
# What XLA compiled is shared among workers, with the processes that tests start, and with the next run. JAX looks a
# program up by its text, XLA's flags and its own version: one that has changed is compiled.
COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# The same examples in every run, and no deadline: the first call of a function compiles it.
settings.register_profile("repository", derandomize=True, deadline=None, database=None)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels", action="store_true", help="run the tests with the kernels for a CPU in use")
    parser.addoption("--optimized", action="store_true", help="have XLA optimize every program, as users do")
    parser.addoption("--shapes", action="store_true", help="check the types and shapes of the arithmetic at each call")


# The arithmetic: what checks a user's arguments takes anything, and is left out.
CHECKED = [
    *(f"braindnorm._numerics.{name}" for name in ("barriers", "fused", "memory", "moments", "plan", "pools")),
    *(f"braindnorm._numerics.{name}" for name in ("products", "running", "sums", "two_term")),
    *(f"braindnorm.functional.{name}" for name in ("_leave", "_over_time", "_standardize")),
]


# XLA optimizes, as it does for users, where rounding, speed or the program itself is tested. The laws of derivatives,
# masks, units, devices and phases hold for any compiler: there, a quarter of the time is spared.
OPTIMIZED = ("cpu_kernels", "documents", "examples", "functional", "numerics", "support")
OPTIMIZED += ("conformance", "interop/frameworks")
OPTIMIZED += tuple(f"laws/test_{name}.py" for name in ("clocks", "device_traffic", "dtype", "every_axis", "precision"))
TESTS = Path(__file__).parent


now_optimized = [True]  # JAX does not tell what is set


def is_optimized(path: Path, config: pytest.Config) -> bool:
    """Say whether what a file compiles is optimized."""
    return config.getoption("--optimized") or path.relative_to(TESTS).as_posix().startswith(OPTIMIZED)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the files that are optimized last, and of each kind the long ones first."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (is_optimized(item.path, config), -tests[item.path], item.path))


peaks: dict[str, float] = {}  # the most memory of each worker, in GB


def pytest_configure(config: pytest.Config) -> None:
    """Begin anew where what is kept has grown too large: a run leaves tens of megabytes, and JAX removes nothing."""
    if not hasattr(config, "workerinput") and sum(kept.stat().st_size for kept in COMPILED.glob("*")) > 5e8:
        shutil.rmtree(COMPILED)
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
def optimize(request: pytest.FixtureRequest) -> None:
    """Have XLA optimize what the next files compile, or not."""
    import jax

    if sys.platform != "linux":
        forget_programs()  # memory is not looked at there
    optimized = is_optimized(request.path, request.config)
    if optimized not in now_optimized:
        now_optimized[:] = [optimized]
        jax.config.update("jax_disable_most_optimizations", not optimized)
        forget_programs()


def resident() -> float:
    """Return the memory of this process, in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def pytest_sessionfinish(session: pytest.Session) -> None:
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
