"""Zeiler and Fergus' Figure 2 for a few nodes."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8

from netopsy.pictures.captions import below, beside, caption
from netopsy.pictures.mosaic import grid
from netopsy.pictures.pictures import resized
from netopsy.result import Image
from netopsy.studies.stimuli.drawing import Drawn

_LINE = 190  # the gray between a unit's patches: some are white
_SIDE = 48  # screen pixels of a patch, about
_GAP = 14  # between units


def figure(drawn: list[Drawn], top: int) -> Image:
    """Each unit's patches, and beside them what comes back from it. top: patches a unit."""
    parts = []
    for one in drawn:
        blocks = [_block(tiles, top) for tiles in one.shown]
        words = f"{one.counted.node}: units {', '.join(map(str, one.channels[: len(blocks)]))}"
        parts += [caption(words), grid(np.stack(blocks), min(3, len(blocks)), _GAP)[_GAP:-_GAP, _GAP:-_GAP]]
    names = ", ".join(one.counted.node for one in drawn)
    back = any(one.rule for one in drawn)
    sides = "left the patches of the images that excite it most, right what is projected back from it to each"
    return Image(
        below(parts, gap=6),
        "The strongest stimuli of some units",
        f"One block a unit: {sides if back else 'the patches of the images that excite it most'}; strongest first, "
        "row by row. A patch is the unit's receptive field; gray is beyond the image, and in a reconstruction zero.",
        "after Zeiler and Fergus, Figure 2",
        alt=f"Patches and reconstructions of units of {names}",
    )


def _block(tiles: UInt8[np.ndarray, "tile height width 3"], top: int) -> UInt8[np.ndarray, "rows cols 3"]:
    """One unit: its patches in a square, and its reconstructions in another to the right."""
    height, width = tiles.shape[1:3]
    zoom = max(1, round(_SIDE / max(height, width)))
    large = np.stack([resized(tile, (height * zoom, width * zoom), smooth=False) for tile in tiles])
    columns = math.ceil(math.sqrt(top))
    halves = [large[first : first + top] for first in range(0, len(large), top)]
    return beside([grid(half, min(columns, top), 1, _LINE) for half in halves], gap=4)
