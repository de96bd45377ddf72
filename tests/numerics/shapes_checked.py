"""Run the tests of this folder with every annotation of a type or a shape checked at each call, in a new process."""

import sys
from pathlib import Path

from jaxtyping import install_import_hook

with install_import_hook("braindnorm._numerics", "beartype.beartype"):
    import braindnorm  # noqa: F401

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from braindnorm._numerics.two_term import product


def main() -> int:
    with pytest.raises(TypeCheckError):
        product(jnp.ones(2), jnp.ones(3))
    here = Path(__file__).parent
    files = sorted(map(str, here.glob("test_*.py")))
    quiet = ["-q", "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*quiet, *(file for file in files if not file.endswith("test_shapes.py"))]))


if __name__ == "__main__":
    sys.exit(main())
