"""What an observation accumulates: a commutative monoid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool
from torch import Tensor

from netopsy.network.node import Node


class Tally(ABC):
    """Something that is counted over the samples, batch by batch, in any order and in any number of parts.

    Merging the tallies of two parts equals one tally over both. Attributes that are tensors, dicts of tensors, ints or
    floats are its state; they are created or filled by the first `update`, so that an empty tally
    is the neutral element of `merge`.

    Parts are merged in the order of their samples, each with the part that follows it.

    by_sample: whether each row must belong to one sample, in their order. Where samples differ in length and are
        padded, such a tally gets NaN at the places that are no sample's own; any other gets the rows of places that
        are, and no others: (places, channel).
    sequential: whether what it counts depends on the samples before, so that no pass is split over workers.
    on_disk: whether it writes to a file of this machine, so that it cannot be counted on others.
    """

    by_sample: ClassVar[bool] = False
    sequential: ClassVar[bool] = False
    on_disk: ClassVar[bool] = False

    @abstractmethod
    def update(self, values: Any, indices: Tensor) -> None:
        """Add one batch. values: (batch, channel, *space) or (batch, neuron); indices: int64 (batch,), the samples.

        Where samples are padded, of a tally that is not `by_sample` the rows are places, and indices say whose.

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


def real_places(node: Node, values: Tensor, mask: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch *places"]:
    """Which of a node's values belong to a sample: with an axis of 1 where the value does not go by length.

    An axis of another length than the mask's (behind a stride, without the last token) has as much of it real.
    """
    mask = mask.to(values.device)
    real = torch.ones([len(mask)] + [1] * (values.ndim - 1), dtype=torch.bool, device=values.device)
    for axis in node.length_axes:
        size = values.shape[axis]
        part = mask
        if size != mask.shape[1]:
            ends = -(-mask.sum(1) * size // mask.shape[1])
            part = torch.arange(size, device=values.device)[None] < ends[:, None]
        real = real & part.reshape([len(mask)] + [size if i == axis else 1 for i in range(1, values.ndim)])
    return real


def without_padding(
    node: Node, values: Tensor, mask: Bool[Tensor, "batch length"], indices: Tensor, by_sample: bool
) -> tuple[Tensor, Tensor]:
    """A node's values as a tally gets them, and of which sample each row is: see `Tally.by_sample`."""
    if not node.length_axes or not node.per_sample or mask.all():
        return values, indices
    real = real_places(node, values, mask)
    if by_sample:
        return (values if values.is_floating_point() else values.float()).masked_fill(~real, torch.nan), indices
    axis = node.channel_axis % values.ndim
    rows = values.movedim(axis, -1)
    real = real.movedim(axis, -1)[..., 0].expand(rows.shape[:-1])
    owners = indices.to(values.device).reshape([-1] + [1] * (real.ndim - 1)).expand(real.shape)
    return rows[real], owners[real]


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
