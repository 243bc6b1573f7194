"""Where descriptors are taken, and over which parts of the image their words are pooled: by default from its size."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.features.bow.dense_sift import DenseSift
from netopsy.samples.samples import Samples

SIDE = 224  # the side of images that are too large, or differ in size
_LARGEST, _SMALLEST = 256, 24
_BINS = (4, 6, 8)  # pixels, on a side of 224
_STEP = 6
_LOOKED_AT = 16


def image_size(samples: Samples) -> tuple[int, int]:
    """(height, width) at which images are described: their own, if it is one and its sides have 24 to 256 pixels.

    Larger images, and images of different sizes (16 of them are looked at), are resized straight to 224 x 224. Smaller
    ones are enlarged by a whole factor.
    """
    places = {round(i * (len(samples) - 1) / (_LOOKED_AT - 1)) for i in range(_LOOKED_AT)}
    sizes = {samples.image(place).shape[:2] for place in places}
    height, width = sizes.pop()
    if sizes or max(height, width) > _LARGEST:
        return SIDE, SIDE
    factor = -(-_SMALLEST // min(height, width))
    return height * factor, width * factor


def descriptors_for(size: tuple[int, int], root: bool = False) -> tuple[DenseSift, ...]:
    """Three bin sizes, 4, 6 and 8 pixels, every 6 pixels on a side of 224; in proportion on others, within limits.

    A bin is never below 2 pixels, nor is the step; bins shrink to one half at most. Sides of 32: bins of 2, 3 and 4
    pixels, every 2 pixels.
    """
    share = min(min(size) / SIDE, 1.0)
    step = max(2, round(_STEP * share))
    return tuple(DenseSift(size, round(bin * max(share, 0.5)), step, root) for bin in _BINS)


def parse_grids(pyramid: Sequence[int | str]) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of each level: 2 and "2x2" part the image in 2 x 2, "3x1" in three rows.

    Errors: SettingsError for anything else.
    """
    grids = []
    for level in pyramid:
        found = re.fullmatch(r"(\d{1,2})x(\d{1,2})", str(level)) or re.fullmatch(r"(\d{1,2})", str(level))
        sides = tuple(int(side) for side in found.groups()) if found else (0,)
        if min(sides) < 1:
            raise SettingsError(
                f"level {level!r} of the pyramid is no grid; give ROWSxCOLUMNS, such as 1x1, 2x2 or 3x1."
            )
        grids.append((sides[0], sides[-1]))
    if not grids:
        raise SettingsError("the pyramid has no level; give at least 1x1.")
    return tuple(grids)


def regions(grids: Sequence[tuple[int, int]], sifts: Sequence[DenseSift]) -> list[Int64[Tensor, " descriptors"]]:
    """For each level, the region that each descriptor of an image belongs to by its centre; counted over all levels."""
    centres = torch.cat([sift.centres() for sift in sifts])
    found, before = [], 0
    for rows, columns in grids:
        cell = (centres * torch.tensor([rows, columns])).long()
        found.append(before + cell[:, 0] * columns + cell[:, 1])
        before += rows * columns
    return found
