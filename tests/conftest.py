"""What has to be set before JAX starts, and how the tests draw their examples."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Eight devices on one processor, for the tests that share a batch among devices.
DEVICES = "--xla_force_host_platform_device_count"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

# The same examples in every run, and no deadline: the first call of a function compiles it.
settings.register_profile("repository", derandomize=True, deadline=None, database=None)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels", action="store_true", help="run the tests with the kernels for a CPU in use")


@pytest.fixture(scope="session", autouse=True)
def with_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use the kernels throughout, where that is asked for."""
    if not request.config.getoption("--kernels"):
        yield
        return
    from tests.support.kernels import kernels

    with kernels():
        yield
