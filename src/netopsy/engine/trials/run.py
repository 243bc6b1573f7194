"""The loop over trials: what is missing runs, what is done is read; and a pass over samples as trials."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from netopsy.engine.trials.payload import Answer, Payload, Work, attempt, failure_answer
from netopsy.engine.trials.pool import current_workers
from netopsy.engine.trials.trial import KINDS, Outcome, Record, Store, WorkerLost, to_plain
from netopsy.engine.workspace.workspace import Workspace, current_workspace, file_stem, workspace
from netopsy.errors import NetopsyError

CIRCUMSTANCE = ("killed", "memory", "error")


def run_trials(
    work: Work,
    context: Any,
    specs: Sequence[dict[str, Any]],
    *,
    digest: str,
    label: str = "trials",
    retry: Collection[str] = CIRCUMSTANCE,
) -> list[Record]:
    """The record of each spec, in the order of `specs`.

    work: a function (context, spec) -> Outcome. context: what all trials share, such as a network and images; sent to
    each worker once. specs: plain data. digest: of the context. label: of the progress. retry: kinds of records that
    run again. Equal specs are one trial.

    Trials run over the current `workers`. One that fails, diverges, uses up the memory or kills its worker is a Record
    with its reason, and the others go on. A trial whose worker died, or whose memory was too small beside others, runs
    once more after the others, alone: only what fails alone too is recorded so. In a `workspace` with a folder the
    records are files in its sub-folder `trials`, and a trial's own workspace is a folder beside its record, deleted
    once that is written. Run again, only what is missing runs, and what failed by circumstance. An interrupt stops at
    once and keeps what is done.
    Errors: SettingsError for specs that are not plain data, and for a context that cannot be sent to the workers.
    """
    place = current_workspace()
    store = Store(None if place.folder is None else place.folder / "trials", work, digest)
    plain_specs = [to_plain(spec, "a spec") for spec in specs]
    names = [store.name(spec) for spec in plain_specs]
    todo = dict(zip(names, plain_specs, strict=True))
    records = {name: record for name in todo if (record := store.read(name)) and record.kind not in retry}
    missing = {name: spec for name, spec in todo.items() if name not in records}
    place.report(label, len(records), len(todo))
    if missing:
        pool = current_workers()
        payload = pool.executor.send(work, context)
        try:
            for name, (meta, blob) in _answers(pool.executor, payload, missing, store, place):
                records[name] = store.write(name, meta, blob, keep=meta["kind"] in retry)
                place.report(label, len(records), len(todo))
        except BaseException:
            pool.close(at_once=True)
            raise
        finally:
            payload.close()
    return [records[name] for name in names]


def _answers(
    executor: Any, payload: Payload, todo: Mapping[str, dict[str, Any]], store: Store, place: Workspace
) -> Iterator[tuple[str, Answer]]:
    """(name, answer) of every trial, as they come."""
    waiting, again = deque(todo), deque[str]()
    flying: dict[Future[Answer], str] = {}
    alone = False
    while waiting or flying or again:
        if not waiting and not flying:
            waiting, again, alone = again, deque(), True
        width = 1 if alone else executor.width or len(waiting) + len(flying)
        while waiting and len(flying) < width:
            name = waiting.popleft()
            trial_place = Workspace(store.place(name), place.progress if executor.shows_progress else None, place.every)
            flying[executor.submit(attempt, payload, todo[name], trial_place, executor.threads)] = name
        for future in wait(flying, return_when=FIRST_COMPLETED).done:
            name, crowded = flying.pop(future), executor.width != 1 and not alone
            try:
                answer = future.result()
            except WorkerLost as lost:
                answer = failure_answer(todo[name], lost.kind, str(lost))
            if crowded and answer[0]["kind"] in ("killed", "memory"):
                again.append(name)
            else:
                yield name, answer


SHARDS_PER_WORKER = 4  # parts of each worker: the last to end does not keep the others waiting for long
_FAILURES = tuple(kind for kind in KINDS if kind != "done")


def split_range(start: int, stop: int, step: int) -> list[range]:
    """The positions from `start` to `stop` for the current workers, in parts of whole steps; one part where there is
    no worker but the caller's process.
    """
    pool = current_workers()
    steps = -(-(stop - start) // step)
    count = 1 if pool.here else max(1, min(steps, SHARDS_PER_WORKER * pool.width))
    ends = [min(stop, start + steps * i // count * step) for i in range(count + 1)]
    return [range(low, high) for low, high in pairwise(ends)]


@contextmanager
def run_shards(
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
    yield (_shard_outcome(record, label) for record in records)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def shard_specs(pieces: Sequence[range]) -> list[dict[str, Any]]:
    """Pieces as specs."""
    return [{"start": piece.start, "stop": piece.stop} for piece in pieces]


def _shard_outcome(record: Record, label: str) -> Outcome:
    if record.outcome is not None:
        return record.outcome
    if record.kind == "error":
        raise RuntimeError(f"{record.failure}\n{record.trace}")
    if record.kind == "failed":
        raise NetopsyError(record.failure)
    part = ", ".join(f"{name} {value}" for name, value in record.spec.items())
    raise NetopsyError(f"a part of {label} is missing ({part}): {record.failure}")
