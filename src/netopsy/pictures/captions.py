"""Words and pictures on one sheet: captions, and sheets put together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from netopsy.pictures.mosaic import PAPER

INK = 40

Sheet = UInt8[np.ndarray, "height width 3"]


def caption(text: str, width: int | None = None, size: int = 13) -> Sheet:
    """One line of dark text on white, `width` pixels wide (by default as wide as the text), cut off where it is longer.

    size: height of the font in pixels.
    """
    font = _font(size)
    reach = int(font.getlength(text)) + 6
    image = Picture.new("RGB", (width or reach, size + 6), (PAPER,) * 3)
    drawn = text
    while width and len(drawn) > 4 and font.getlength(drawn) > width - 4:
        drawn = drawn[:-4].rstrip() + "..."
    ImageDraw.Draw(image).text((2, 1), drawn, fill=(INK,) * 3, font=font)
    return np.asarray(image).copy()


def below(parts: Sequence[Sheet], gap: int = 0) -> Sheet:
    """The parts under one another, flush left, on white."""
    width = max(part.shape[1] for part in parts)
    rows = [np.pad(p, ((0, gap), (0, width - p.shape[1]), (0, 0)), constant_values=PAPER) for p in parts]
    return np.concatenate(rows)[: sum(len(p) for p in rows) - gap]


def beside(parts: Sequence[Sheet], gap: int = 0) -> Sheet:
    """The parts side by side, flush at the top, on white."""
    turned = below([part.transpose(1, 0, 2) for part in parts], gap)
    return np.ascontiguousarray(turned.transpose(1, 0, 2))


@lru_cache(8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
