"""Where long work keeps its checkpoints and half-finished files, and shows its progress.

    with workspace("case/.work"):
        netopsy.noise(network, samples)      # killed and run again, it goes on where it was

    with workspace("case/.work", minutes=2):
        netopsy.noise(network, samples)      # what can be known in two minutes; run again, two minutes more

Without a workspace nothing is written and nothing is shown. A checkpoint is taken up only by work whose `conditions`
are the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike

from netopsy._version import __version__
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.errors import OutOfTime, SettingsError
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.wording import duration

Progress = Callable[[str, int, int], None]
PATIENCE = 1.5  # times the minutes, until work that cannot be done in part ends


@dataclass(frozen=True)
class Workspace:
    """folder: where checkpoints lie, or None. progress: called with (label, done, total), or None.

    every: seconds between two checkpoints of one piece of work, which is the most that a killed run has to do again.
    deadline: on `time.monotonic`: when work that can be done in part is to end with what it has; None if never.
    limit: when any other work is to end, with OutOfTime; None if never.
    spent: what work with a deadline, or that stops when it knows enough, has spent on what, as plain data.
    repeat: such records of an earlier run; the same work takes as many steps again, whatever the time.
    """

    folder: Path | None = None
    progress: Progress | None = None
    every: float = 5.0
    deadline: float | None = None
    limit: float | None = None
    spent: list[dict[str, Any]] = field(default_factory=list)
    repeat: list[dict[str, Any]] = field(default_factory=list)

    def report(self, label: str, done: int, total: int) -> None:
        """Show how far the work called `label` has come; OutOfTime where it is not done and past its limit."""
        if self.progress:
            self.progress(label, done, total)
        if self.limit is not None and done < total and time.monotonic() > self.limit:
            raise OutOfTime(f"the work '{label}' was not finished in its time; give it more, and it resumes.")

    def announce(self, work: str, seconds: float) -> None:
        """Show what a piece of work costs as a whole, as far as its beginning tells."""
        self.report(f"{work}: about {duration(seconds)}", 0, 1)

    def record(self, work: str, seconds: float, **facts: Any) -> None:
        """Note what a piece of work has spent."""
        self.spent.append({"work": work, "seconds": round(seconds, 3), **facts})

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
    folder: str | Path | None = None,
    progress: Progress | None = None,
    *,
    every: float = 5.0,
    minutes: float | None = None,
    firm: bool = False,
    repeat: Sequence[dict[str, Any]] = (),
) -> Iterator[Workspace]:
    """Keep checkpoints in `folder`, one `every` so many seconds, and call `progress(label, done, total)`.

    minutes: time for the work inside; the sweeps of studies then end with what they know. Inside another workspace its
    deadline holds too. firm: other work that is not finished half as much time later ends with OutOfTime, and resumes
    from its checkpoint when it is run again. repeat: `provenance["spent"]` of a result, to get the same tables again.
    Errors: SettingsError where the minutes are not more than 0.
    """
    if minutes is not None and not minutes > 0:
        raise SettingsError(f"minutes {minutes} must be more than 0; leave them out for as long as it takes.")
    path = None if folder is None else Path(folder)
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
    outer = current_workspace()
    ends = [outer.deadline, None if minutes is None else time.monotonic() + 60 * minutes]
    deadline = min((end for end in ends if end is not None), default=None)
    limit = outer.limit
    if firm and minutes is not None:
        limit = min(limit or math.inf, time.monotonic() + 60 * minutes * PATIENCE)
    repeated = [*repeat] or outer.repeat
    token = _current.set(Workspace(path, progress, every, deadline, limit, outer.spent, repeated))
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
