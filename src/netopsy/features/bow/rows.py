"""One vector an image, kept in memory or, in a workspace, in a file that a stopped pass goes on with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy.lib.format import open_memmap
from torch import Tensor

from netopsy.engine.workspace.memmap import check_room, opened
from netopsy.engine.workspace.workspace import current_workspace, file_stem
from netopsy.samples.samples import Samples

Rows = Float32[np.ndarray, "n length"]


def kept_rows(samples: Samples, length: int, vectors: Callable[[int], Iterator[Tensor]], spec: dict[str, Any]) -> Rows:
    """Rows (n, length) from batches of vectors; `vectors(start)` gives those from the sample `start` on.

    spec: all that the rows depend on besides the samples (plain data).
    Errors: SettingsError where the workspace's disk has no room.
    """
    place, label = current_workspace(), f"bag of words, {samples.name}"
    spec = {**spec, "samples": samples.digest} if place.folder else {}
    saved = place.checkpoint("bag-of-words", spec)
    rows, done, path = np.empty((0, length), np.float32), saved.load()[0], None
    if place.folder is None:
        rows = np.empty((len(samples), length), np.float32)
    else:
        path = place.folder / f"{file_stem('bag-of-words', spec)}.npy"
        finished = opened(path, (len(samples), length), np.float32)
        if finished is not None:
            return finished
        rows, done = _part(path, (len(samples), length), done)

    def flush() -> dict[str, Tensor]:
        if isinstance(rows, np.memmap):
            rows.flush()
        return {}

    place.report(label, done, len(samples))
    for batch in vectors(done):
        rows[done : done + len(batch)] = batch.cpu().numpy()
        done += len(batch)
        saved.save(done, flush)
        place.report(label, done, len(samples))
    saved.save(done, flush, final=True)
    if path is None:
        return rows
    os.replace(path.with_suffix(".part"), path)
    return open_memmap(path, mode="r")


def _part(path: Path, shape: tuple[int, int], done: int) -> tuple[np.memmap, int]:
    """The rows that a stopped pass left and how many of them are done, or new ones and 0."""
    part = path.with_suffix(".part")
    left = opened(part, shape, np.float32, "r+") if done else None
    if left is not None:
        return left, done
    check_room(path.parent, 4 * shape[0] * shape[1], "the bags of words", "take fewer words, regions or images")
    return open_memmap(part, mode="w+", dtype=np.float32, shape=shape), 0
