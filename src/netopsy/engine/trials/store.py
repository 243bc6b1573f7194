"""Records on the disk: a file each, named by all that the trial depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from netopsy._version import __version__
from netopsy.engine.trials.trial import KINDS, Outcome, Record
from netopsy.engine.workspace.workspace import file_stem
from netopsy.files import atomic_write

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
        """The record; None where there is none or the file is damaged."""
        if self.folder is None:
            return None
        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                fields = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
                keys = list(file.keys())
            if fields["kind"] not in KINDS:
                return None
            values = fields.pop("outcome")
            return Record(outcome=None if values is None else Outcome(values, LazyTensors(path, keys)), **fields)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
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
        with atomic_write(path) as part:
            safetensors.torch.save_file(tensors, part, metadata={key: json.dumps(meta[key]) for key in _FIELDS})
        if not keep:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / name).rmdir()  # where it kept nothing there
        record = self.read(name)
        assert record is not None
        return record


class LazyTensors(Mapping[str, Tensor]):
    """The tensors of a record's file, each read when it is asked for."""

    def __init__(self, path: Path, keys: list[str]) -> None:
        self.path, self._keys = path, keys

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._keys:
            raise KeyError(key)
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


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
