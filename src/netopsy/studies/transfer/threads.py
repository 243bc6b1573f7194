"""How many threads small work gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 1 << 20  # values


@contextmanager
def threads_for(values: int) -> Iterator[None]:
    """One thread for work on few values: many short operations, at each of which threads would wait for one another."""
    before = torch.get_num_threads()
    if values <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
