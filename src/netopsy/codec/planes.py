"""The default coder: zeros and codes of a tensor, place by place of its kernels, with contexts from what is known."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from netopsy.codec import levels, neighbours
from netopsy.codec.adaptive import code_plane
from netopsy.codec.counts import Codes, Masks
from netopsy.codec.damage import Damage
from netopsy.codec.ports import Port, ReadPort, WritePort
from netopsy.codec.shared import ARRAY, SharedTensor

# How a stream was coded: its first byte; the scale of the values follows in the codes' stream. FITTED is CONTEXT with coefficients of its own in place of the plain ones.
FLAT, CONTEXT, FITTED = 0, 1, 2
MOST_PLACES = 256
TILE = 1 << 20
# Weights of a coefficient before any is seen: small ones are likely.
COEFFICIENT_PRIOR = np.maximum(1, 4096 >> (np.abs(np.arange(-127, 128)) // 5))


def encode_planes(shared: SharedTensor) -> tuple[bytes, bytes]:
    """The streams of the positions and of the codes, each by the way that makes it shortest."""
    view = View(shared.shape)
    scale = neighbours.mean_scale(shared.table, np.bincount(shared.codes, minlength=len(shared.table)))
    best: list[bytes] = []
    for way in view.ways():
        plane = view.planes(shared.codes)
        where, what = WritePort(), WritePort()
        run = Run(view, shared.table, shared.zero, (way, way), scale)
        if way == FITTED:
            run.coefficients = _fitted(run, plane)
        run.code(where, what, plane)
        head = bytes([way]) + scale.to_bytes(2, "little")
        streams = [bytes([min(way, CONTEXT)]) + where.finish() if shared.zero is not None else b"", head + what.finish()]
        best = [min(pair, key=len) for pair in zip(best, streams, strict=True)] if best else streams
    return best[0], best[1]


def decode_planes(
    positions: bytes, codes: bytes, shape: tuple[int, ...], table: ARRAY, zero: int | None, out: ARRAY
) -> None:
    """Fill `out` (n,) with the codes. Damage where the streams hold no such tensor."""
    view = View(shape)
    if len(codes) < 3 or (zero is not None and not positions) or (zero is None and positions):
        raise Damage("a stream is missing")
    way, seen = codes[0], positions[0] if positions else FLAT
    scale = int.from_bytes(codes[1:3], "little")
    if seen > CONTEXT or not {way, seen} <= set(view.ways()) or not scale:
        raise Damage("a stream is coded in an unknown way")
    where, what = ReadPort(positions[1:]), ReadPort(codes[3:].rstrip(b"\0"))
    plane = np.zeros(view.counts, out.dtype)
    Run(view, table, zero, (seen, way), scale).code(where, what, plane)
    where.finish()
    what.finish()
    view.back(plane, out)


class View:
    """A tensor as planes: (places of the kernel, output, input); a matrix is one plane, a vector one row of one plane."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        places = prod(shape[2:])
        self.flat = len(shape) < 2 or places > MOST_PLACES or not prod(shape)
        self.sides = (prod(shape[2:-1]), shape[-1]) if len(shape) > 2 else (1, 1)
        self.counts = (1, 1, prod(shape)) if self.flat else (places, shape[0], shape[1])

    def ways(self) -> tuple[int, ...]:
        """The ways in which such a tensor can be coded."""
        if self.flat:
            return (FLAT,)
        return (FLAT, CONTEXT, FITTED) if self.counts[0] > 1 else (FLAT, CONTEXT)

    def planes(self, codes: ARRAY) -> ARRAY:
        """A copy of `codes` (n,) as planes."""
        places, *rest = self.counts
        return np.array(codes.reshape(*rest, places).transpose(2, 0, 1), order="C")

    def back(self, planes: ARRAY, out: ARRAY) -> None:
        """Planes into `out` (n,), in the order of the tensor."""
        out.reshape(*self.counts[1:], self.counts[0])[...] = planes.transpose(1, 2, 0)

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """The parts of a plane that are coded one after the other: of a matrix, so that its rows and columns show."""
        _, rows, columns = self.counts
        alone = self.counts[0] == 1 and not self.flat
        down, across = (min(8, max(1, rows // 8)), min(8, max(1, columns // 8))) if alone else (1, 1)
        height, width = -(-rows // down), min(-(-columns // across), TILE)
        height = max(1, min(height, TILE // max(1, width)))
        for top in range(0, rows, height):
            for left in range(0, columns, width):
                yield slice(top, min(rows, top + height)), slice(left, min(columns, left + width))


class Run:
    """One tensor on its way through the coder, written or read.

    ways: of the positions and of the codes. scale: see `neighbours.whole_values`.
    """

    def __init__(self, view: View, table: ARRAY, zero: int | None, ways: tuple[int, int], scale: int) -> None:
        self.view, self.zero, self.ways = view, zero, ways
        self.entries = len(table) - (zero is not None)
        self.values = neighbours.whole_values(table, scale)
        self.coefficients: ARRAY | None = None
        _, rows, columns = view.counts
        self.masks = Masks(levels.LEVELS * 18)
        self.codes = Codes(max(1, self.entries), neighbours.LEVELS + 1)
        self.done: list[ARRAY] = []
        self.kept = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
        self.seen = np.zeros(rows, np.int64), np.zeros(columns, np.int64)

    def code(self, where: Port, what: Port, planes: ARRAY) -> None:
        """Code `planes`, (places, out, in) of codes, in place."""
        if self.ways[1] == FITTED:
            self._code_coefficients(what)
        later = self.view.counts[0] > 1 and max(self.ways) > FLAT
        for plane in planes:
            masks = [self._mask(where, plane, tile) for tile in self.view.tiles()]
            dense = self._densities()
            for tile, mask in zip(self.view.tiles(), masks, strict=True):
                self._entries(what, plane, tile, mask, dense)
                if self.ways[1] and self.codes.buckets.shape[1] == 1:
                    self.codes.part()
            if later:
                self.done.append(self.values[plane])

    def _code_coefficients(self, what: Port) -> None:
        if self.coefficients is None:
            self.coefficients = np.zeros(neighbours.coefficient_count(self.view.sides), np.int64)
        raised = self.coefficients + 127
        code_plane(what, raised, COEFFICIENT_PRIOR, 2048)
        self.coefficients = raised - 127

    def _mask(self, where: Port, plane: ARRAY, tile: tuple[slice, slice]) -> ARRAY | None:
        """Code where a tile is not zero; the mask, uint8 (r, c), or None where there is no zero."""
        if self.zero is None:
            return None
        part = plane[tile]
        mask = (part != self.zero).view(np.uint8)
        contexts = self._mask_contexts(tile) if self.ways[0] else None
        flat = mask.reshape(-1)
        self.masks.code(where, flat, None if contexts is None else contexts.reshape(-1))
        if any(self.ways):
            for axis in (0, 1):
                self.kept[axis][tile[axis]] += mask.sum(axis=1 - axis, dtype=np.int64)
                self.seen[axis][tile[axis]] += mask.shape[1 - axis]
        return mask

    def _mask_contexts(self, tile: tuple[slice, slice]) -> ARRAY:
        few = [k if 2 * int(k.sum()) <= int(s.sum()) else s - k for k, s in zip(self.kept, self.seen, strict=True)]
        rows, columns = (levels.level(k, s)[t] for k, s, t in zip(few, self.seen, tile, strict=True))
        contexts = levels.product(rows, columns)
        near = neighbours.activity([p[tile] for p in self.done], self.view.sides) if self.done else None
        if near is not None:
            contexts = contexts + levels.LEVELS * (near[0] + 6 * near[1])
        return contexts

    def _densities(self) -> tuple[ARRAY, ARRAY] | None:
        """Levels of the rows and columns of a matrix, once its zeros are known."""
        if not self.ways[1] or self.zero is None or self.view.counts[0] > 1:
            return None
        rows, columns = (levels.level(k, s) for k, s in zip(self.kept, self.seen, strict=True))
        return rows, columns

    def _entries(
        self, what: Port, plane: ARRAY, tile: tuple[slice, slice], mask: ARRAY | None, dense: tuple | None
    ) -> None:
        """Code the entries of a tile that are not zero."""
        part = plane[tile]
        contexts: ARRAY | None = None
        if self.ways[1] and self.done:
            prediction = neighbours.predicted([p[tile] for p in self.done], self.view.sides, self.coefficients)
            contexts = None if prediction is None else neighbours.signed_levels(prediction)
        elif self.ways[1] and dense is not None:
            contexts = levels.product(dense[0][tile[0]], dense[1][tile[1]])
        if mask is None:
            symbols = part.astype(np.int32).reshape(-1)
            self.codes.code(what, symbols, None if contexts is None else contexts.reshape(-1))
            part[...] = symbols.reshape(part.shape)
            return
        flat = np.flatnonzero(mask.reshape(-1))
        symbols = part.reshape(-1)[flat].astype(np.int32)
        symbols -= symbols > self.zero
        self.codes.code(what, symbols, None if contexts is None else contexts.reshape(-1)[flat])
        symbols += symbols >= self.zero
        filled = np.full(part.size, self.zero, part.dtype)
        filled[flat] = symbols
        part[...] = filled.reshape(part.shape)


def _fitted(run: Run, planes: ARRAY) -> ARRAY:
    values = [run.values[plane] for plane in planes]
    kept = [np.ones(plane.size, bool) if run.zero is None else (plane != run.zero).reshape(-1) for plane in planes]
    return neighbours.fit_coefficients(values, kept, run.view.sides)
