"""Which programs have kernels in them: decided when a program is lowered, on this process's eight devices."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from braindnorm import cpu_kernels, functional
from tests.support import reference
from tests.support.kernels import kernels, needs_compiler
from tests.support.norms import draw

pytestmark = needs_compiler

SHAPE = (16, 40)
MESH = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
BOTH_WAYS = jax.make_mesh((4, 2), ("batch", "other"), axis_types=(AxisType.Auto,) * 2)
FORWARD, GRADIENT = ["forward"], ["forward", "backward"]


@pytest.fixture(autouse=True)
def in_use() -> Iterator[None]:
    with kernels():
        yield


def parameters() -> tuple[np.ndarray, np.ndarray]:
    return draw(40, seed=1, loc=1), draw(40, seed=2)


def norm(x: Any, scale: Any, bias: Any) -> jax.Array:
    return functional.layer_norm(x, scale=scale, bias=bias)


def gradient_of(f: Callable[..., jax.Array]) -> Callable[..., Any]:
    g = draw(*SHAPE, seed=4)
    return jax.grad(lambda *arguments: jnp.vdot(g, f(*arguments)), (0, 1, 2))


def called(f: Callable[..., Any], *arguments: Any) -> list[str]:
    """Return the kernels that a compiled f calls. It may not gather what is divided among devices."""
    compiled = jax.jit(f).lower(*arguments).compile().as_text()
    assert "all-gather" not in compiled
    return re.findall(r'custom_call_target="braindnorm_(\w+)_v\d+"', compiled)


def check(f: Callable[..., jax.Array], x: Any) -> None:
    """Hold a LayerNorm of (x, scale, bias) and its gradients to the reference."""
    scale, bias = parameters()
    whole, g, v = np.asarray(x), draw(*SHAPE, seed=4), draw(*SHAPE, seed=5).astype(float)
    np.testing.assert_allclose(
        jax.jit(f)(x, scale, bias), reference.layer_norm(whole, scale=scale, bias=bias), rtol=2e-6, atol=2e-6
    )
    dx, dscale, dbias = jax.jit(gradient_of(f))(x, scale, bias)
    along = reference.directional(lambda x: reference.layer_norm(x, scale=scale, bias=bias), whole, v)
    np.testing.assert_allclose(np.vdot(np.asarray(dx, np.float64), v), np.vdot(g, along), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(dscale, np.sum(g * reference.layer_norm(whole), 0), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(dbias, np.sum(g.astype(float), 0), rtol=2e-5, atol=2e-5)


def test_one_device_of_several() -> None:
    """The number of devices that a process has does not matter, but that of those a program runs on."""
    x, both = draw(*SHAPE), parameters()
    assert called(norm, x, *both) == FORWARD
    assert called(gradient_of(norm), x, *both) == GRADIENT
    check(norm, x)
    alone = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[3:4])
    there = jax.device_put(x, NamedSharding(alone, P("batch")))
    assert called(norm, there, *both) == FORWARD


def test_divided_among_devices() -> None:
    """By plain JAX, which XLA can divide; a foreign call it cannot, and would gather the input."""
    x, both = jax.device_put(draw(*SHAPE), NamedSharding(MESH, P("batch"))), parameters()
    assert called(norm, x, *both) == []
    assert called(gradient_of(norm), x, *both) == []
    check(norm, x)
    assert called(norm, draw(*SHAPE), *both) == FORWARD  # and the next program has kernels again


def divided(**options: Any) -> Callable[..., jax.Array]:
    return jax.shard_map(norm, in_specs=(P("batch"), P(), P()), out_specs=P("batch"), **options)


def test_the_local_part_of_a_shard_map() -> None:
    f, x, both = divided(mesh=MESH, check_vma=False), draw(*SHAPE), parameters()
    assert called(f, x, *both) == FORWARD
    assert called(gradient_of(f), x, *both) == GRADIENT
    check(f, x)


def test_a_shard_map_that_checks_types() -> None:
    """Where the scale is the same on all devices, its gradient is summed over them."""
    f, x, both = divided(mesh=MESH), draw(*SHAPE), parameters()
    assert called(f, x, *both) == FORWARD
    assert called(gradient_of(f), x, *both) == GRADIENT
    check(f, x)


def test_a_mask_that_varies_within_a_shard_map() -> None:
    """What is normalized may be the same on each device."""
    x, mask = draw(*SHAPE), draw(8, 40, seed=6) > 0
    f = jax.shard_map(
        lambda x, m: functional.layer_norm(x, mask=m), mesh=MESH, in_specs=(P(), P("batch")), out_specs=P("batch")
    )
    assert called(f, x, mask) == FORWARD
    found = np.asarray(jax.jit(f)(x, mask)).reshape(8, *SHAPE)
    for device in range(8):
        np.testing.assert_allclose(found[device], reference.layer_norm(x, mask=mask[device]), rtol=2e-6, atol=2e-6)


def test_a_shard_map_over_some_axes_of_a_mesh() -> None:
    """Within it values are still divided along the others."""
    f = divided(mesh=BOTH_WAYS, check_vma=False, axis_names={"batch"})
    assert called(f, draw(*SHAPE), *parameters()) == []
    check(f, draw(*SHAPE))


def test_a_part_for_each_device_beside_one_for_all() -> None:
    """Only the first has a kernel, though both see arrays of one shape."""
    inner = divided(mesh=MESH, check_vma=False)

    def f(x: Any, scale: Any, bias: Any) -> Any:
        return inner(x, scale, bias), norm(x[:2], scale, bias)

    x, both = draw(*SHAPE), parameters()
    assert called(f, jax.device_put(x, NamedSharding(MESH, P("batch"))), *both) == FORWARD
    for found, wanted in zip(jax.jit(f)(x, *both), (x, x[:2]), strict=True):
        np.testing.assert_allclose(
            found, reference.layer_norm(wanted, scale=both[0], bias=both[1]), rtol=2e-6, atol=2e-6
        )


def test_what_is_exported() -> None:
    """To processes that may have no kernels."""
    x, (scale, bias) = draw(*SHAPE), parameters()
    for f in (norm, gradient_of(norm)):
        exported = export.export(jax.jit(f))(x, scale, bias)
        assert "@braindnorm_" not in exported.mlir_module()
    wanted, exported = reference.layer_norm(x, scale=scale, bias=bias), export.export(jax.jit(norm))(x, scale, bias)
    np.testing.assert_allclose(exported.call(x, scale, bias), wanted, rtol=2e-6, atol=2e-6)


def test_a_program_for_another_platform() -> None:
    x, both = draw(*SHAPE), parameters()
    lowered = jax.jit(norm).trace(x, *both).lower(lowering_platforms=("cuda",))
    assert "@braindnorm_" not in lowered.as_text()


def test_several_at_once_and_one_after_another() -> None:
    """``vmap`` and loops of a program for one device."""
    x, (scale, bias) = draw(5, *SHAPE), parameters()
    assert called(jax.vmap(norm, (0, None, None)), x, scale, bias) == FORWARD
    loop = partial(jax.lax.map, lambda row: norm(row, scale, bias))
    assert called(loop, x) == FORWARD


def test_within_the_block_there_are_none() -> None:
    x, both = draw(*SHAPE), parameters()
    before, within, after = (jax.jit(lambda *arguments: norm(*arguments)) for _ in range(3))

    def used(f: Any) -> bool:
        return "@braindnorm_" in f.lower(x, *both).as_text()

    assert used(before)
    with cpu_kernels.disabled():
        assert str(cpu_kernels.status()) == "no kernels in use: they are switched off by cpu_kernels.disabled()."
        with cpu_kernels.disabled():
            pass
        assert not used(within)
        assert used(before)  # it was traced before
    assert used(after)
    assert cpu_kernels.enabled()


def test_the_block_ends_with_an_error() -> None:
    with pytest.raises(KeyError), cpu_kernels.disabled():
        raise KeyError
    assert cpu_kernels.enabled()
