"""Batches cut into blocks that stay in the processor's cache while a tally goes over them several times."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

BLOCK = 2**20  # values, 4 MB of float32: larger scratch memory is mapped afresh for every batch


def blocks(values: Tensor, axis: int = 1) -> Iterator[Tensor]:
    """Views of some samples each, as (batch, channel, *space), floating point.

    values: (batch, ...) with the channel at `axis`; (batch,) counts as one channel.
    """
    if values.ndim == 1:
        values = values[:, None]
    if not values.is_floating_point():
        values = values.float()
    if axis not in (1, 1 - values.ndim):
        values = values.movedim(axis, 1)
    step = max(1, BLOCK * len(values) // max(1, values.numel()))
    yield from (values,) if step >= len(values) else values.split(step)
