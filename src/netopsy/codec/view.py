"""A tensor as the default coder sees it: one plane a place of the kernel, each plane a matrix of outputs and inputs."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from netopsy.codec.shared import ARRAY

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
