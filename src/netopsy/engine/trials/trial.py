"""What a trial gives and why one failed, as a kind and a sentence; and the records of trials on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, Literal, get_args

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from netopsy._version import __version__
from netopsy.engine.workspace.checkpoint import checksum
from netopsy.engine.workspace.workspace import file_stem
from netopsy.errors import CaseError, DivergedError, NetopsyError, NetopsyWarning, SettingsError
from netopsy.files import atomic_write

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


_FIELDS = ("spec", "outcome", "failure", "kind", "seconds", "trace")


class Store:
    """The records of one kind of work on one context.

    folder: where they lie, or None: they are kept in memory only. digest: of the context.
    """

    def __init__(self, folder: Path | None, work: Callable[..., Outcome], digest: str) -> None:
        self.folder = folder
        self.identity = {
            "work": f"{work.__module__}.{work.__qualname__}",
            "code": _code(getattr(work, "__code__", None)),
            "context": digest,
            "versions": {
                "netopsy": __version__,
                "python": ".".join(platform.python_version_tuple()[:2]),
                "torch": torch.__version__,
            },
        }
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def name(self, spec: dict[str, Any]) -> str:
        """The record's file name without its ending: the same for the same trial, and for no other."""
        return file_stem("trial", {**self.identity, "spec": spec})

    def place(self, name: str) -> Path | None:
        """The folder in which the trial may keep checkpoints, until its record is written."""
        return None if self.folder is None else self.folder / name

    def read(self, name: str) -> Record | None:
        """The record; None where there is none, or with a NetopsyWarning where its file is damaged."""
        if self.folder is None:
            return None
        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                keys = set(file.keys())
            if header.pop("checksum") == checksum(json.dumps(header, sort_keys=True), {}):
                fields = {key: json.loads(text) for key, text in header.items()}
                checksums, values = fields.pop("checksums"), fields.pop("outcome")
                if fields["kind"] in KINDS and keys == set(checksums):
                    tensors = LazyTensors(path, checksums)
                    return Record(outcome=None if values is None else Outcome(values, tensors), **fields)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            pass
        warnings.warn(f"record '{path}' is damaged; its trial is run again.", NetopsyWarning, stacklevel=2)
        return None

    def write(self, name: str, meta: dict[str, Any], blob: bytes, keep: bool) -> Record:
        """Write a record, whole or not at all, and give it. keep: whether the trial's checkpoints stay.

        meta: the fields of the record, plain data. blob: the outcome's tensors, as safetensors.
        """
        tensors = safetensors.torch.load(blob) if blob else {}
        if self.folder is None:
            values = meta["outcome"]
            return Record(**{**meta, "outcome": None if values is None else Outcome(values, tensors)})
        path = self.folder / f"{name}.safetensors"
        header = {key: json.dumps(meta[key]) for key in _FIELDS}
        header["checksums"] = json.dumps({key: checksum(key, {key: value}) for key, value in tensors.items()})
        header["checksum"] = checksum(json.dumps(header, sort_keys=True), {})
        with atomic_write(path) as part:
            safetensors.torch.save_file(tensors, part, metadata=header)
        if not keep:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / name).rmdir()  # where it kept nothing there
        record = self.read(name)
        assert record is not None
        return record


class LazyTensors(Mapping[str, Tensor]):
    """The tensors of a record's file, each read, and held against its checksum, when it is asked for."""

    def __init__(self, path: Path, checksums: Mapping[str, str]) -> None:
        self.path, self._checksums = path, checksums

    def __getitem__(self, key: str) -> Tensor:
        expected = self._checksums[key]
        with safe_open(self.path, framework="pt") as file:
            tensor = file.get_tensor(key)
        if checksum(key, {key: tensor}) != expected:
            raise CaseError(f"record '{self.path}' is damaged; remove it and run again: its trial is then run anew.")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._checksums)

    def __len__(self) -> int:
        return len(self._checksums)


def _code(code: CodeType | None) -> str:
    """SHA-256 over what a function does: its instructions, names and constants, wherever it stands in its file."""
    return "" if code is None else hashlib.sha256(repr(_parts(code)).encode()).hexdigest()


def _parts(code: CodeType) -> list[Any]:
    return [code.co_code, code.co_names, code.co_varnames, code.co_freevars, list(map(_constant, code.co_consts))]


def _constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _parts(constant)
    return (
        sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
    )  # a set has no order of its own
