"""Truth tables that are counted, not given: what a unit did in each combination of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

FIRES, RESTS, FREE = 1, 0, -1


@dataclass(frozen=True)
class TruthTable:
    """How often a unit fired in each cell. The cell of inputs (a, b, c) is the binary number abc: a counts most.

    fired, rested: int64 (2 ** inputs,), the images of each cell in which the unit fired and did not.
    """

    inputs: int
    fired: Int64[np.ndarray, " cells"]
    rested: Int64[np.ndarray, " cells"]

    @property
    def majority(self) -> Int64[np.ndarray, " cells"]:
        """1 where the unit mostly fired, 0 where it mostly did not, -1 where nothing or a tie was seen (don't care)."""
        return np.where(self.fired > self.rested, FIRES, np.where(self.rested > self.fired, RESTS, FREE))


def truth_table(bits: Bool[np.ndarray, "n inputs"], fires: Bool[np.ndarray, " n"]) -> TruthTable:
    """Count n images. bits: which inputs were on. fires: whether the unit fired."""
    inputs = bits.shape[1]
    cells = cells_of(bits)
    fired, rested = (np.bincount(cells[fires == state], minlength=2**inputs) for state in (True, False))
    return TruthTable(inputs, fired, rested)


def cells_of(bits: Bool[np.ndarray, "n inputs"]) -> Int64[np.ndarray, " n"]:
    """The number of each row's cell."""
    inputs = bits.shape[1]
    return bits.astype(np.int64) @ (1 << np.arange(inputs)[::-1])
