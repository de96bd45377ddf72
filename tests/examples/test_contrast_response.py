"""The curves of the example are those of the closed form, and the figure is drawn."""

import numpy as np
import pytest

from examples import contrast_response as example


@pytest.mark.parametrize("mask", example.MASKS)
def test_the_layer_is_the_closed_form(mask):
    got = example.response(example.CONTRASTS, mask)
    np.testing.assert_allclose(got.mantissa, example.closed_form(example.CONTRASTS, mask), rtol=2e-6)


def test_a_mask_shifts_the_curve_to_the_right():
    halves = [example.half_contrast(mask) for mask in example.MASKS]
    expected = np.hypot(example.C50, example.MASKS)
    np.testing.assert_allclose(halves, expected, rtol=1e-4)


def test_figure(tmp_path):
    example.draw(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
