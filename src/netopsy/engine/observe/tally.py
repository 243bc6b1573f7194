"""What an observation accumulates: a commutative monoid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


class Tally(ABC):
    """Something that is counted over the samples, batch by batch, in any order and in any number of parts.

    Merging the tallies of two parts equals one tally over both. Attributes that are tensors, dicts of tensors, ints or
    floats are its state; they are created or filled by the first `update`, so that an empty tally
    is the neutral element of `merge`.

    Parts are merged in the order of their samples, each with the part that follows it.

    sequential: whether what it counts depends on the samples before, so that no pass is split over workers.
    on_disk: whether it writes to a file of this machine, so that it cannot be counted on others.
    """

    sequential: ClassVar[bool] = False
    on_disk: ClassVar[bool] = False

    @abstractmethod
    def update(self, values: Any, indices: Tensor) -> None:
        """Add one batch. values: (batch, channel, *space) or (batch, neuron); indices: int64 (batch,), the samples.

        A tally that watches several nodes gets the tuple of their values, in the order in which they were named.
        Values may be overwritten after the call: keep copies only.
        """

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add all that `other` has counted."""

    @abstractmethod
    def result(self) -> Any:
        """The figure that the tally stands for."""

    def state(self) -> dict[str, Tensor]:
        """All that has been counted, as tensors, for a checkpoint."""
        state: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, dict):
                state |= {f"{name}.{key}": part for key, part in value.items() if isinstance(part, Tensor)}
            elif isinstance(value, Tensor):
                state[name] = value
            elif isinstance(value, int | float):
                state[name] = torch.tensor(value, dtype=_DTYPES[type(value)])
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a `state`."""
        for name, value in state.items():
            attribute, in_dict, key = name.partition(".")
            old = vars(self).get(attribute)
            if in_dict:
                vars(self)[attribute][key] = value
            else:
                setattr(self, attribute, value.item() if isinstance(old, int | float) else value)


_DTYPES = {int: torch.int64, float: torch.float64, bool: torch.bool}


BLOCK = 2**20  # values, 4 MB of float32: larger scratch memory is mapped afresh for every batch


def sample_blocks(values: Tensor, axis: int = 1) -> Iterator[Tensor]:
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
