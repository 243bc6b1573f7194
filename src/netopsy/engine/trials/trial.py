"""What a trial gives, what is kept of it, and why one failed, as a kind and a sentence."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from netopsy.errors import DivergedError, NetopsyError, SettingsError

# how torch says on a CPU, and cuBLAS and cuDNN on a GPU, that there is no memory left
_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "out of memory")


class WorkerLost(Exception):
    """The worker that ran a trial is gone; kind: `killed` or `memory`. The message says how it ended."""

    def __init__(self, message: str, kind: Kind = "killed") -> None:
        super().__init__(message)
        self.kind = kind


def describe_failure(error: BaseException) -> tuple[Kind, str, str]:
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


Kind = Literal["done", "failed", "diverged", "memory", "killed", "error"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Outcome:
    """What a work function returns.

    values: plain data (numbers, text, None, lists and dicts of them). tensors: by name, on any device.
    """

    values: dict[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One trial: what was asked, and what came of it.

    spec: as it was given. seconds: of the last attempt.
    kind: `done`, and then `outcome` is there; else `failure` says why in one sentence:
        failed: the work refused (a NetopsyError); diverged: a loss or a weight was no longer finite; memory: of the
        device or the process was too small; killed: the worker process died; error: any other exception.
    trace: of an `error`, where it arose.
    """

    spec: dict[str, Any]
    kind: Kind
    outcome: Outcome | None = None
    failure: str | None = None
    seconds: float = 0.0
    trace: str = ""

    @property
    def done(self) -> bool:
        """Whether there is an outcome."""
        return self.outcome is not None

    @property
    def values(self) -> dict[str, Any]:
        """The outcome's values; empty where there is none."""
        return {} if self.outcome is None else self.outcome.values


def to_plain(value: Any, what: str) -> Any:
    """`value` as JSON gives it back: tuples as lists, numpy's numbers as Python's; SettingsError for anything else."""
    try:
        return json.loads(json.dumps(value, default=_number))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{what} must be plain data (numbers, text, None, lists and dicts): {error}.") from error


def _number(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and value.size == 1):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is none")
