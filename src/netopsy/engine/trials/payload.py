"""What goes to a worker, once to each and not once a trial; and what it does with it there."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import safetensors.torch
import torch

from netopsy.engine.trials.trial import Kind, Outcome, describe_failure, to_plain
from netopsy.engine.workspace.workspace import Workspace, workspace
from netopsy.errors import SettingsError

Work = Callable[[Any, dict[str, Any]], Outcome]

_last_read: list[tuple[str, tuple[Work, Any]]] = []  # in a worker: what it took last


class Payload(Protocol):
    """Where a worker finds (work, context)."""

    def take(self) -> tuple[Work, Any]:
        """The two, read at the first call in a process and kept until others are taken."""

    def close(self) -> None:
        """They are not taken any more."""


@dataclass(frozen=True)
class LocalPayload:
    """For trials in this process: nothing is sent."""

    work: Work
    context: Any

    def take(self) -> tuple[Work, Any]:
        return self.work, self.context

    def close(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class FilePayload:
    """In a file that this run's own driver has written; digest: SHA-256 of the file.

    Arrays lie in it as they are and are mapped, not read: all workers of a machine share their memory.
    """

    path: Path
    digest: str

    @classmethod
    def write(cls, path: Path, work: Work, context: Any) -> FilePayload:
        """Write the two to a new file at `path`. SettingsError where they cannot be sent."""
        body, buffers = pickle_work(work, context)
        sizes, total = [len(body), *(len(buffer) for buffer in buffers)], hashlib.sha256()
        with path.open("xb") as file:
            parts: list[bytes | memoryview] = [json.dumps(sizes).encode() + b"\n", body, *buffers]
            for part in parts:
                file.write(part)
                total.update(part)
        return cls(path, total.hexdigest())

    def take(self) -> tuple[Work, Any]:
        return read_once(self.digest, self._read)

    def _read(self) -> tuple[Work, Any]:
        with self.path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise SettingsError(f"'{self.path}' has been changed since it was written; run again.")
        end = bytes(content[: 1 << 16]).index(b"\n") + 1
        parts = []
        for size in json.loads(bytes(content[:end])):
            parts.append(content[end : end + size])
            end += size
        return unpickle_work(bytes(parts[0]), parts[1:])

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


def read_once(key: str, read: Callable[[], tuple[Work, Any]]) -> tuple[Work, Any]:
    """What `key` stands for, read by the first call in this process. SettingsError where it cannot be."""
    if not _last_read or _last_read[0][0] != key:
        _last_read.clear()  # two networks need not fit in memory
        try:
            _last_read.append((key, read()))
        except Exception as error:
            hint = " Where the network lies on a GPU, give each trial one: gpus=1, --trial-gpus 1." * (
                "CUDA" in f"{error}"
            )
            raise SettingsError(
                f"a worker cannot take up the work: {type(error).__name__}: {_line(error)}{hint}"
            ) from None
    return _last_read[0][1]


def pickle_work(work: Work, context: Any) -> tuple[bytes, list[memoryview]]:
    """The two as bytes, and the arrays in them; what is defined in a script or notebook itself goes as a whole.

    Errors: SettingsError for what cannot be sent.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        body = cloudpickle.dumps((work, context), protocol=5, buffer_callback=buffers.append)
        return body, [buffer.raw() for buffer in buffers]
    except MemoryError:
        raise
    except Exception as error:  # a __reduce__ may raise anything
        raise SettingsError(
            f"the network, images or work cannot be sent to another process ({type(error).__name__}: "
            f"{_line(error)}); leave out --workers and --cluster, or workers(...), to run in this one."
        ) from error


def unpickle_work(body: bytes, buffers: list[Any]) -> tuple[Work, Any]:
    """What `pickle_work` gave. Only what the driver of this very run has sent ever comes here."""
    work, context = pickle.Unpickler(io.BytesIO(body), buffers=buffers).load()
    return work, context


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


Answer = tuple[dict[str, Any], bytes]


def attempt(payload: Payload, spec: dict[str, Any], place: Workspace, threads: int | None = None) -> Answer:
    """The fields of the trial's record as plain data, and its tensors as safetensors: what any channel carries.

    place: of the trial alone. threads: of torch while it runs; None leaves them as they are.
    """
    work, context = payload.take()
    started = time.monotonic()
    try:
        with workspace(place.folder, place.progress, every=place.every), _threads(threads):
            outcome = work(context, to_plain(spec, "a spec"))
        if not isinstance(outcome, Outcome):
            raise TypeError(f"{work.__qualname__} returned a {type(outcome).__name__}, no Outcome")
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in outcome.tensors.items()}
        answer = _meta(spec, "done", outcome=to_plain(outcome.values, "an outcome")), safetensors.torch.save(tensors)
    except (Exception, SystemExit) as error:
        kind, failure, trace = describe_failure(error)
        answer = failure_answer(spec, kind, failure, trace)
        if kind == "memory" and torch.cuda.is_available():
            torch.cuda.empty_cache()
    answer[0]["seconds"] = time.monotonic() - started
    return answer


def failure_answer(spec: dict[str, Any], kind: Kind, failure: str, trace: str = "") -> Answer:
    """The answer of a trial without an outcome."""
    return _meta(spec, kind, failure=failure, trace=trace), b""


def _meta(spec: dict[str, Any], kind: Kind, **more: Any) -> dict[str, Any]:
    """The fields of a record as plain data."""
    return {"spec": spec, "kind": kind, "outcome": None, "failure": None, "seconds": 0.0, "trace": "", **more}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
