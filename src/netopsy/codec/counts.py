"""Counts of what was coded, from which the frequencies of what comes are made: integers all the way."""

from __future__ import annotations

import numpy as np

from netopsy.codec.ports import Port, frequencies
from netopsy.codec.shared import ARRAY

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
            got = bits[places]
            start = 0
            while start < len(got):
                seen = self.seen[which]
                stop = min(len(got), start + min(max(SMALLEST, int(seen.sum()) // 8), LARGEST))
                common = MASK_PRIOR * (2 * self.all + 1) // (2 * int(self.all.sum()) + 2)
                got[start:stop] = port.code(got[start:stop], frequencies(32 * seen + common + 1))
                ones = int(np.count_nonzero(got[start:stop]))
                met = np.array([stop - start - ones, ones])
                seen += met
                self.all += met
                start = stop
            bits[places] = got


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
            got = symbols[places]
            start = 0
            while start < len(got):
                known = min(int(self.seen.sum()) // 16, int(self.buckets[which].sum()) // 4)
                stop = min(len(got), start + min(max(SMALLEST, known), LARGEST))
                got[start:stop] = port.code(got[start:stop], frequencies(self._within(which)))
                met = np.bincount(got[start:stop], minlength=len(self.seen))
                self.seen += met
                self.buckets[which] += _sums(met, self.bucket, self.buckets.shape[1])
                start = stop
            symbols[places] = got

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
        here = 16 * self.buckets[which] + common + 1
        shares = (here << 16) // int(here.sum())
        return (weights << 14) * shares[self.bucket] // np.maximum(1, sums)[self.bucket]


def _sums(values: ARRAY, bucket: ARRAY, count: int) -> ARRAY:
    if count == 1:
        return values.sum(keepdims=True)
    sums = np.zeros(count, np.int64)
    np.add.at(sums, bucket, values)
    return sums
