"""One trial, where it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import safetensors.torch
import torch

from netopsy.engine.trials.payload import Sent
from netopsy.engine.trials.trial import Kind, Outcome, plain, reason
from netopsy.engine.workspace.workspace import Workspace, workspace

Answer = tuple[dict[str, Any], bytes]


def attempt(sent: Sent, spec: dict[str, Any], place: Workspace, threads: int | None = None) -> Answer:
    """The fields of the trial's record as plain data, and its tensors as safetensors: what any channel carries.

    place: of the trial alone. threads: of torch while it runs; None leaves them as they are.
    """
    work, context = sent.take()
    begun = time.monotonic()
    try:
        with workspace(place.folder, place.progress, every=place.every), _threads(threads):
            outcome = work(context, plain(spec, "a spec"))
        if not isinstance(outcome, Outcome):
            raise TypeError(f"{work.__qualname__} returned a {type(outcome).__name__}, no Outcome")
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in outcome.tensors.items()}
        answer = _meta(spec, "done", outcome=plain(outcome.values, "an outcome")), safetensors.torch.save(tensors)
    except (Exception, SystemExit) as error:
        kind, failure, trace = reason(error)
        answer = failed(spec, kind, failure, trace)
        if kind == "memory" and torch.cuda.is_available():
            torch.cuda.empty_cache()
    answer[0]["seconds"] = time.monotonic() - begun
    return answer


def failed(spec: dict[str, Any], kind: Kind, failure: str, trace: str = "") -> Answer:
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
