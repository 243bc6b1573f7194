"""The strongest images, value by value."""

from __future__ import annotations

import math

import numpy as np


def strongest(maps: np.ndarray, indices: list[int], k: int) -> list[list[tuple[float, int, int]]]:
    """For each channel the k best (value, image, flat place); maps: (image, channel, place)."""
    by_channel = []
    for channel in range(maps.shape[1]):
        entries = []
        for row, image in enumerate(indices):
            best, place = -math.inf, -1
            for p, value in enumerate(maps[row, channel].tolist()):
                if value > best:  # false for NaN
                    best, place = value, p
            if place >= 0:
                entries.append((best, image, place))
        entries.sort(key=lambda entry: (-entry[0], entry[1]))
        by_channel.append(entries[:k] + [(-math.inf, -1, -1)] * (k - len(entries)))
    return by_channel
