"""What a layer's weights can become: candidates with their bytes and their error, from the gentlest to the harshest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from netopsy.codec.shared import LARGEST_TABLE, SharedTensor
from netopsy.engine.prescribe.cells import TABLE_ENTRY, Cells, Line

Tables = Literal["uniform", "kmeans"]
PULL = 0.1155
"""Where error and bits trade evenly at small steps: ln 2 / 6."""
STEPS = 2.0 ** np.arange(-4, 2.01, 0.25)
"""Of a uniform table, in units of the root mean square of the layer's non-zero weights."""
DENSITIES = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1)
ENTRIES = (4, 6, 8, 12, 16, 24, 32, 64, 128, 256)


@dataclass(frozen=True)
class Candidate:
    """kind: `as it is` (not shared), `lossless` (its own few values), `uniform` or `kmeans`.

    bytes: estimated, of positions, codes and table. noise: mean squared error over mean square, 0 for no error.
    """

    kind: str
    bytes: float
    noise: float
    density: float
    entries: int
    bits: float
    cells: Cells | None = None

    def share(self, values: NDArray[np.float32]) -> SharedTensor | None:
        """The layer's weights as this candidate has them; None where they are kept as they are."""
        if self.kind == "as it is":
            return None
        return SharedTensor.of(values) if self.cells is None else self.cells.share(values)


def candidates(values: NDArray[np.float32], tables: Tables, kept_bytes: int) -> list[Candidate]:
    """The candidates of one layer, by rising error; those that cost more than one with less error are left out.

    kept_bytes: of a value that is kept as it is: 4, or 2 in float16.
    """
    flat = values.reshape(-1)
    density = float(np.count_nonzero(flat)) / max(1, len(flat))
    found = [Candidate("as it is", kept_bytes * len(flat), 0.0, density, 0, 8.0 * kept_bytes)]
    own = _own_values(flat)
    if own is not None:
        found.append(own)
    line = Line(flat)
    if line.rms > 0:
        power = line.power
        for cells in _uniform(line) if tables == "uniform" else _kmeans(line, density):
            kept = 1 - int(cells.counts[cells.table == 0].sum()) / line.size
            noise = cells.distortion / power
            if noise > 0:
                found.append(Candidate(tables, cells.bytes, noise, kept, len(cells.table), cells.bits, cells))
    return _worthwhile(found)


def _own_values(flat: NDArray[np.float32]) -> Candidate | None:
    """The weights as they are, where they have few distinct values already."""
    names, counts = np.unique(flat, return_counts=True)
    if len(names) > min(LARGEST_TABLE, len(flat) // 2):
        return None
    cells = Cells(np.empty(0), names.astype(np.float64), counts, 0.0)
    kept = 1 - int(counts[names == 0].sum()) / len(flat)
    return Candidate("lossless", cells.bytes, 0.0, kept, len(names), cells.bits)


def _uniform(line: Line) -> list[Cells]:
    return [line.uniform(step * line.rms, PULL) for step in STEPS if step * line.rms >= line.smallest_step()]


def _kmeans(line: Line, density: float) -> list[Cells]:
    room = [k for k in ENTRIES if TABLE_ENTRY * k <= 2 * line.size]
    return [line.kmeans(share * density, k) for share in DENSITIES for k in room]


def _worthwhile(found: Sequence[Candidate]) -> list[Candidate]:
    best: list[Candidate] = []
    for one in sorted(found, key=lambda one: (one.noise, one.bytes)):
        if not best or one.bytes < best[-1].bytes:
            best.append(one)
    return best
