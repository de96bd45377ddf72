"""Blocks of the step mask around compiled functions, threads and tasks: the right mask, or an error."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import cond, for_loop, grad, jit, make_jaxpr, remat, scan, vmap, vmap2

from braindnorm import GroupNorm, LayerNorm, OverTime, RMSNorm, step_mask
from braindnorm.errors import MaskError

A = np.array([True, True, False])
B = np.array([True, False, True])
ALL = np.ones(3, bool)
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
WEIGHTS = np.arange(12.0, dtype=np.float32).reshape(3, 4)
KEEP = r"jax\.jit.*keep this mask.*[Oo]pen the block inside the function"
ELSEWHERE = "another task or thread has opened"


def expected(mask: Any, x: Any = X) -> np.ndarray:
    """Return the layer norm of the trials that the mask keeps, 0 elsewhere, in float64."""
    x = np.asarray(x, np.float64)
    z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return np.where(np.asarray(mask)[..., None], z, 0)


def norm() -> Any:
    """Return a layer without parameters, which threads may trace at once."""
    return LayerNorm(4, use_scale=False, use_bias=False)


def inside(f: Any, mask: Any, *args: Any) -> Any:
    with step_mask(mask):
        return f(*args)


def holds(got: Any, mask: Any, x: Any = X) -> bool:
    return np.allclose(got, expected(mask, x), atol=1e-5)


def in_thread(f: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(f).result(timeout=120)


COMPILED = {
    "jit": jit,
    "jit of jit": lambda f: jit(jit(f)),
    "jit of remat": lambda f: jit(remat(f)),
    "jit of cond": lambda f: jit(lambda x: cond(x[0, 0] > -9, f, f, x)),
    "jit of for_loop": lambda f: jit(lambda x: for_loop(f, x[None])[0]),
    "jit of scan": lambda f: jit(lambda x: scan(lambda c, v: (c, f(v)), 0.0, x[None])[1][0]),
    "jit of vmap": lambda f: jit(lambda x: vmap(f)(x[None])[0]),
    "jit of vmap2": lambda f: jit(lambda x: vmap2(f)(x[None])[0]),
    "jit of jax.vmap": lambda f: jit(lambda x: jax.vmap(f)(x[None])[0]),
    "jit of jax.lax.scan": lambda f: jit(lambda x: jax.lax.scan(lambda c, v: (c, f(v)), 0.0, x[None])[1][0]),
    "for_loop": lambda f: lambda x: for_loop(f, x[None])[0],
    "StatefulFunction": brainstate.transform.StatefulFunction,
}


@pytest.mark.parametrize("transform", COMPILED.values(), ids=COMPILED)
def test_a_function_compiled_without_a_mask_follows_the_next_one(transform: Any) -> None:
    f, decoder = transform(norm()), RMSNorm(4)
    assert holds(f(X), ALL)
    for mask in (A, B, np.array(False), A):
        with step_mask(mask):
            decoder(X)
            assert holds(f(X), np.broadcast_to(mask, 3))
    assert holds(f(X), ALL)


def test_layers_of_every_kind_follow_a_mask_that_comes_later() -> None:
    for layer in (LayerNorm(4), GroupNorm(4, num_groups=2), RMSNorm(4), OverTime(LayerNorm(4))):
        if isinstance(layer, OverTime):
            layer.init_state(batch_size=3)
        f = jit(layer)
        f(X)
        assert np.array_equal((np.asarray(inside(f, A, X)) != 0).any(-1), A)


def test_a_sequential_compiled_without_a_mask_beside_an_eager_layer() -> None:
    net = brainstate.nn.Sequential(norm(), lambda x: 10 * x)
    encoder = jit(net)
    assert np.allclose(encoder(X), 10 * expected(ALL), atol=1e-4)
    with step_mask(A):
        code = encoder(X)
        assert holds(norm()(code), A, 10 * expected(A))
    assert np.allclose(code, 10 * expected(A), atol=1e-4)


def on_one_device(f: Any) -> Any:
    return lambda x: f(x[None])[0]


RAW = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "scan": lambda f: lambda x: jax.lax.scan(f.over, 0.0, x[None])[1][0],
    "while_loop": lambda f: lambda x: jax.lax.while_loop(f.more, f.next, (0, x))[1],
    "cond": lambda f: lambda x: jax.lax.cond(x[0, 0] > -9, f, f, x),
    "jit of vmap": lambda f: jax.jit(lambda x: jax.vmap(f)(x[None])[0]),
    "pmap": lambda f: on_one_device(jax.pmap(f)),
}


class Fixed:
    """A layer whose functions are the same objects in every call, so that the caches of jax find them."""

    __name__ = "fixed"

    def __init__(self) -> None:
        self.norm = norm()
        self.over = lambda carry, v: (carry, self.norm(v))
        self.more = lambda c: c[0] < 1
        self.next = lambda c: (c[0] + 1, self.norm(c[1]))

    def __call__(self, x: Any) -> Any:
        return self.norm(x)


@pytest.mark.parametrize("transform", RAW.values(), ids=RAW)
def test_what_jax_compiled_without_a_mask_is_refused_under_one(transform: Any) -> None:
    f, decoder = transform(Fixed()), norm()
    assert holds(f(X), ALL)
    with pytest.raises(MaskError, match=KEEP), step_mask(A):
        decoder(X)
        f(X)
    assert holds(f(X), ALL)


@pytest.mark.parametrize("outer", [jit, jax.jit, jax.vmap, vmap], ids=["jit", "jax.jit", "jax.vmap", "vmap"])
@pytest.mark.parametrize("transform", [*RAW.values()][:3], ids=[*RAW][:3])
def test_two_blocks_in_a_trace_share_no_program_of_jax(outer: Any, transform: Any) -> None:
    f = transform(Fixed())

    def both(x: Any, a: Any, b: Any) -> Any:
        return inside(f, a, x), inside(f, b, x)

    args = (jnp.asarray(v)[None] if "vmap" in outer.__name__ else jnp.asarray(v) for v in (X, A, B))
    if "vmap" in outer.__name__:  # here no trace is open that jax could keep the mask in
        with pytest.raises(MaskError, match=KEEP):
            outer(both)(*args)
    else:
        a, b = outer(both)(*args)
        assert holds(a, A) and holds(b, B)


@pytest.mark.parametrize("outer", [jit, jax.jit, jax.vmap, vmap, vmap2, lambda f: f])
def test_a_compiled_function_in_two_blocks_within_a_trace(outer: Any) -> None:
    f = jit(norm())
    inside(f, A, X)

    def three(x: Any, a: Any, b: Any) -> Any:
        return inside(f, a, x), f(x), inside(f, b, x)

    lanes = outer in (jax.vmap, vmap, vmap2)
    got = outer(three)(*(jnp.asarray(v)[None] if lanes else jnp.asarray(v) for v in (X, A, B)))
    for y, mask in zip(got, (A, ALL, B), strict=True):
        assert holds(y[0] if lanes else y, mask)


def test_a_block_within_a_function_within_a_block() -> None:
    f = jit(lambda x, m: inside(norm(), m, x))
    assert holds(inside(f, A, X, B), A & B)
    assert holds(f(X, B), B)
    with pytest.raises(MaskError, match=r"step_mask: step_mask was opened outside.*" + KEEP), step_mask(A):
        jax.jit(lambda x, m: inside(norm(), m, x))(X, B)


def test_other_shapes_of_mask_and_input() -> None:
    f = jit(norm())
    xs = np.stack([X, 2 * X])
    masks = np.stack([A, B])
    assert holds(inside(f, A, X), A)
    assert holds(inside(f, masks, xs), masks, xs)
    assert holds(inside(f, A[None], xs), np.broadcast_to(A, (2, 3)), xs)
    assert holds(inside(f, np.array(True), X), ALL)
    assert holds(inside(f, B, X), B)


def test_gradients_follow_a_mask_that_comes_later() -> None:
    layer = LayerNorm(4)

    def loss() -> Any:
        return jnp.sum(WEIGHTS * layer(X))

    g = jit(grad(loss, layer.states(brainstate.ParamState)))
    for mask in (ALL, A, B, ALL):
        (got,) = g().values() if mask is ALL else inside(g, mask).values()
        assert np.allclose(got["scale"], (WEIGHTS * expected(mask)).sum(0), atol=1e-4)


def test_an_exception_closes_the_block_in_compiled_functions_too() -> None:
    f, g = jit(norm()), jit(lambda x: [norm()(x), 1 / 0])
    for call in (lambda: g(X), lambda: (f(X), 1 / 0)):
        with pytest.raises(ZeroDivisionError), step_mask(A), step_mask(B):
            call()
        assert holds(norm()(X), ALL) and holds(f(X), ALL)
    assert holds(inside(f, B, X), B)


def test_nothing_of_it_is_in_the_model_or_in_a_program() -> None:
    layer = LayerNorm(4)
    before = {k: v.value for k, v in layer.states().items()}
    jaxpr, states = make_jaxpr(layer)(X)
    assert [s for s in states if isinstance(s, brainstate.ParamState)] == [*layer.states().values()]
    assert len(jaxpr.jaxpr.invars) == 1 + len(jax.tree.leaves(before))
    assert jax.tree.structure({k: v.value for k, v in layer.states().items()}) == jax.tree.structure(before)
    with brainstate.catch_new_states() as caught:
        inside(layer, A, X)
    assert not caught.get_states()


def test_a_filter_of_states_that_maps_the_mask_is_refused() -> None:
    f = vmap2(norm(), state_in_axes={0: brainstate.State})
    with pytest.raises(MaskError, match=r"mask of shape \(3,\) arrives in shape \(\).*state_in_axes.*inside"):
        inside(f, A, np.stack([X, X, X]))


# threads


@pytest.mark.parametrize("first", [None, A])
def test_a_function_compiled_in_one_thread_follows_the_mask_of_another(first: Any) -> None:
    f = jit(norm())
    in_thread(lambda: inside(f, first, X))
    assert holds(f(X), ALL)
    assert holds(inside(f, B, X), B)
    assert holds(in_thread(lambda: inside(f, A, X)), A)
    assert holds(in_thread(lambda: f(X)), ALL)


def test_a_block_is_for_its_own_thread() -> None:
    f = jit(norm())
    with step_mask(A):
        assert holds(f(X), A)
        assert holds(in_thread(lambda: f(X)), ALL)
        assert holds(in_thread(lambda: inside(f, B, X)), B)
        assert holds(f(X), A) and holds(norm()(X), A)


def test_threads_at_once_with_masks_of_their_own() -> None:
    layer = norm()
    f, start = jit(layer), threading.Barrier(4)

    def three() -> Any:
        return f(X), layer(X), jit(lambda x: layer(x))(X)  # the last is traced while other threads run

    def work(mask: Any) -> bool:
        start.wait(60)
        got = [y for _ in range(8) for y in (three() if mask is None else inside(three, mask))]
        return all(holds(y, ALL if mask is None else mask) for y in got)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, [A, B, None, A & B]))


# generators and tasks


def held(mask: Any) -> Iterator[Any]:
    with step_mask(mask):
        while True:
            yield norm()(X)


def test_a_generator_that_is_closed_closes_its_block() -> None:
    g = held(A)
    assert holds(next(g), A)
    g.close()
    assert holds(norm()(X), ALL)


def test_blocks_left_in_another_order_are_refused_and_closed() -> None:
    one, two = step_mask(A), step_mask(B)
    one.__enter__()
    two.__enter__()
    assert holds(norm()(X), A & B)
    with pytest.raises(MaskError, match=r"left while another one.*innermost block first"):
        one.__exit__(None, None, None)
    assert holds(norm()(X), A & B)
    two.__exit__(None, None, None)
    assert holds(norm()(X), ALL) and holds(jit(norm())(X), ALL)
    assert holds(inside(norm(), B, X), B)


def test_a_block_left_in_another_thread_is_refused_and_closed() -> None:
    block = step_mask(A)
    block.__enter__()
    with pytest.raises(MaskError, match="in another thread"):
        in_thread(lambda: block.__exit__(None, None, None))
    assert holds(norm()(X), ALL)
    assert holds(jax.jit(norm())(X), ALL)


def test_tasks_that_run_in_the_block_of_another_are_refused() -> None:
    compiled, by_jax = jit(norm()), jax.jit(norm())
    compiled(X), by_jax(X)
    refused = []

    async def holder(opened: asyncio.Event, done: asyncio.Event) -> Any:
        with step_mask(A):
            opened.set()
            await done.wait()
            return norm()(X), compiled(X)

    async def other(opened: asyncio.Event, done: asyncio.Event) -> Any:
        await opened.wait()
        for call in (norm(), compiled, by_jax, lambda x: inside(norm(), B, x)):
            with pytest.raises(MaskError, match=ELSEWHERE):
                call(X)
            refused.append(call)
        done.set()

    async def main() -> Any:
        opened, done = asyncio.Event(), asyncio.Event()
        return (await asyncio.gather(holder(opened, done), other(opened, done)))[0]

    assert all(holds(y, A) for y in asyncio.run(main()))
    assert len(refused) == 4
    assert all(holds(f(X), ALL) for f in refused[:3])


def test_a_thread_that_inherits_a_task_s_block_is_refused() -> None:
    f = jit(norm())

    async def main() -> Any:
        with step_mask(A):
            y = f(X)
            with pytest.raises(MaskError, match=ELSEWHERE):
                await asyncio.to_thread(f, X)
            return y, f(X)

    assert all(holds(y, A) for y in asyncio.run(main()))


def test_a_task_that_outlives_the_block_it_was_started_in() -> None:
    async def later() -> Any:
        await asyncio.sleep(0)
        return norm()(X)

    async def main() -> Any:
        with step_mask(A):
            task = asyncio.create_task(later())
            norm()(X)
        with step_mask(B):
            y = norm()(X)
        return await task, y, norm()(X)

    late, y, after = asyncio.run(main())
    assert holds(late, ALL) and holds(y, B) and holds(after, ALL)
