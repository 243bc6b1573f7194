"""A tensor whose values are codes into a table: what pruning and weight sharing leave, and what is coded."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from netopsy.errors import SettingsError

ARRAY = np.ndarray[Any, np.dtype[Any]]
LARGEST_TABLE = 4096
LARGEST_INTEGER = 1 << 15


@dataclass(frozen=True)
class SharedTensor:
    """A tensor of a few shared values (Han et al., "Deep Compression", ICLR 2016, Section 3).

    shape: of the tensor. table: its distinct values, float32 (k,), strictly ascending, k from 1 to 4096; pruned
    weights have the value 0.0, which is an entry of its own. codes: the entry of each value, uint8 or uint16 (n,), in C
    order.
    group, scales: of a tensor in a group-wise format, as language models are stored in: each `group` values of a row
    share a scale that their entries, whole numbers below 32768, are multiplied by: float32 (rows, groups), finite and
    not below 0. A row is one place of the first axis; its last group may be shorter. 0 and None where there are none.
    """

    shape: tuple[int, ...]
    table: ARRAY
    codes: ARRAY
    group: int = 0
    scales: ARRAY | None = None

    def __post_init__(self) -> None:
        if self.table.ndim != 1 or not 1 <= len(self.table) <= LARGEST_TABLE or self.table.dtype != np.float32:
            raise SettingsError(f"a table of {self.table.shape} {self.table.dtype} must be 1 to 4096 float32 values.")
        if not np.isfinite(self.table).all() or (np.diff(self.table) <= 0).any():
            raise SettingsError("the values of a table must be finite and strictly ascending.")
        if self.codes.shape != (prod(self.shape),) or (self.codes.size and self.codes.max() >= len(self.table)):
            raise SettingsError(
                f"codes of shape {self.codes.shape} do not fit {self.shape} and {len(self.table)} values."
            )
        if (self.scales is None) != (self.group == 0) or self.group < 0:
            raise SettingsError("a tensor in groups has the size of a group and its scales; give both or none.")
        if self.scales is not None:
            expected, scales = scales_shape(self.shape, self.group), self.scales
            if scales.shape != expected or scales.dtype != np.float32:
                raise SettingsError(f"scales of {scales.shape} {scales.dtype} must be {expected} float32 values.")
            if not np.isfinite(scales).all() or (scales < 0).any():
                raise SettingsError("the scales of groups must be finite and not below 0.")
            if (self.table % 1 != 0).any() or np.abs(self.table).max() >= LARGEST_INTEGER:
                raise SettingsError("the values of a tensor in groups must be whole numbers below 32768.")

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
        """The tensor, float32 of `shape`: each value is exactly an entry of the table, times its group's scale."""
        values = self.table[self.codes].reshape(self.shape)
        if self.scales is None:
            return values
        return (values.reshape(len(self.scales), -1) * spread(self.scales, self.group, self.shape)).reshape(self.shape)


def scales_shape(shape: tuple[int, ...], group: int) -> tuple[int, int]:
    """(rows, groups a row) of a tensor of `shape`; a vector is one row."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, -(-prod(shape[1:] if len(shape) > 1 else shape) // group)


def spread(scales: ARRAY, group: int, shape: tuple[int, ...]) -> ARRAY:
    """The scale of each value, (rows, values a row)."""
    width = prod(shape[1:] if len(shape) > 1 else shape)
    return np.repeat(scales, group, axis=1)[:, :width]
