"""Ask the LayerNorm of every package that is installed here the same questions, and print the table of README.md.

Everything is in float32, with epsilon = 1e-6 and otherwise the defaults. A cell says what came out, or which error.
Installed besides braindnorm: any of torch, flax, equinox, brainpy. It takes seconds, and runs from anywhere:
``python examples/compare.py``.
"""

import argparse
import importlib.util
import warnings

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

from braindnorm import cpu_kernels

PACKAGES = ("braindnorm", "brainstate.nn", "torch", "flax.nnx", "equinox", "brainpy")
EPSILON = 1e-6


def build(package, n, **options):
    """Return the layer normalization of a last axis of length n, as a function of x (and mask, where it takes one)."""
    module = importlib.import_module(package)
    if package == "torch":
        layer = module.nn.LayerNorm(n, eps=EPSILON)
        return lambda x: layer(module.from_numpy(np.asarray(x))).detach().numpy()
    if package == "equinox":
        layer = module.nn.LayerNorm(n, eps=EPSILON)
        return lambda x: jax.vmap(layer)(x)
    if package == "brainpy":
        layer = module.dnn.LayerNorm(n, epsilon=EPSILON)
        return lambda x: layer(x)
    if package == "flax.nnx":
        options["rngs"] = module.Rngs(0)
    layer = module.LayerNorm(n, epsilon=EPSILON, **options)
    return lambda x, **mask: layer(x, **mask)


def takes_mask(package):
    return package in ("braindnorm", "brainstate.nn", "flax.nnx")  # these take axis_name as well


def at_rest(package):
    """The largest error at -65 mV with a spread of 0.01 mV."""
    x = (-65 + 0.01 * np.random.default_rng(0).standard_normal((64, 256))).astype(np.float32)
    wide = x.astype(np.float64)
    truth = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + EPSILON)
    with cpu_kernels.disabled():  # ours by plain JAX, as on every machine
        error = np.abs(np.asarray(build(package, 256)(x)) - truth).max()
    return f"{error:.0e}" if error < 0.1 else f"**{error:.0f}**"


def units(package):
    """Whether the same voltages in mV and in V give the same."""
    x = jnp.linspace(-66.0, -64.0, 8).reshape(2, 4)
    norm = build(package, 4, **({"unit": u.mV} if package == "braindnorm" else {}))
    in_mv, in_v = norm(x * u.mV), norm(x * 1e-3 * u.volt)
    return "the same" if np.allclose(u.get_mantissa(in_mv), u.get_mantissa(in_v.to(u.mV)), atol=1e-2) else "**differ**"


def padding(package):
    """Whether outputs and gradients of the valid part are those without the padding, which holds NaN."""
    if not takes_mask(package):
        return "no mask"
    x, mask = jnp.array([[1.0, 2.0, 4.0, jnp.nan]]), jnp.array([[True, True, True, False]])
    padded, alone = build(package, 4), build(package, 3)

    def loss(x, norm, **mask):
        return jnp.sum(norm(x, **mask)[:, :3] ** 3)

    value = np.allclose(padded(x, mask=mask)[:, :3], alone(x[:, :3]), atol=1e-5)
    gradient = jax.grad(loss)(x, padded, mask=mask)[:, :3]
    if not value:
        return "**wrong**"
    right = np.allclose(gradient, jax.grad(loss)(x[:, :3], alone), atol=1e-4)
    return "right" if right else f"right, **gradient {'NaN' if np.isnan(gradient).any() else 'wrong'}**"


def empty(package):
    """What a row with nothing valid gives."""
    if not takes_mask(package):
        return "no mask"
    y = build(package, 4)(jnp.ones((1, 4)), mask=jnp.zeros((1, 4), bool))
    return "finite" if np.isfinite(y).all() else "**NaN**"


def devices(package):
    """Whether two devices with one and three valid elements agree with the whole."""
    if not takes_mask(package):
        return "no mask"
    x = jnp.array([[1.0, 0.0, 0.0, 0.0], [2.0, 4.0, 12.0, 0.0]])
    mask = jnp.array([[True, False, False, False], [True, True, True, False]])
    norm = build(package, 4, axis_name="devices")
    y = jax.vmap(lambda x, mask: norm(x, mask=mask), axis_name="devices")(x, mask)
    truth = (x[mask] - x[mask].mean()) / np.sqrt(x[mask].var() + EPSILON)
    return "right" if np.allclose(y[mask], truth, atol=1e-4) else "**wrong**"


QUESTIONS = {
    "error at −65 ± 0.01 mV": at_rest,
    "a quantity, in mV and in V": units,
    "NaN in masked padding": padding,
    "a row with nothing valid": empty,
    "devices with unequal counts": devices,
}


def answer(question, package):
    try:
        return question(package)
    except (TypeError, AttributeError, ValueError) as error:
        return type(error).__name__


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", help=f"any of {', '.join(PACKAGES)} (all that are installed)")
    asked = parser.parse_args().packages or PACKAGES
    unknown = [package for package in asked if package not in PACKAGES]
    if unknown:
        parser.error(f"unknown packages: {', '.join(unknown)}; known are {', '.join(PACKAGES)}")
    warnings.simplefilter("ignore")
    found = [package for package in asked if importlib.util.find_spec(package.split(".")[0])]
    print("| |", " | ".join(found), "|")
    print("| --- |", " | ".join("---" for _ in found), "|")
    for label, question in QUESTIONS.items():
        print(f"| {label} |", " | ".join(answer(question, package) for package in found), "|", flush=True)


if __name__ == "__main__":
    main()
