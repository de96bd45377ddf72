"""The fashion example: what it reads and shows, and what it says where the images are missing."""

import gzip
from pathlib import Path

import fashion_data as data
import numpy as np
import pytest


def test_images_are_read_and_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, number in (("train", 9), ("t10k", 6)):
        pixels, kind = rng.integers(0, 256, (number, 28, 28), np.uint8), rng.integers(0, 10, number, np.uint8)
        for what, head, array in (("images-idx3", 16, pixels), ("labels-idx1", 8, kind)):
            with gzip.open(tmp_path / f"{part}-{what}-ubyte.gz", "wb") as file:
                file.write(bytes(head) + array.tobytes())
    train, test = data.load(tmp_path, 8)
    assert train.pixels.shape == (8, 28, 28, 1) and len(test.kind) == 6
    np.testing.assert_array_equal(test.kind, kind)
    np.testing.assert_allclose(test.pixels[..., 0] * 255, pixels, atol=1e-4)
    flashed = data.flashed(train, 0)
    assert set(flashed.shown) <= {1, 2, 3, 4} and len(set(flashed.shown)) > 1
    ((x, mask, _),) = data.batches(flashed, np.arange(8), 5)  # what does not fill a batch is left out
    assert x.shape == (data.STEPS, 5, 28, 28, 1)
    np.testing.assert_array_equal(mask.sum(0), flashed.shown[:5])
    for step in range(data.STEPS):
        np.testing.assert_array_equal(x[step], mask[step, :, None, None, None] * train.pixels[:5])


def test_what_to_do_without_the_images(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"Fashion-MNIST is not in .*apt-get install dataset-fashion-mnist\. .*--data"):
        data.load(tmp_path)
