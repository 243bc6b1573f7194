"""Where long work keeps its checkpoints and half-finished files, and shows its progress.

    with workspace("case/.work"):
        netopsy.noise(network, samples)      # killed and run again, it goes on where it was

Without a workspace nothing is written and nothing is shown. A checkpoint is taken up only by work whose `conditions`
are the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike

from netopsy._version import __version__
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Workspace:
    """folder: where checkpoints lie, or None. progress: called with (label, done, total), or None.

    every: seconds between two checkpoints of one piece of work, which is the most that a killed run has to do again.
    """

    folder: Path | None = None
    progress: Progress | None = None
    every: float = 5.0

    def report(self, label: str, done: int, total: int) -> None:
        """Show how far the work called `label` has come."""
        if self.progress:
            self.progress(label, done, total)

    def checkpoint(self, kind: str, spec: dict[str, Any]) -> Checkpoint:
        """The checkpoint of the work that `spec` (plain data: digests, settings, version) describes."""
        name = f"{file_stem(kind, spec)}.safetensors"
        return Checkpoint(None if self.folder is None else self.folder / name, self.every)


def file_stem(kind: str, spec: dict[str, Any]) -> str:
    """The name, without its ending, of the file of exactly what `spec` (plain data) describes."""
    text = json.dumps(spec, sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


_current: ContextVar[Workspace | None] = ContextVar("workspace", default=None)


def current_workspace() -> Workspace:
    """The workspace that surrounds the caller, or an idle one."""
    return _current.get() or Workspace()


@contextmanager
def workspace(
    folder: str | Path | None = None, progress: Progress | None = None, *, every: float = 5.0
) -> Iterator[Workspace]:
    """Keep checkpoints in `folder`, one `every` so many seconds, and call `progress(label, done, total)`."""
    path = None if folder is None else Path(folder)
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
    token = _current.set(Workspace(path, progress, every))
    try:
        yield current_workspace()
    finally:
        _current.reset(token)


def conditions(network: Network, samples: Samples | None = None) -> dict[str, Any]:
    """Digests of the network's weights and graph and of the samples, the preprocessing, and the versions."""
    return {
        "network": network.digest,
        "graph": network.structure,
        "preprocessing": network.preprocessing.record(),
        "samples": None if samples is None else samples.digest,
        "versions": {"netopsy": __version__, "torch": torch.__version__},
    }


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
