"""The state of a training after an epoch, written whole or not at all.

module, tables   what is trained, by name
rows             of the history, one an epoch
optimizer        its state; not in that of a complete training, which has no further use for it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from netopsy.files import atomic_write

State = dict[str, Any]


def save(path: Path, state: State) -> None:
    """Write `state` (tensors and plain data); killed meanwhile, the file stays what it was."""
    with atomic_write(path) as part:
        torch.save(state, part)


def load(path: Path | None) -> State | None:
    """The state in the file; None where there is none or it is damaged."""
    if path is None or not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state if {"module", "tables", "rows"} <= state.keys() else None
    except Exception:  # a cut or foreign file raises any of a dozen
        return None
