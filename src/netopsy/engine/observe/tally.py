"""What an observation accumulates, a commutative monoid, and which places of a padded batch it gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from netopsy.errors import NotApplicable, SettingsError
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.samples.samples import Batch, Samples


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

        A tally that watches several nodes gets the tuple of their values, in the order in which they were named; of
        several networks with the places of each aligned with those of the first, see `align_places`.
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


def real_places(
    length_axes: Sequence[int], values: Tensor, mask: Bool[Tensor, "batch length"] | Sequence[Tensor]
) -> Bool[Tensor, "batch *places"]:
    """Which of a node's values belong to a sample: with an axis of 1 where the value does not go by length.

    length_axes: as the node has them. mask: one for all of them, or one for each. An axis of another length than its
    mask's (behind a stride, without the last token) has as much of it real.
    """
    masks = [mask] * len(length_axes) if isinstance(mask, Tensor) else mask
    real = torch.ones([len(values)] + [1] * (values.ndim - 1), dtype=torch.bool, device=values.device)
    for axis, mask in zip(length_axes, masks, strict=True):
        size = values.shape[axis]
        part = mask = mask.to(values.device)
        if size != mask.shape[1]:
            ends = -(-mask.sum(1) * size // mask.shape[1])
            part = torch.arange(size, device=values.device)[None] < ends[:, None]
        real = real & part.reshape([len(part)] + [size if i == axis else 1 for i in range(1, values.ndim)])
    return real


def without_padding(
    node: Node, values: Tensor, mask: Bool[Tensor, "batch length"] | Sequence[Tensor], indices: Tensor, by_sample: bool
) -> tuple[Tensor, Tensor]:
    """A node's values as a tally gets them, and of which sample each row is: see `Tally.by_sample`."""
    if (
        not node.length_axes
        or not node.per_sample
        or all(part.all() for part in ([mask] if isinstance(mask, Tensor) else mask))
    ):
        return values, indices
    real = real_places(node.length_axes, values, mask)
    if by_sample:
        return (values if values.is_floating_point() else values.float()).masked_fill(~real, torch.nan), indices
    axis = node.channel_axis % values.ndim
    rows = values.movedim(axis, -1)
    real = real.movedim(axis, -1)[..., 0].expand(rows.shape[:-1])
    owners = indices.to(values.device).reshape([-1] + [1] * (real.ndim - 1)).expand(real.shape)
    return rows[real], owners[real]


@dataclass(frozen=True)
class AlignedPlaces:
    """The places of one network in a batch.

    mask: those that belong to a sample. length: places of the network. index: which of its places stands at each place
    of the mask; None where they stand as they are. masks: of a network of several sequences those of each.
    """

    mask: Bool[Tensor, "batch places"]
    length: int
    index: Int64[Tensor, "batch places"] | None = None
    masks: Mapping[str, Bool[Tensor, "batch places"]] = field(default_factory=dict)

    def mask_of(self, node: Node) -> Tensor | list[Tensor]:
        """The places along each of the node's `length_axes`; one mask where the network has one sequence."""
        return [self.masks[sequence] for sequence in node.sequences] if len(self.masks) > 1 else self.mask

    def align(self, node: Node, values: Tensor) -> Tensor:
        """A node's values in the order of `index`; of a shorter axis (behind a stride) the place that it falls in."""
        if self.index is None or not node.per_sample:
            return values
        index = self.index.to(values.device)
        samples = torch.arange(len(index), device=values.device)[:, None]
        for axis in node.length_axes:
            at = index * values.shape[axis] // self.length
            values = values.movedim(axis, 1)[samples, at].movedim(1, axis)
        return values


def places_differ(networks: Sequence[Network]) -> bool:
    """Whether one place does not stand for the same part of a sample in all networks that take samples of any length:
    other tokenizers, or other greatest lengths.
    """
    padded = [network.signature for network in networks if network.signature.length is not None]
    return len({(*signature.lengths.values(), _digest(signature.tokenizer)) for signature in padded}) > 1


def align_places(networks: Sequence[Network], batches: Sequence[Batch], samples: Samples) -> dict[int, AlignedPlaces]:
    """The places of each network with padding in one batch, by the network's `id`, all with one mask.

    The places of networks with one tokenizer and one greatest length are the same. Else there is a place for each of
    the first network. Networks with one tokenizer and other lengths share the places at which both have the same
    token. With other tokenizers a token of the first goes with the last token of the other that covers its last
    character; tokens that stand for no character ([CLS]) have no partner, nor have those that the other does not see.
    Errors: SettingsError where the places differ and the samples are no texts.
    """
    padded = [(network, batch) for network, batch in zip(networks, batches, strict=True) if batch.mask is not None]
    if not padded:
        return {}
    mask = _mask(padded[0][1])
    if not places_differ(networks):
        for _, batch in padded[1:]:
            mask = mask & _mask(batch)
        return {id(network): AlignedPlaces(mask, mask.shape[1], None, batch.masks) for network, batch in padded}
    if any(len(network.signature.lengths) > 1 for network, _ in padded):
        raise NotApplicable("the places of an encoder and a decoder cannot be aligned with those of another tokenizer.")
    indices = {id(network): _partners(padded[0], (network, batch), samples) for network, batch in padded}
    for index in indices.values():
        mask = mask & (index >= 0)
    return {
        id(network): AlignedPlaces(mask, network.signature.length or 1, indices[id(network)].clamp(min=0))
        for network, _ in padded
    }


def _partners(
    first: tuple[Network, Batch], other: tuple[Network, Batch], samples: Samples
) -> Int64[Tensor, "batch length"]:
    """The place of `other` that goes with each place of `first`; -1 for none."""
    networks, batches = (first[0], other[0]), (first[1], other[1])
    one, two = (network.signature for network in networks)
    mask, other_mask = map(_mask, batches)
    index = torch.full(mask.shape, -1)
    if not places_differ(networks):
        return torch.where(other_mask, torch.arange(mask.shape[1]), index)
    if samples.kind != "tokens" or not isinstance(samples.read(int(batches[0].indices[0])), str):
        raise SettingsError(
            f"{networks[0].name} and {networks[1].name} take up to {one.length:,} and {two.length:,} places of a "
            f"sample, and {samples.name} is no text by which they could be aligned; load both with one length."
        )
    if _digest(one.tokenizer) == _digest(two.tokenizer):
        shared = min(mask.shape[1], other_mask.shape[1])
        tokens = [
            next(batch.inputs[name] for name, entry in zip(s.names, s.inputs, strict=True) if entry.kind == "tokens")
            for batch, s in zip(batches, (one, two), strict=True)
        ]
        same = other_mask[:, :shared] & (tokens[0][:, :shared] == tokens[1][:, :shared])
        index[:, :shared] = torch.where(same, torch.arange(shared), -1)
        return index
    texts = [samples.read(row) for row in batches[0].indices.tolist()]
    spans = [_spans(network, texts) for network in networks]
    for row, text in enumerate(texts):
        covers = np.full(len(text), -1)
        for place, (start, end) in enumerate(spans[1][row]):
            covers[start:end] = place
        for place, (start, end) in enumerate(spans[0][row]):
            if end > start:
                index[row, place] = int(covers[end - 1])
    return index


def _spans(network: Network, texts: Sequence[str]) -> list[Sequence[tuple[int, int]]]:
    """The characters (start, end) of each token that the network sees of each text."""
    tokenizer, length = network.signature.tokenizer, network.signature.length
    if not callable(getattr(tokenizer, "align", None)):
        raise SettingsError(
            f"the tokenizer of {network.name} does not say which characters its tokens stand for, so that they cannot "
            "be aligned with another tokenizer's; give it a method `align`, or networks with one tokenizer."
        )
    return [encoded.spans[:length] for encoded in tokenizer.align(texts, length)]


def _mask(batch: Batch) -> Bool[Tensor, "batch length"]:
    assert batch.mask is not None
    return batch.mask


def _digest(tokenizer: object) -> str | None:
    return getattr(tokenizer, "digest", None)
