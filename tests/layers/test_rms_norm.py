"""What RMSNorm has of its own."""

from typing import Any

import numpy as np
import pytest

from braindnorm import RMSNorm
from tests.support import reference
from tests.support.norms import draw, parameters, randomize


@pytest.mark.parametrize("shape", [6, (4, 6)], ids=str)
def test_from_normalized_shape(shape: Any) -> None:
    layer = randomize(RMSNorm.from_normalized_shape(shape))
    sizes = (shape,) if isinstance(shape, int) else shape
    assert {key: v.shape for key, v in parameters(layer).items()} == {"scale": sizes}
    x, axes = draw(2, 3, 4, 6), tuple(range(-len(sizes), 0))
    want = reference.rms_norm(x, axes, epsilon=1e-5, **parameters(layer))
    np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-5)
    assert RMSNorm.from_normalized_shape(shape, elementwise_affine=False).scale is None


@pytest.mark.parametrize("fast", [True, False])
def test_nothing_is_centred(fast: bool) -> None:
    x = draw(5, 6, loc=-65, scale=5)
    y = RMSNorm(6, use_fast_variance=fast)(x)
    np.testing.assert_allclose(y, x / np.sqrt(np.mean(x.astype(float) ** 2, -1, keepdims=True)), rtol=1e-6)
