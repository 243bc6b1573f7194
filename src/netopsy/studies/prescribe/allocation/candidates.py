"""What a layer's weights can become: candidates with their bytes and their error, from the gentlest to the harshest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from netopsy.codec.shared import LARGEST_TABLE, SharedTensor
from netopsy.studies.prescribe.allocation.cells import Cells, Line
from netopsy.studies.prescribe.allocation.compensate import Rounder

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

    bytes: estimated, of positions, codes and table, from the order-0 entropy of the codes. noise: of the layer's
    outputs, squared error over square. bits: of positions and codes, a weight.
    """

    kind: str
    bytes: float
    noise: float
    density: float
    entries: int
    bits: float
    cells: Cells | None = None

    def share(self, rounder: Rounder) -> SharedTensor | None:
        """The layer's weights as this candidate has them; None where they are kept as they are."""
        if self.kind == "as it is":
            return None
        return SharedTensor.of(rounder.weight) if self.cells is None else rounder.round(self.cells)


def candidates(rounder: Rounder, tables: Tables, kept_bytes: int) -> list[Candidate]:
    """The candidates of one layer, by rising noise; those that cost more than one with less noise are left out.

    kept_bytes: of a value that is kept as it is: 4, or 2 in float16.
    """
    flat = rounder.weight.reshape(-1)
    density = float(np.count_nonzero(flat)) / max(1, len(flat))
    found = [Candidate("as it is", kept_bytes * len(flat), 0.0, density, 0, 8.0 * kept_bytes)]
    if len(np.unique(flat)) <= min(LARGEST_TABLE, len(flat) // 2):
        found.append(_counted("lossless", SharedTensor.of(rounder.weight), 0.0, None))
    line = Line(flat)
    if line.rms > 0:
        for cells in _uniform(line) if tables == "uniform" else _kmeans(line, density):
            shared = rounder.round(cells)
            found.append(_counted(tables, shared, rounder.noise(shared.decode()), cells))
    return _worthwhile(found)


def _counted(kind: str, shared: SharedTensor, noise: float, cells: Cells | None) -> Candidate:
    counts = np.bincount(shared.codes, minlength=len(shared.table))
    share = counts[counts > 0] / counts.sum()
    bits = float(-(share * np.log2(share)).sum()) + 0.0
    size = len(shared.codes)
    total = bits * size / 8 + 4 * len(shared.table)
    return Candidate(kind, total, noise, shared.kept / size, len(shared.table), bits, cells)


def _uniform(line: Line) -> list[Cells]:
    return [line.uniform(step * line.rms, PULL) for step in STEPS if step * line.rms >= line.smallest_step()]


def _kmeans(line: Line, density: float) -> list[Cells]:
    room = [k for k in ENTRIES if 4 * k <= 2 * line.size]
    return [line.kmeans(share * density, k) for share in DENSITIES for k in room]


def _worthwhile(found: Sequence[Candidate]) -> list[Candidate]:
    best: list[Candidate] = []
    for one in sorted(found, key=lambda one: (one.noise, one.bytes)):
        if not best or one.bytes < best[-1].bytes:
            best.append(one)
    return best
