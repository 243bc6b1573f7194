"""Pictures of filters: each filter a small square, all of them on one sheet."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, UInt8

PAPER = 255  # the gap between squares
NEUTRAL = 128


def normalise(filters: Float[np.ndarray, "n *rest"]) -> UInt8[np.ndarray, "n *rest"]:
    """Each filter scaled by its own largest magnitude: 0 becomes 128, the largest magnitude 1 or 255."""
    flat = filters.reshape(len(filters), -1).astype(np.float64)
    reach = np.abs(flat).max(1, keepdims=True)
    scaled = np.divide(flat, reach, out=np.zeros_like(flat), where=reach > 0)
    return np.rint(NEUTRAL + 127 * scaled).astype(np.uint8).reshape(filters.shape)


def grid(
    squares: UInt8[np.ndarray, "n height width *channel"],
    columns: int | None = None,
    gap: int = 1,
    ground: int = PAPER,
) -> UInt8[np.ndarray, "rows cols *channel"]:
    """The squares side by side, row by row, with `gap` pixels of `ground` around each.

    columns: of squares; by default as many as make the sheet about as wide as high.
    """
    n, height, width, *channel = squares.shape
    columns = columns or math.ceil(math.sqrt(n * height / width))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, *channel), ground, np.uint8)
    for index, square in enumerate(squares):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = square
    return sheet
