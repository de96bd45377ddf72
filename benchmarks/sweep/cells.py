"""Which cells there are, and which of them are measured: those that cover every pair of choices soonest."""

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

Shape = tuple[int, ...]

AXES: dict[str, Shape] = {
    "trailing": (-1,),
    "leading": (-3,),
    "middle": (-2,),
    "two leading": (-3, -2),
    "two trailing": (-2, -1),
    "all": (-3, -2, -1),
}
# which axes of the input a mask has: that of an element, a step, a feature, a trial
MASKS = {"no mask": "", "element": "abc", "step": "ab", "feature": "c", "trial": "a"}
# an argument of the program, or a constant of it
GIVEN = ("argument", "constant")
SHAPES: tuple[Shape, ...] = (
    (16, 16, 8),
    (4096, 1, 7),
    (32, 32, 32),
    (37, 29, 61),
    (64, 16, 256),
    (8, 2, 50021),
    (64, 128, 256),
    (64, 512, 128),
    (8, 1000, 1000),
)
KINDS = ("layer", "rms", "group", "batch", "over time", "divisive", "moments")
# those that are not for any axes
KINDS_OVER = {"group": ("trailing", "two trailing"), "batch": ("two leading",), "over time": ("trailing",)}
# how many of the three axes are left within a lane
INSIDE = {
    "none": 3,
    "remat": 3,
    "vmap": 2,
    "vmap2": 2,
    "vmap of both": 2,
    "scan": 2,
    "vmap of vmap": 1,
    "vmap in for_loop": 1,
}
TRIES = 60
# of the axes, the mask, how it is given, the transform and the shape
CHOICES = (AXES, MASKS, GIVEN, INSIDE, SHAPES)


class Cell(NamedTuple):
    """One case of the sweep."""

    kind: str
    axes: str
    mask: str
    given: str
    transform: str
    shape: Shape

    def __str__(self) -> str:
        mask = self.mask if self.mask == "no mask" else f"{self.mask} mask, {self.given}"
        return f"{self.kind} {'x'.join(map(str, self.shape))} over {self.axes}, {mask}, {self.transform}"

    @property
    def mask_shape(self) -> Shape | None:
        """The shape of the mask, if there is one."""
        named = MASKS[self.mask]
        return tuple(n if axis in named else 1 for axis, n in zip("abc", self.shape, strict=True)) if named else None

    @property
    def fits(self) -> bool:
        """Whether its choices go together: what is reduced lies within a lane, and is more than one number."""
        axes = AXES[self.axes]
        several = max(self.shape[axis] for axis in axes) > 1
        alone = self.kind != "over time" or (self.mask, self.transform) == ("no mask", "none")
        argument = self.given == "argument" or (self.mask != "no mask" and INSIDE[self.transform] == 3)
        over = self.axes in KINDS_OVER.get(self.kind, AXES)
        return several and alone and argument and over and max(-axis for axis in axes) <= INSIDE[self.transform]

    @property
    def pairs(self) -> set[tuple[tuple[int, object], ...]]:
        """Every two of its choices."""
        return set(itertools.combinations(enumerate(self), 2))


def cells(seed: int = 0) -> Iterator[Cell]:
    """Return cells without end: of some at random, the next is the one that has most pairs not measured before."""
    draw = random.Random(seed)
    every = [cell for cell in itertools.starmap(Cell, itertools.product(KINDS, *CHOICES)) if cell.fits]
    measured: set[tuple[tuple[int, object], ...]] = set()
    while every:
        some = draw.sample(every, min(TRIES, len(every)))
        best = max(some, key=lambda cell: len(cell.pairs - measured))
        measured |= best.pairs
        every.remove(best)
        yield best


def all_pairs() -> set[tuple[tuple[int, object], ...]]:
    """Return every pair of choices that some cell has."""
    found: set[tuple[tuple[int, object], ...]] = set()
    for cell in itertools.starmap(Cell, itertools.product(KINDS, *CHOICES)):
        if cell.fits:
            found |= cell.pairs
    return found
