"""Tests with the kernels in use, for rows of any length and on the tests' eight devices."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from braindnorm import cpu_kernels
from braindnorm.cpu_kernels import _choice, _view

compiler = shutil.which(os.environ.get("CXX") or "c++")
needs_compiler = pytest.mark.skipif(compiler is None, reason="there is no C++ compiler to make kernels with")


@contextmanager
def kernels() -> Iterator[None]:
    """Use the kernels, where XLA would be as fast too: that they are right does not depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_choice, "unsuitable", lambda: None)
        patch.setattr(_view, "SHORT", 1)
        patch.setattr(_view, "SMALL", 0)
        patch.setattr(_view, "FEW", 1)
        _view.view_of.cache_clear()
        before = cpu_kernels.enabled()
        assert cpu_kernels.enable()
        yield
        if not before:
            cpu_kernels.disable()
    _view.view_of.cache_clear()
