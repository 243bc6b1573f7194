"""A pass over samples in parts, one a trial; the caller puts what they counted together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from netopsy.engine.trials.current import current_workers
from netopsy.engine.trials.loop import run_trials
from netopsy.engine.trials.payload import Work
from netopsy.engine.trials.trial import KINDS, Outcome, Record
from netopsy.engine.workspace.workspace import current_workspace, file_stem, workspace
from netopsy.errors import NetopsyError

PER_WORKER = 4  # parts of each worker: the last to end does not keep the others waiting for long
_FAILURES = tuple(kind for kind in KINDS if kind != "done")


def parts(start: int, stop: int, step: int) -> list[range]:
    """The positions from `start` to `stop` for the current workers, in parts of whole steps; one part where there is
    no worker but the caller's process.
    """
    crew = current_workers()
    steps = -(-(stop - start) // step)
    count = 1 if crew.here else max(1, min(steps, PER_WORKER * crew.width))
    ends = [min(stop, start + steps * i // count * step) for i in range(count + 1)]
    return [range(low, high) for low, high in pairwise(ends)]


@contextmanager
def outcomes(
    work: Work, context: Any, specs: Sequence[dict[str, Any]], spec: dict[str, Any], label: str
) -> Iterator[Iterator[Outcome]]:
    """What `work` gives for each of `specs`, in their order.

    spec: plain data, all that the whole depends on. In a workspace the records of the parts lie in a folder of this
    work alone until the block ends well, so that what a stopped run has done is not done again.
    Errors: NetopsyError for a part that failed, RuntimeError with the trace for an error in the work itself.
    """
    place = current_workspace()
    folder = None if place.folder is None else place.folder / file_stem(f"{label}-parts", spec)
    with workspace(folder, place.progress, every=place.every):
        records = run_trials(work, context, specs, digest="", label=label, retry=_FAILURES)
    yield (_outcome(record, label) for record in records)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def bounds(pieces: Sequence[range]) -> list[dict[str, Any]]:
    """Pieces as specs."""
    return [{"start": piece.start, "stop": piece.stop} for piece in pieces]


def _outcome(record: Record, label: str) -> Outcome:
    if record.outcome is not None:
        return record.outcome
    if record.kind == "error":
        raise RuntimeError(f"{record.failure}\n{record.trace}")
    if record.kind == "failed":
        raise NetopsyError(record.failure)
    part = ", ".join(f"{name} {value}" for name, value in record.spec.items())
    raise NetopsyError(f"a part of {label} is missing ({part}): {record.failure}")
