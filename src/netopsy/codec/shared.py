"""A tensor whose values are codes into a table: what pruning and weight sharing leave, and what is coded."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from netopsy.errors import SettingsError

ARRAY = np.ndarray[Any, np.dtype[Any]]
LARGEST_TABLE = 4096


@dataclass(frozen=True)
class SharedTensor:
    """A tensor of a few shared values (Han et al., "Deep Compression", ICLR 2016, Section 3).

    shape: of the tensor. table: its distinct values, float32 (k,), strictly ascending, k from 1 to 4096; pruned
    weights have the value 0.0, which is an entry of its own. codes: the entry of each value, uint8 or uint16 (n,), in C
    order.
    """

    shape: tuple[int, ...]
    table: ARRAY
    codes: ARRAY

    def __post_init__(self) -> None:
        if self.table.ndim != 1 or not 1 <= len(self.table) <= LARGEST_TABLE or self.table.dtype != np.float32:
            raise SettingsError(f"a table of {self.table.shape} {self.table.dtype} must be 1 to 4096 float32 values.")
        if not np.isfinite(self.table).all() or (np.diff(self.table) <= 0).any():
            raise SettingsError("the values of a table must be finite and strictly ascending.")
        if self.codes.shape != (prod(self.shape),) or (self.codes.size and self.codes.max() >= len(self.table)):
            raise SettingsError(
                f"codes of shape {self.codes.shape} do not fit {self.shape} and {len(self.table)} values."
            )

    @classmethod
    def of(cls, values: ARRAY) -> SharedTensor:
        """`values` (float32) as they are, where they hold at most 4096 distinct ones; -0.0 becomes 0.0."""
        distinct, codes = np.unique(values + np.float32(0), return_inverse=True)
        small = codes.reshape(-1).astype(np.uint8 if len(distinct) <= 256 else np.uint16)
        return cls(values.shape, distinct.astype(np.float32), small)

    @property
    def zero(self) -> int | None:
        """The code of 0.0, or None where no entry is 0.0."""
        at = int(np.searchsorted(self.table, 0.0))
        return at if at < len(self.table) and self.table[at] == 0 else None

    @property
    def kept(self) -> int:
        """How many values are not zero."""
        return len(self.codes) if self.zero is None else int(np.count_nonzero(self.codes != self.zero))

    def decode(self) -> ARRAY:
        """The tensor, float32 of `shape`: each value is exactly an entry of the table."""
        return self.table[self.codes].reshape(self.shape)
