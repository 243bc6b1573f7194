"""The figure of Section 3: a unit a row, a rule a column, on the image and close up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from netopsy.network.preprocessing import Preprocessing
from netopsy.network.windows.field import Box
from netopsy.pictures.captions import below, beside, caption
from netopsy.pictures.mosaic import NEUTRAL, PAPER
from netopsy.pictures.pictures import framed, map_pictures, pictures, resized

Picture = UInt8[np.ndarray, "height width 3"]
SIDE = 224  # pixels of a column on the sheet
_CLIP = 0.005  # share of a map's non-zero values drawn at full strength: a few peaks would darken all else
_CLOSE = 0.7  # a field wider than this share of the image needs no close-up


def sheet(
    images: Tensor,
    of: Sequence[int],
    fields: Sequence[Box],
    maps: Mapping[str, Tensor],
    titles: Sequence[str],
    preprocessing: Preprocessing,
) -> Picture:
    """One row a unit: the image with its field of view framed, then each rule's map over a faded image.

    images: (n, channel, height, width). of: each unit's image. maps: rule -> (units, channel, height, width).
    titles: what stands above each row. Where fields are small, each row shows the field alone below.
    """
    size = _shown(preprocessing.size)
    originals = pictures(images, preprocessing)
    drawn = {rule: map_pictures(values, preprocessing, clip=_CLIP) for rule, values in maps.items()}
    head = beside([caption(text, size[1]) for text in ("image", *maps)], 4)
    rows = [head]
    for row, (image, field) in enumerate(zip(of, fields, strict=True)):
        rows.append(caption(titles[row], head.shape[1]))
        whole = [originals[image], *(_over(originals[image], d[row], field) for d in drawn.values())]
        zoom = max(1, size[0] // preprocessing.size[0])
        box = tuple(zoom * n for n in field)
        rows.append(beside([framed(resized(p, size, smooth=zoom == 1), box) for p in whole], 4))  # type: ignore[arg-type]
        if max((field[2] - field[0]) / preprocessing.size[0], (field[3] - field[1]) / preprocessing.size[1]) < _CLOSE:
            parts = [originals[image], *(d[row] for d in drawn.values())]
            rows.append(beside([_close(part, field, size) for part in parts], 4))
    return below(rows, 4)


def _shown(size: tuple[int, int]) -> tuple[int, int]:
    """Size of a column: a whole multiple of a small image, or the image itself."""
    zoom = max(1, SIDE // max(size))
    return size[0] * zoom, size[1] * zoom


def _over(image: Picture, map_: Picture, field: Box) -> Picture:
    """The map inside its field; outside the image, faded."""
    gray = image.mean(2, keepdims=True)
    faded = np.repeat((0.35 * gray + 0.65 * NEUTRAL * 1.4).clip(0, 255).astype(np.uint8), 3, 2)
    top, left, bottom, right = field
    faded[top:bottom, left:right] = map_[top:bottom, left:right]
    return faded


def _close(picture: Picture, field: Box, size: tuple[int, int]) -> Picture:
    """The field alone, enlarged to the column."""
    top, left, bottom, right = field
    part = np.ascontiguousarray(picture[top:bottom, left:right])
    scale = min(size[0] / part.shape[0], size[1] / part.shape[1])
    shown = resized(part, (max(1, round(part.shape[0] * scale)), max(1, round(part.shape[1] * scale))), smooth=False)
    return np.pad(shown, ((0, 0), (0, size[1] - shown.shape[1]), (0, 0)), constant_values=PAPER)
