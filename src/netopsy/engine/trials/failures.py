"""Why a trial failed, as a kind and a sentence."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import torch

from netopsy.engine.trials.record import Kind
from netopsy.errors import DivergedError, NetopsyError

# how torch says on a CPU, and cuBLAS and cuDNN on a GPU, that there is no memory left
_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "out of memory")


class WorkerLost(Exception):
    """The worker that ran a trial is gone; kind: `killed` or `memory`. The message says how it ended."""

    def __init__(self, message: str, kind: Kind = "killed") -> None:
        super().__init__(message)
        self.kind = kind


def reason(error: BaseException) -> tuple[Kind, str, str]:
    """(kind, sentence, trace) of what a work function raised; the trace is empty but for an `error`."""
    if any(_is_memory(cause) for cause in _causes(error)):
        return "memory", _first_line(error), ""
    if isinstance(error, DivergedError):
        return "diverged", str(error), ""
    if isinstance(error, NetopsyError):
        return "failed", str(error), ""
    frames = traceback.extract_tb(error.__traceback__)
    where = f", in {frames[-1].name} of {frames[-1].filename.rsplit('/', 1)[-1]}, line {frames[-1].lineno}"
    trace = "".join(traceback.format_exception(error))
    return "error", f"{type(error).__name__}: {_first_line(error)}{where if frames else ''}", trace


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0]
    return "the memory is used up" if isinstance(error, MemoryError) else type(error).__name__
