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


def product(rows: ARRAY, columns: ARRAY) -> ARRAY:
    """The level of each place of a matrix from those of its row and its column, uint8 (r, c), 0 to 10."""
    both = rows.astype(np.int8)[:, None] + columns.astype(np.int8)[None, :]
    return (np.clip(both, -WIDEST, WIDEST) + WIDEST).astype(np.uint8)
