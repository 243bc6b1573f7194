"""The artifact: every map, as it came."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike


class Archive:
    """An .npz that is written array by array, so that it never lies in memory whole. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)

    def add(self, name: str, values: ArrayLike) -> None:
        """Write one array under a name of its own."""
        with self._file.open(f"{name}.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
