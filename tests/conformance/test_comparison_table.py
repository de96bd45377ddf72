"""Every cell of the table in README.md is what examples/compare.py finds, and is so."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import brainpy
import brainstate
import brainunit as u
import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from braindnorm import LayerNorm
from examples import compare
from tests.support import reference

README = Path(__file__).resolve().parents[2] / "README.md"
THEIRS = {
    "brainstate.nn": lambda n: brainstate.nn.LayerNorm(n),
    "torch": lambda n: torch.nn.LayerNorm(n),
    "flax.nnx": lambda n: nnx.LayerNorm(n, rngs=nnx.Rngs(0)),
    "equinox": lambda n: equinox.nn.LayerNorm(n),
    "brainpy": lambda n: brainpy.dnn.LayerNorm(n),
}
MASKED = ("brainstate.nn", "flax.nnx")


def table() -> dict[tuple[str, str], str]:
    """Return the cells by question and package."""
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith(("| | braindnorm |", *(f"| {question} " for question in compare.QUESTIONS)))
    ]
    (_, *packages), *answers = rows
    return {(label, package): cell for label, *cells in answers for package, cell in zip(packages, cells, strict=True)}


def test_the_table_is_whole() -> None:
    assert list(table()) == [(question, package) for question in compare.QUESTIONS for package in compare.PACKAGES]


@pytest.mark.parametrize("package", compare.PACKAGES)
@pytest.mark.parametrize("question", compare.QUESTIONS)
def test_cell(question: str, package: str) -> None:
    """Numbers may differ by another order of summation, on another processor: by half, and not in being bold."""
    said, found = table()[question, package], compare.answer(compare.QUESTIONS[question], package)
    number = re.compile(r"[\d.]+(e-\d+)?")
    assert number.sub("#", said) == number.sub("#", found)
    for one, other in zip(number.finditer(said), number.finditer(found), strict=True):
        assert float(one[0]) == pytest.approx(float(other[0]), rel=0.5)


# What the words mean, asked of the packages themselves.


@pytest.mark.parametrize("package", compare.PACKAGES)
def test_the_error_at_rest_is_that_from_the_reference(package: str) -> None:
    x = (-65 + 0.01 * np.random.default_rng(0).standard_normal((64, 256))).astype(np.float32)
    error = np.abs(np.asarray(compare.build(package, 256)(x)) - reference.layer_norm(x)).max()
    bold = package in MASKED
    assert error > 10 if bold else error < 2e-3
    assert table()["error at −65 ± 0.01 mV", package].startswith("**") == bold


@pytest.mark.parametrize("package", THEIRS)
def test_type_error_is_what_a_quantity_gets(package: str) -> None:
    with pytest.raises(TypeError, match=r"Quantity|quantities"):
        THEIRS[package](4)(jnp.ones(4) * u.mV)


@pytest.mark.parametrize("package", [package for package in THEIRS if package not in MASKED])
def test_no_mask_is_no_such_argument(package: str) -> None:
    layer = THEIRS[package](4)
    with pytest.raises(TypeError, match="mask"):
        layer(torch.ones(4) if package == "torch" else jnp.ones(4), mask=jnp.ones(4, bool))


@pytest.mark.parametrize("package", MASKED)
@pytest.mark.parametrize("what", ["a row with nothing valid", "NaN in the padding"])
def test_gradient_nan_is_what_masked_data_get(what: str, package: str) -> None:
    x, mask = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32), np.tile(np.arange(6) < 4, (2, 1))
    if what == "NaN in the padding":
        x = np.where(mask, x, np.nan)
    else:
        mask[1] = False

    def value(layer: Any, x: Any) -> jax.Array:
        return jnp.where(mask, layer(x, mask=jnp.asarray(mask)), 0)

    def gradient(layer: Any) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(value(layer, x) ** 3))(x)

    theirs, filled = THEIRS[package](6), np.where(mask, x, 0)
    assert np.isnan(gradient(theirs)).any()
    if what == "NaN in the padding":
        np.testing.assert_allclose(value(theirs, x), reference.layer_norm(filled, mask=mask), rtol=1e-4, atol=1e-5)
    want = reference.jacobian(lambda x: np.sum(reference.layer_norm(x, mask=mask) ** 3), filled)
    np.testing.assert_allclose(gradient(LayerNorm(6)), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("package", MASKED)
def test_wrong_is_a_mean_of_means(package: str) -> None:
    """Each device's mean counts once, however few elements it is of: 1 and 6 make 3.5, and not 4.75."""
    x = np.array([[1, 0, 0, 0], [2, 4, 12, 0]], np.float32)
    mask = np.array([[1, 0, 0, 0], [1, 1, 1, 0]], bool)

    def shared(package: str) -> np.ndarray:
        layer = compare.build(package, 4, axis_name="devices")
        return np.asarray(jax.vmap(lambda x, mask: layer(x, mask=mask), axis_name="devices")(x, mask))[mask]

    want = reference.layer_norm(x[mask])
    np.testing.assert_allclose(shared("braindnorm"), want, rtol=1e-5, atol=1e-6)
    of_means = (x[mask] - 3.5) / np.sqrt((1 + (4 + 16 + 144) / 3) / 2 - 3.5**2 + 1e-6)
    np.testing.assert_allclose(shared(package), of_means, rtol=1e-4, atol=1e-5)
    assert np.abs(shared(package) - want).max() > 0.1


def test_every_package_is_asked() -> None:
    assert ("braindnorm", *THEIRS) == compare.PACKAGES
    assert all(importlib.util.find_spec(package.split(".")[0]) for package in compare.PACKAGES)
