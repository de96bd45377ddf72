"""Tests with the kernels in use, for rows of any length."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from braindnorm import cpu_kernels
from braindnorm.cpu_kernels import _view

compiler = shutil.which(os.environ.get("CXX") or "c++")
needs_compiler = pytest.mark.skipif(compiler is None, reason="there is no C++ compiler to make kernels with")


@contextmanager
def kernels() -> Iterator[None]:
    """Use the kernels, where XLA would be as fast too: that they are right does not depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_view, "SHORT", 1)
        patch.setattr(_view, "LOW", 1)
        patch.setattr(_view, "SMALL", 0)
        patch.setattr(_view, "FEW", 1)
        patch.setattr(cpu_kernels, "_off", False)
        _view.view_of.cache_clear()
        assert cpu_kernels.enable()
        yield
    _view.view_of.cache_clear()
