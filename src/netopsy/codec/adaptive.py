"""Code a plane of symbols with frequencies counted from what was coded before: no table is sent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netopsy.codec.ports import Port, frequencies
from netopsy.codec.shared import ARRAY

FIRST, LARGEST = 32, 1 << 20


def blocks(count: int) -> Iterator[slice]:
    """Consecutive pieces of `count` symbols, each an eighth of what lies before it: between them the counts are met."""
    start = 0
    while start < count:
        stop = min(count, start + min(max(FIRST, start // 8), LARGEST))
        yield slice(start, stop)
        start = stop


def code_plane(port: Port, plane: ARRAY, prior: ARRAY, step: int) -> None:
    """Code `plane` (n,) in place. prior: weights of the symbols before any is seen, int (k,); step: of one sighting."""
    weights = prior.astype(np.int64)
    for block in blocks(len(plane)):
        plane[block] = port.code(plane[block], frequencies(weights))
        weights += step * np.bincount(plane[block], minlength=len(prior))
        if int(weights.sum()) >> 37:
            weights = weights >> 1 | 1


def code_uniform(port: Port, plane: ARRAY, entries: int) -> None:
    """Code `plane` (n,) of symbols below `entries` in place, all equally likely."""
    flat = frequencies(np.ones(entries, np.int64))
    for start in range(0, len(plane), LARGEST):
        piece = slice(start, start + LARGEST)
        plane[piece] = port.code(plane[piece], flat)
