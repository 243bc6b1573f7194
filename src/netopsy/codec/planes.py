"""The default coder: zeros and codes of a tensor, with contexts from what is known.

It sees a tensor as planes, one a place of the kernel, each a matrix of outputs and inputs, and codes place by place.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from netopsy.codec import levels, neighbours
from netopsy.codec.container import Damage
from netopsy.codec.levels import Codes, Masks, code_plane
from netopsy.codec.ports import Port, ReadPort, WritePort
from netopsy.codec.shared import ARRAY, SharedTensor

# How a stream can be coded: without contexts, with them, with them and coefficients fitted to the tensor, or, the
# positions in a matrix, with contexts from the columns to both sides.
FLAT, CONTEXT, FITTED, INTERLACED = 0, 1, 2, 3
MOST_PLACES = 256
TILE = 1 << 18
BAND = 1 << 20


class View:
    """The planes of a tensor of `shape`: (places, outputs, inputs).

    A matrix is one plane. A vector, an empty tensor or one with a huge kernel is a row of one plane, without contexts.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        places = prod(shape[2:])
        self.flat = len(shape) < 2 or places > MOST_PLACES or not prod(shape)
        self.sides = (prod(shape[2:-1]), shape[-1]) if len(shape) > 2 else (1, 1)
        self.counts = (1, 1, prod(shape)) if self.flat else (places, shape[0], shape[1])

    @property
    def matrix(self) -> bool:
        """Whether there is one plane, whose contexts come from its rows and columns."""
        return self.counts[0] == 1 and not self.flat

    def ways(self) -> tuple[int, ...]:
        """The ways in which such a tensor can be coded."""
        if self.flat:
            return (FLAT,)
        if not self.matrix:
            return (FLAT, CONTEXT, FITTED)
        return (FLAT, CONTEXT, INTERLACED) if 4 <= self.counts[2] <= BAND else (FLAT, CONTEXT)

    def planes(self, codes: ARRAY) -> ARRAY:
        """A copy of `codes` (n,) as planes."""
        places, outputs, inputs = self.counts
        return np.array(codes.reshape(outputs, inputs, places).transpose(2, 0, 1), order="C")

    def back(self, planes: ARRAY, out: ARRAY) -> None:
        """Planes into `out` (n,), in the order of the tensor."""
        places, outputs, inputs = self.counts
        out.reshape(outputs, inputs, places)[...] = planes.transpose(1, 2, 0)

    def bands(self) -> Iterator[tuple[tuple[slice, slice], int]]:
        """The parts of an interlaced matrix, and how far the columns are that tell of those coded: 0 for none.

        In each band of rows every fourth column comes first, then those halfway between two that are known, twice.
        """
        _, rows, columns = self.counts
        height = max(1, min(-(-rows // min(8, max(1, rows // 8))), BAND // columns))
        for top in range(0, rows, height):
            band = slice(top, min(rows, top + height))
            yield (band, slice(0, columns, 4)), 0
            yield (band, slice(2, columns, 4)), 2
            yield (band, slice(1, columns, 2)), 1

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """The parts of a plane that are coded one after the other.

        A matrix falls into 8 by 8, so that the first tell what its rows and columns are like.
        """
        _, rows, columns = self.counts
        down, across = (min(8, max(1, side // 8)) if self.matrix else 1 for side in (rows, columns))
        width = max(1, min(-(-columns // across), TILE))
        height = max(1, min(-(-rows // down), TILE // width))
        for top in range(0, rows, height):
            for left in range(0, columns, width):
                yield slice(top, min(rows, top + height)), slice(left, min(columns, left + width))


Tile = tuple[slice, slice]
# Weights of a coefficient before any is seen: small ones are likely.
COEFFICIENT_PRIOR = np.maximum(1, 4096 >> (np.abs(np.arange(-127, 128)) // 5))


def encode_planes(shared: SharedTensor) -> tuple[bytes, bytes]:
    """The streams of the positions and of the codes, each by the way that makes it shortest.

    positions: the way (a byte) and ANS; empty where no entry is zero. codes: the way, `neighbours.mean_scale` (two
    bytes) and ANS.
    """
    view = View(shared.shape)
    scale = neighbours.mean_scale(shared.table, np.bincount(shared.codes, minlength=len(shared.table)))
    best: tuple[bytes, bytes] | None = None
    for way in view.ways():
        planes = view.planes(shared.codes)
        positions_port, codes_port = WritePort(), WritePort()
        ways = {FITTED: (CONTEXT, FITTED), INTERLACED: (INTERLACED, CONTEXT)}.get(way, (way, way))
        run = TensorStream(view, shared.table, shared.zero, ways, scale)
        if way == FITTED:
            keep = [np.ones(p.size, bool) if shared.zero is None else p.reshape(-1) != shared.zero for p in planes]
            run.coefficients = neighbours.fit_coefficients([run.values[p] for p in planes], keep, view.sides)
        run.code(positions_port, codes_port, planes)
        positions = b"" if shared.zero is None else bytes([ways[0]]) + positions_port.finish()
        codes = bytes([ways[1]]) + scale.to_bytes(2, "little") + codes_port.finish()
        best = (min(best[0], positions, key=len), min(best[1], codes, key=len)) if best else (positions, codes)
    assert best is not None
    return best


def decode_planes(
    positions: bytes, codes: bytes, shape: tuple[int, ...], table: ARRAY, zero: int | None, out: ARRAY
) -> None:
    """Fill `out` (n,) with the codes. Damage where the streams hold no such tensor."""
    view = View(shape)
    if len(codes) < 3 or bool(positions) != (zero is not None):
        raise Damage("a stream is missing")
    ways = positions[0] if positions else FLAT, codes[0]
    scale = int.from_bytes(codes[1:3], "little")
    if ways[0] == FITTED or ways[1] == INTERLACED or not set(ways) <= set(view.ways()) or not scale:
        raise Damage("a stream is coded in an unknown way")
    positions_port, codes_port = ReadPort(positions[1:]), ReadPort(codes[3:])
    planes = np.zeros(view.counts, out.dtype)
    TensorStream(view, table, zero, ways, scale).code(positions_port, codes_port, planes)
    positions_port.finish()
    codes_port.finish()
    view.back(planes, out)


class TensorStream:
    """One tensor on its way through the coder, written or read.

    ways: of the positions and of the codes. scale: see `neighbours.whole_values`. coefficients: to be written; a reader
    finds them in the stream.
    """

    def __init__(self, view: View, table: ARRAY, zero: int | None, ways: tuple[int, int], scale: int) -> None:
        self.view, self.zero, self.ways = view, zero, ways
        self.values = neighbours.whole_values(table, scale)
        self.coefficients: ARRAY | None = None
        self.masks = Masks(levels.LEVELS * 3 * neighbours.ACTIVITIES)
        self.codes = Codes(max(1, len(table) - (zero is not None)), neighbours.LEVELS)
        self.done: list[ARRAY] = []
        self.zeros, self.sizes = levels.Margins(view.counts), levels.Margins(view.counts)

    def code(self, positions_port: Port, codes_port: Port, planes: ARRAY) -> None:
        """Code `planes`, (places, outputs, inputs) of codes, in place."""
        if self.ways[1] == FITTED:
            self._code_coefficients(codes_port)
        for plane in planes:
            mask = self._code_mask(positions_port, plane)
            for tile in self.view.tiles():
                self._code_entries(codes_port, plane, tile, None if mask is None else mask[tile])
            if any(self.ways) and not self.view.matrix:
                self.done.append(self.values[plane])

    def _code_coefficients(self, codes_port: Port) -> None:
        coefficients = self.coefficients
        raised = (
            np.zeros(neighbours.coefficient_count(self.view.sides), np.int64)
            if coefficients is None
            else coefficients + 127
        )
        code_plane(codes_port, raised, COEFFICIENT_PRIOR, 2048)
        self.coefficients = raised - 127

    def _code_mask(self, positions_port: Port, plane: ARRAY) -> ARRAY | None:
        """Code where a plane is not zero; the mask, uint8 (outputs, inputs), or None where no entry is zero."""
        if self.zero is None:
            return None
        mask = (plane != self.zero).view(np.uint8)
        parts = self.view.bands() if self.ways[0] == INTERLACED else ((tile, 0) for tile in self.view.tiles())
        for tile, distance in parts:
            bits = mask[tile].flatten()
            self.masks.code(positions_port, bits, self._mask_contexts(tile, mask, distance) if self.ways[0] else None)
            mask[tile] = bits = bits.reshape(mask[tile].shape)
            if any(self.ways):
                self.zeros.add(tile, bits, np.ones_like(bits))
        return mask

    def _mask_contexts(self, tile: Tile, mask: ARRAY, distance: int) -> ARRAY:
        """How dense row and column are so far, and what the neighbours are: in the kernel, or to both sides."""
        contexts = levels.product(*self.zeros.levels(), tile)
        if distance:
            near: ARRAY | None = neighbours.nonzero_neighbours(mask[tile[0]], tile[1], distance)
        else:
            near = neighbours.neighbour_size([plane[tile] for plane in self.done], self.view.sides)
        return (contexts if near is None else contexts + levels.LEVELS * near).reshape(-1)

    def _code_entries(self, codes_port: Port, plane: ARRAY, tile: Tile, mask: ARRAY | None) -> None:
        """Code the entries of a tile that are not zero."""
        part = plane[tile]
        contexts = self._entry_contexts(tile) if self.ways[1] else None
        if self.zero is None or mask is None:
            symbols = part.astype(np.int32).reshape(-1)
            self.codes.code(codes_port, symbols, contexts)
            part[...] = symbols.reshape(part.shape)
        else:
            nonzero = np.flatnonzero(mask.reshape(-1))
            symbols = part.reshape(-1)[nonzero].astype(np.int32)
            symbols -= symbols > self.zero
            self.codes.code(codes_port, symbols, None if contexts is None else contexts[nonzero])
            filled = np.full(part.size, self.zero, part.dtype)
            filled[nonzero] = symbols + (symbols >= self.zero)
            part[...] = filled.reshape(part.shape)
        if self.ways[1]:
            self.codes.part()
        if self.ways[1] and self.view.matrix:
            met = np.ones(part.shape, np.uint8) if mask is None else mask
            self.sizes.add(tile, np.abs(self.values[part]) * met, met)

    def _entry_contexts(self, tile: Tile) -> ARRAY | None:
        """In a kernel, what the places before foretell; in a matrix, how dense and how large row and column are."""
        if self.view.matrix:
            rows, columns = self.sizes.levels()
            if self.zero is not None:
                dense = self.zeros.levels()
                rows, columns = rows + dense[0], columns + dense[1]
            return levels.product(rows, columns, tile).reshape(-1)
        foretold = neighbours.predict_plane([plane[tile] for plane in self.done], self.view.sides, self.coefficients)
        return None if foretold is None else neighbours.signed_levels(foretold).reshape(-1)
