"""The shapes that annotations name are those of the arrays: ``pytest --shapes`` checks them at each call."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# in a process of its own, since the names are jaxtyping's only if it is imported first
CHECKED = """
import pytest

files = ["tests/numerics/test_moments.py", "tests/numerics/test_plan.py", "tests/numerics/test_two_term.py"]
failed = pytest.main(["-q", "--shapes", "-p", "no:cacheprovider", *files])

import jax.numpy as jnp
from jaxtyping import TypeCheckError
from braindnorm._numerics.moments import zero_masked
from braindnorm._numerics.products import outer

for wrong in (
    lambda: outer(jnp.ones((2, 3)), jnp.ones(3)),
    lambda: zero_masked(jnp.ones((2, 3)), jnp.ones((2, 2), bool)),
    lambda: zero_masked(jnp.ones((2, 3)), jnp.ones((2, 1))),
):
    with pytest.raises(TypeCheckError):
        wrong()
raise SystemExit(failed)
"""
PLAIN = "import braindnorm, sys; raise SystemExit('jaxtyping' in sys.modules or 'beartype' in sys.modules)"


def test_arrays_have_the_shapes_that_annotations_name() -> None:
    done = subprocess.run([sys.executable, "-c", CHECKED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_the_package_does_without_the_checker() -> None:
    done = subprocess.run([sys.executable, "-c", PLAIN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
