"""Arrays that do not fit into the cache, whose results are written past it."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import functional
from tests.cpu_kernels.test_columns import GRADIENT, wanted
from tests.cpu_kernels.test_kernels import close, kernels_of
from tests.support.kernels import kernels, needs_compiler
from tests.support.norms import draw

pytestmark = needs_compiler

FAR = 16 << 20  # bytes that a call reads and writes


@pytest.fixture(autouse=True)
def in_use() -> Iterator[None]:
    with kernels():
        yield


def gradients(norm: Any, x: Any, g: Any, *mask: Any) -> Any:
    y, pull = jax.vjp(lambda x: norm(x, **({"mask": mask[0]} if mask else {})), x)
    return y, *pull(g.astype(y.dtype))


@pytest.mark.parametrize(
    ("norm", "shape", "dtype", "masked"),
    [
        (functional.layer_norm, (4096, 512), "float32", False),
        (functional.layer_norm, (4096, 512), "float32", True),
        (functional.layer_norm, (6144, 512), "bfloat16", False),
        (partial(functional.group_norm, num_groups=32), (64, 64, 512), "float32", False),
    ],
)
def test_the_same_bits_as_in_an_array_that_fits(norm: Any, shape: tuple[int, ...], dtype: str, masked: bool) -> None:
    x, g = (jnp.asarray(draw(*shape, seed=seed), dtype) for seed in (1, 2))
    mask = np.random.default_rng(3).random(shape) < 0.9
    arrays = (jnp.where(mask, x, jnp.nan), g, mask) if masked else (x, g)
    run = jax.jit(partial(gradients, norm))
    assert kernels_of(run, *arrays) == GRADIENT
    results, few = run(*arrays), run(*(v[-8:] for v in arrays))
    assert x.nbytes + 4 * x.size >= FAR > 5 * (few[0].nbytes + 4 * few[0].size)  # y is float32 in the kernel
    for found, of_few in zip(results, few, strict=True):
        np.testing.assert_array_equal(found[-8:], of_few)
        assert np.all(np.isfinite(np.asarray(found, np.float32)))


def test_columns() -> None:
    x, g = draw(4096, 512, loc=-65, scale=0.01), draw(4096, 512, seed=4)
    y, dx = jax.jit(partial(gradients, lambda x: functional.batch_norm(x, epsilon=1e-9)[0]))(x, jnp.asarray(g))
    assert x.nbytes + y.nbytes >= FAR
    value, _, _, var = wanted(x, None, epsilon=1e-9)
    close(y, value, 2e-6)
    exact = (g - g.mean(0, dtype=float) - value * np.mean(g * value, 0)) / np.sqrt(var + 1e-9)
    close(dx, exact, 2e-6)
