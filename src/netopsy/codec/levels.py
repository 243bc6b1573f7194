"""How dense a row or a column is beside all of them, as a whole number of half octaves."""

from __future__ import annotations

import numpy as np

from netopsy.codec.shared import ARRAY

# 256 * 2**((j + 0.5) / 2), j from -6 to 5
STEPS = np.array([38, 54, 76, 108, 152, 215, 304, 431, 609, 861, 1218, 1722])
WIDEST = 5
LEVELS = 2 * WIDEST + 1


def level(part: ARRAY, whole: ARRAY | int) -> ARRAY:
    """log2 of part / whole beside the same of their sums, in halves, from -6 to 6. part, whole: counts, int64 (n,).

    Four observations at the common share are added to each, so that few say little.
    """
    wholes = np.broadcast_to(np.asarray(whole, np.int64), part.shape)
    all_of, all_part = int(wholes.sum()), int(part.sum())
    shift = max(0, all_of.bit_length() - 24)
    all_of, all_part = max(1, all_of >> shift), max(1, all_part >> shift)
    share = (part * all_of + 4 * all_part) * 256 // ((wholes + 4) * all_part)
    return np.searchsorted(STEPS, share, side="right") - 6


def product(rows: ARRAY, columns: ARRAY, tile: tuple[slice, slice]) -> ARRAY:
    """The level of each place of a tile from those of its row and its column, uint8 (r, c), 0 to 10."""
    both = rows[tile[0]].astype(np.int8)[:, None] + columns[tile[1]].astype(np.int8)[None, :]
    return (np.clip(both, -WIDEST, WIDEST) + WIDEST).astype(np.uint8)


class Margins:
    """Sums of something over the rows and over the columns of all planes so far, and how much was looked at."""

    def __init__(self, counts: tuple[int, int, int]) -> None:
        self.part = [np.zeros(side, np.int64) for side in counts[1:]]
        self.whole = [np.zeros(side, np.int64) for side in counts[1:]]

    def add(self, tile: tuple[slice, slice], part: ARRAY, whole: ARRAY) -> None:
        """Count a tile: `part` of `whole`, ints (r, c) of at least 0."""
        for axis in (0, 1):
            self.part[axis][tile[axis]] += part.sum(axis=1 - axis, dtype=np.int64)
            self.whole[axis][tile[axis]] += whole.sum(axis=1 - axis, dtype=np.int64)

    def levels(self) -> tuple[ARRAY, ARRAY]:
        """Levels of the rows and of the columns; of zeros where those are the fewer, for there a ratio says more."""
        most = int(self.part[0].sum())
        whole = int(self.whole[0].sum())
        parts = [w - p for p, w in zip(self.part, self.whole, strict=True)] if whole // 2 < most <= whole else self.part
        rows, columns = (level(p, w) for p, w in zip(parts, self.whole, strict=True))
        return rows, columns
