"""Arrays in `.npz` files, without pickled objects."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netopsy.errors import SamplesError


def read_npz(
    path: Path, choose: Callable[[set[str]], Sequence[str]], what: str
) -> tuple[Sequence[str], list[NDArray[np.generic]], tuple[str, ...] | None]:
    """The names that `choose` takes of those held, their arrays, and the text of an array `classes` if there is one.

    what: the arrays are expected to hold, for the error. Raises SamplesError for a file that cannot be read.
    """
    if not zipfile.is_zipfile(path):
        raise SamplesError(f"{path} is damaged or no .npz file; write one with numpy.savez(path, x={what}, y=labels).")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = choose(set(file.files))
            arrays = [file[name] for name in names]
            classes = tuple(str(word) for word in file["classes"].ravel()) if "classes" in file.files else None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise unreadable(path, error) from error
    return names, arrays, classes


def unreadable(path: Path, error: Exception) -> SamplesError:
    """What numpy's error on a file means."""
    if "pickle" in str(error) or "object" in str(error).lower():
        return SamplesError(f"{path} holds pickled objects, which Netopsy never loads; save plain arrays instead.")
    reason = " ".join(str(error).split()) or type(error).__name__
    return SamplesError(f"{path} is damaged or no {path.suffix} file ({reason.rstrip('.')}); write it again.")
