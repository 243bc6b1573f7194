"""Code a plane of symbols with integer frequencies counted from what was coded before: no table is stored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netopsy.codec.ports import Port, frequencies
from netopsy.codec.shared import ARRAY

FIRST, LARGEST_PLANE = 32, 1 << 20


def growing_pieces(count: int) -> Iterator[slice]:
    """Consecutive pieces of `count` symbols, each an eighth of what lies before it: between them the counts are met."""
    start = 0
    while start < count:
        stop = min(count, start + min(max(FIRST, start // 8), LARGEST_PLANE))
        yield slice(start, stop)
        start = stop


def code_plane(port: Port, plane: ARRAY, prior: ARRAY, step: int) -> None:
    """Code `plane` (n,) in place. prior: weights of the symbols before any is seen, int (k,); step: of one sighting."""
    weights = prior.astype(np.int64)
    for block in growing_pieces(len(plane)):
        plane[block] = port.code(plane[block], frequencies(weights))
        weights += step * np.bincount(plane[block], minlength=len(prior))
        if int(weights.sum()) >> 37:
            weights = weights >> 1 | 1


def code_uniform(port: Port, plane: ARRAY, entries: int) -> None:
    """Code `plane` (n,) of symbols below `entries` in place, all equally likely."""
    flat = frequencies(np.ones(entries, np.int64))
    for start in range(0, len(plane), LARGEST_PLANE):
        piece = slice(start, start + LARGEST_PLANE)
        plane[piece] = port.code(plane[piece], flat)


SMALLEST, LARGEST = 16, 1 << 16
BUCKETS = 16
# Sightings, in 32nds and 16ths, that a fresh context is taken to have had at the common frequencies.
MASK_PRIOR, CODE_PRIOR = 64, 256
# A triangle over four neighbours to each side: entries that lie close in the table are about equally frequent.
TRIANGLE = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1], np.int64)


def by_context(contexts: ARRAY | None, count: int) -> list[tuple[int, ARRAY | slice]]:
    """Each context that occurs, with the places (n,) where it does, in order; all of `count` where there is one."""
    if contexts is None:
        return [(0, slice(0, count))]
    order = np.argsort(contexts, kind="stable")
    ends = np.bincount(contexts, minlength=1).cumsum()
    return [
        (which, order[start:end])
        for which, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
        if end > start
    ]


class Masks:
    """Counts of zeros and others in each of a number of contexts; a fresh context starts near the common share."""

    def __init__(self, contexts: int) -> None:
        self.seen = np.zeros((contexts, 2), np.int64)
        self.all = np.zeros(2, np.int64)

    def code(self, port: Port, bits: ARRAY, contexts: ARRAY | None) -> None:
        """Code `bits`, uint8 (n,), in place. contexts: uint8 or uint16 (n,), or None for one."""
        for which, places in by_context(contexts, len(bits)):
            coded = bits[places]
            start = 0
            while start < len(coded):
                counts = self.seen[which]
                stop = min(len(coded), start + min(max(SMALLEST, int(counts.sum()) // 8), LARGEST))
                common = MASK_PRIOR * (2 * self.all + 1) // (2 * int(self.all.sum()) + 2)
                coded[start:stop] = port.code(coded[start:stop], frequencies(32 * counts + common + 1))
                ones = int(np.count_nonzero(coded[start:stop]))
                met = np.array([stop - start - ones, ones])
                counts += met
                self.all += met
                start = stop
            bits[places] = coded


class Codes:
    """Counts of the entries, and of buckets of neighbouring entries in each context.

    The frequency of an entry in a context is that of its bucket there times that of the entry within its bucket
    anywhere: a context has sixteen numbers to learn and not hundreds.
    """

    def __init__(self, entries: int, contexts: int) -> None:
        self.seen = np.zeros(entries, np.int64)
        self.bucket = np.zeros(entries, np.int64)
        self.buckets = np.zeros((contexts, 1), np.int64)

    def part(self) -> None:
        """Part the entries into buckets that were about equally frequent so far; the first call counts."""
        if self.buckets.shape[1] > 1:
            return
        weights = self._weights()
        middle = 2 * weights.cumsum() - weights
        count = min(BUCKETS, len(weights))
        self.bucket = middle * count // (2 * int(weights.sum()))
        self.buckets = np.zeros((len(self.buckets), count), np.int64)

    def code(self, port: Port, symbols: ARRAY, contexts: ARRAY | None) -> None:
        """Code `symbols`, int32 (n,), in place. contexts: uint8 (n,), or None for one."""
        for which, places in by_context(contexts, len(symbols)):
            coded = symbols[places]
            start = 0
            while start < len(coded):
                size = min(int(self.seen.sum()) // 16, int(self.buckets[which].sum()) // 4)
                stop = min(len(coded), start + min(max(SMALLEST, size), LARGEST))
                coded[start:stop] = port.code(coded[start:stop], frequencies(self._within(which)))
                met = np.bincount(coded[start:stop], minlength=len(self.seen))
                self.seen += met
                self.buckets[which] += _sums(met, self.bucket, self.buckets.shape[1])
                start = stop
            symbols[places] = coded

    def _weights(self) -> ARRAY:
        """16 for each sighting, and about 128 an entry shared out as the neighbours' sightings are."""
        fine = 10 * self.seen + 3
        spread = np.convolve(np.pad(fine, 4, mode="edge"), TRIANGLE, "valid")
        weights = 16 * self.seen + 128 * len(fine) * spread // (25 * int(fine.sum())) + 1
        return weights >> max(0, int(weights.max()).bit_length() - 28) | 1

    def _within(self, which: int) -> ARRAY:
        weights = self._weights()
        count = self.buckets.shape[1]
        if count == 1:
            return weights
        sums = _sums(weights, self.bucket, count)
        common = CODE_PRIOR * sums // int(sums.sum())
        counts = 16 * self.buckets[which] + common + 1
        shares = (counts << 16) // int(counts.sum())
        return (weights << 14) * shares[self.bucket] // np.maximum(1, sums)[self.bucket]


def _sums(values: ARRAY, bucket: ARRAY, count: int) -> ARRAY:
    if count == 1:
        return values.sum(keepdims=True)
    sums = np.zeros(count, np.int64)
    np.add.at(sums, bucket, values)
    return sums


# 256 * 2**((j + 0.5) / 2), j from -6 to 5
STEPS = np.array([38, 54, 76, 108, 152, 215, 304, 431, 609, 861, 1218, 1722])
WIDEST = 5
LEVELS = 2 * WIDEST + 1


def level(part: ARRAY, total: ARRAY | int) -> ARRAY:
    """log2 of part / whole beside the same of their sums, in halves, from -6 to 6. part, whole: counts, int64 (n,).

    Four observations at the common share are added to each, so that few say little.
    """
    wholes = np.broadcast_to(np.asarray(total, np.int64), part.shape)
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

    def add(self, tile: tuple[slice, slice], part: ARRAY, total: ARRAY) -> None:
        """Count a tile: `part` of `total`, ints (r, c) of at least 0."""
        for axis in (0, 1):
            self.part[axis][tile[axis]] += part.sum(axis=1 - axis, dtype=np.int64)
            self.whole[axis][tile[axis]] += total.sum(axis=1 - axis, dtype=np.int64)

    def levels(self) -> tuple[ARRAY, ARRAY]:
        """Levels of the rows and of the columns; of zeros where those are the fewer, for there a ratio says more."""
        most = int(self.part[0].sum())
        total = int(self.whole[0].sum())
        parts = [w - p for p, w in zip(self.part, self.whole, strict=True)] if total // 2 < most <= total else self.part
        rows, columns = (level(p, w) for p, w in zip(parts, self.whole, strict=True))
        return rows, columns
