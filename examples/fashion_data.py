"""Fashion-MNIST: 60 000 images of clothes to learn from and 10 000 to test (H. Xiao et al. 2017, arXiv:1708.07747)."""

import gzip
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path("/usr/share/datasets/fashion-mnist")
HOW = (
    "On Debian and Ubuntu: apt-get install dataset-fashion-mnist. Elsewhere get the four files *-ubyte.gz of"
    " github.com/zalandoresearch/fashion-mnist, and write --data path/to/their/folder"
)
STEPS, CLASSES = 4, 10


class Images(NamedTuple):
    """Images (N, 28, 28, 1) from 0 to 1, what they show, and for how many of the STEPS each is shown."""

    pixels: np.ndarray
    kind: np.ndarray
    shown: np.ndarray


def load(folder: Path, number: int | None = None) -> tuple[Images, Images]:
    """Read the first images of each part, all of them with None."""
    if not (folder / "train-images-idx3-ubyte.gz").is_file():
        sys.exit(f"Fashion-MNIST is not in {folder}. {HOW}")
    return tuple(_read(folder, part, number) for part in ("train", "t10k"))


def _read(folder: Path, part: str, number: int | None) -> Images:
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as images:
        pixels = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)[:number]
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as labels:
        kind = np.frombuffer(labels.read(), np.uint8, offset=8)[:number]
    return Images(pixels.astype(np.float32) / 255, kind.astype(np.int32), np.full(len(kind), STEPS))


def flashed(images: Images, seed: int) -> Images:
    """Show each image for 1 to STEPS steps, drawn at random."""
    return images._replace(shown=np.random.default_rng(seed).integers(1, STEPS + 1, len(images.kind)))


def batches(images: Images, order: np.ndarray, size: int):
    """Yield batches: what is seen (T, batch, 28, 28, 1), dark when an image is over, its mask (T, batch), and what."""
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        mask = np.arange(STEPS)[:, None] < images.shown[chosen]
        yield mask[..., None, None, None] * images.pixels[chosen], mask, images.kind[chosen]
