"""What a trial gives, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from netopsy.errors import SettingsError

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


def plain(value: Any, what: str) -> Any:
    """`value` as JSON gives it back: tuples as lists, numpy's numbers as Python's; SettingsError for anything else."""
    try:
        return json.loads(json.dumps(value, default=_number))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{what} must be plain data (numbers, text, None, lists and dicts): {error}.") from error


def _number(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and value.size == 1):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is none")
