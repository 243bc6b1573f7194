"""One dense SIFT descriptor, its words and their pooling, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter


def blurred(image: np.ndarray, bin: int) -> np.ndarray:
    """The image (height, width) at the scale of a bin: Gaussian blur of variance (bin / 6)^2 - 1/4, borders repeat."""
    variance = (bin / 6) ** 2 - 0.25
    if variance <= 0:
        return image.astype(float)
    deviation = math.sqrt(variance)
    return gaussian_filter(image.astype(float), deviation, mode="nearest", radius=math.ceil(4 * deviation))


def gradient(image: np.ndarray, y: int, x: int) -> tuple[float, float]:
    """(dy, dx) at a pixel: half the difference of its neighbours, at a border the difference to the one inside."""

    def along(values: np.ndarray, at: int) -> float:
        if at == 0:
            return values[1] - values[0]
        if at == len(values) - 1:
            return values[-1] - values[-2]
        return (values[at + 1] - values[at - 1]) / 2

    return along(image[:, x], y), along(image[y], x)


def descriptor(image: np.ndarray, top: int, left: int, bin: int, root: bool = False) -> np.ndarray:
    """SIFT (128,) of an image in 0..1 whose first cell has its centre at (top, left)."""
    image = blurred(image, bin)
    height, width = image.shape
    cells = np.zeros((4, 4, 8))
    middle_y, middle_x = top + 1.5 * bin, left + 1.5 * bin
    for row in range(4):
        for column in range(4):
            for y in range(top + (row - 1) * bin + 1, top + (row + 1) * bin):
                for x in range(left + (column - 1) * bin + 1, left + (column + 1) * bin):
                    # a pixel beyond the border has the gradient of the one at the border
                    dy, dx = gradient(image, min(max(y, 0), height - 1), min(max(x, 0), width - 1))
                    near = (1 - abs(y - top - row * bin) / bin) * (1 - abs(x - left - column * bin) / bin)
                    away = ((y - middle_y) ** 2 + (x - middle_x) ** 2) / (2 * (2 * bin) ** 2)
                    angle = (math.atan2(dy, dx) % (2 * math.pi)) / (math.pi / 4)
                    lower = math.floor(angle)
                    mass = math.hypot(dy, dx) * near * math.exp(-away)
                    cells[row, column, lower % 8] += mass * (1 - (angle - lower))
                    cells[row, column, (lower + 1) % 8] += mass * (angle - lower)
    vector = cells.ravel()
    if vector.sum() < 0.005 * (3 * bin + 1) ** 2:
        return np.zeros(128)
    vector = np.minimum(vector / np.sqrt((vector**2).sum()), 0.2)
    vector = vector / np.sqrt((vector**2).sum())
    return np.sqrt(vector / vector.sum()) if root else vector


def bag(descriptors: np.ndarray, centres: np.ndarray, words: np.ndarray, pooling: str, grids, near: int, beta: float):
    """One image's vector: for each grid and region the histogram of nearest words, or the greatest share of each word.

    descriptors: (m, 128). centres: (m, 2) in 0..1. Liu et al. 2011: a descriptor's shares are exp(-beta d^2) over its
    `near` nearest words, with sum 1.
    """
    parts = []
    for rows, columns in grids:
        for row in range(rows):
            for column in range(columns):
                pooled, count = np.zeros(len(words)), 0
                for vector, (y, x) in zip(descriptors, centres, strict=True):
                    if int(y * rows) != row or int(x * columns) != column:
                        continue
                    count += 1
                    squares = ((words - vector) ** 2).sum(1)
                    if pooling == "average":
                        pooled[squares.argmin()] += 1
                    else:
                        chosen = np.argsort(squares)[:near]
                        shares = np.exp(-beta * squares[chosen])
                        shares = shares / shares.sum()
                        pooled[chosen] = np.maximum(pooled[chosen], shares)
                parts.append(pooled / max(count, 1) if pooling == "average" else pooled)
    return np.concatenate(parts)
