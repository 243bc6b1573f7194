"""Rows of numbers in memory-mapped `.npy` files, finished or left by a pass that was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike

from netopsy.errors import SettingsError


def open_rows(path: Path, shape: tuple[int, int], dtype: DTypeLike, mode: str = "r") -> np.memmap | None:
    """The rows in `path`; None where there are none, or others than of this shape and type."""
    try:
        rows = open_memmap(path, mode=mode)
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.shape == shape and rows.dtype == np.dtype(dtype) else None


def check_room(folder: Path, needed: int, what: str, advice: str) -> None:
    """Raise SettingsError where the disk has no `needed` bytes: writing to a mapped file would end the process."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SettingsError(
            f"{what} need {needed / 1e9:,.1f} GB and '{folder}' has {free / 1e9:,.1f} GB free; {advice}, or give "
            "another --out."
        )
