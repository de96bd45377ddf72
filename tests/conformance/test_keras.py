"""Keras' norms (on JAX) and ours give the same values and gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from braindnorm import LayerNorm, RMSNorm
from tests.conformance.agreement import (
    ANYWHERE,
    AT_REST,
    CHANNELS_FIRST,
    CHANNELS_LAST,
    GROUPS_AT_REST,
    TRAILING,
    Answer,
    Case,
    check,
    in_half,
    through_jax,
)
from tests.support import reference
from tests.support.norms import draw

CASES = [*in_half([*TRAILING, *ANYWHERE, *CHANNELS_FIRST, *CHANNELS_LAST]), *AT_REST, *GROUPS_AT_REST]


def theirs(case: Case) -> Answer:
    options: dict[str, Any] = {"epsilon": case.epsilon, "dtype": case.dtype}
    if case.kind != "rms":
        options |= {"scale": "scale" in case.learned, "center": "bias" in case.learned}
    if case.kind == "group":
        layer = keras.layers.GroupNormalization(case.groups, case.features[0], **options)
    else:
        kind = keras.layers.LayerNormalization if case.kind == "layer" else keras.layers.RMSNormalization
        layer = kind(list(case.axes), **options)
    layer.build(case.shape)

    def call(learned: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return layer.stateless_call([learned[key] for key in case.learned], [], x)[0]

    return through_jax(case, call)


def test_keras_computes_with_jax() -> None:
    assert keras.backend.backend() == "jax"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case) -> None:
    check(case, theirs(case))


def test_where_keras_is_wrong_the_mask_does_not_reach_the_statistics() -> None:
    """Its layers say that they support masking: they hand the mask on, and normalize the padding with the rest."""
    x, valid = draw(2, 4, 6), np.arange(4) < 3
    embedded = jnp.asarray(np.where(valid[:, None], x, 0))
    sequence = keras.layers.Masking()(embedded)
    layer = keras.layers.LayerNormalization(axis=[1, 2], epsilon=1e-6)
    assert layer.supports_masking
    theirs = np.asarray(layer(sequence))[:, :3]
    alone = reference.layer_norm(x[:, :3], (1, 2))
    assert np.abs(theirs - alone).max() > 0.1
    y = LayerNorm((4, 6), reduction_axes=(-2, -1))(embedded, mask=valid[:, None])
    np.testing.assert_allclose(y[:, :3], alone, rtol=1e-5, atol=1e-6)


def test_where_keras_is_wrong_the_scale_of_rms_is_put_on_the_last_axis() -> None:
    x, scale = draw(2, 6, 6), np.arange(1, 7, dtype=np.float32)
    layer = keras.layers.RMSNormalization(axis=1)
    layer.build(x.shape)
    layer.scale.assign(scale)
    along = reference.rms_norm(x, 1, scale=scale[:, None])
    np.testing.assert_allclose(layer(x), reference.rms_norm(x, 1, scale=scale), rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(layer(x)) - along).max() > 1
    ours = RMSNorm((6, 6), reduction_axes=-2, feature_axes=0, scale_init=scale[:, None])
    np.testing.assert_allclose(ours(x), along, rtol=1e-5, atol=1e-6)
