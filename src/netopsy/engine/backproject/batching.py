"""Units of one node in batches: those whose trees differ by shifts alone run together, forward and back.

The forward values come from the cheaper of two ways: the trees' own crops of the image, or one pass over each whole
image that all its units share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from netopsy.engine.backproject.tree import Tree, Trunk
from netopsy.errors import SettingsError
from netopsy.network.node import Node
from netopsy.network.units import Unit
from netopsy.settings import stream

_WHOLE = 0.7  # share of a trunk's multiply-accumulates from which on nothing is cut
_VALUES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}  # of a batch's largest node: more falls out of the cache


class UnitJob(NamedTuple):
    """One unit on one image: its position in what was asked for, its field in pixels, and the tree run for it."""

    number: int
    image: int
    unit: Unit
    field: tuple[int, int, int, int]
    tree: Tree


Prepared = tuple[list[UnitJob], Tree, dict[Node, Any]]


def batches(
    trunk: Trunk, inputs: Mapping[str, Tensor], jobs: list[UnitJob], keep: Collection[Node]
) -> Iterator[Prepared]:
    """(jobs, a tree that fits them all, forward values of `keep` and of the target on the tree's boxes)."""
    nodes = {*keep, trunk.target}
    if sum(job.tree.share for job in jobs) > _WHOLE * len(jobs):
        # fields that nearly fill the image gain little by being cut, and much by being one batch
        jobs = [job._replace(tree=trunk.tree()) for job in jobs]
    distinct = len({job.image for job in jobs})
    # a copy of the image for each unit is dearer than one pass a picture unless the crops are small
    if sum(job.tree.share for job in jobs) > distinct and all(_by_image(node) for node in nodes):
        yield from _shared(trunk, inputs, jobs, nodes)
        return
    for group in _alike(jobs):
        tree = group[0].tree
        for some in _chunks(group, tree, trunk.network.device):
            parts = [job.tree.cut({name: v[job.image : job.image + 1] for name, v in inputs.items()}) for job in some]
            crops = {name: _laid_out(torch.cat([part[name] for part in parts])) for name in parts[0]}
            yield some, tree, tree.forward(crops, nodes)


def _shared(trunk: Trunk, inputs: Mapping[str, Tensor], jobs: list[UnitJob], nodes: set[Node]) -> Iterator[Prepared]:
    full_tree = trunk.tree()
    by_image: dict[int, list[UnitJob]] = {}
    for job in jobs:
        by_image.setdefault(job.image, []).append(job)
    device = trunk.network.device
    room = _room(full_tree, device)
    numbers = list(by_image)
    for first in range(0, len(numbers), room):
        some = numbers[first : first + room]
        row = {image: r for r, image in enumerate(some)}
        # once an image: by the module's own arithmetic, so that masks and switches are the module's to the last bit
        cut = full_tree.cut({name: values[some] for name, values in inputs.items()})
        forward = full_tree.forward(cut, nodes, trunk.plain)
        values = {node: _laid_out(forward[node]) for node in nodes}
        for group in _alike([job for image in some for job in by_image[image]]):
            tree = group[0].tree
            for part in _chunks(group, tree, device):
                rows = [row[job.image] for job in part]
                yield part, tree, {node: _gather(values[node], node, full_tree, part, rows) for node in nodes}


def _gather(value: Tensor, node: Node, full_tree: Tree, jobs: list[UnitJob], rows: list[int]) -> Tensor:
    """The jobs' boxes of one node, as a batch; a view where one job or the whole value allows it.

    value: on the box of `full_tree`, which leaves out what nothing reads, as what a slice drops.
    """
    boxes, full_box = [job.tree.box(node) for job in jobs], full_tree.box(node)
    if full_box is None or all(box == full_box for box in boxes):
        axis = node.batch_axis
        assert axis is not None
        if rows == list(range(value.shape[axis])):
            return value
        if len(set(rows)) == 1:
            return value.narrow(axis, rows[0], 1).expand(*(len(rows) if i == axis else -1 for i in range(value.ndim)))
        return value.index_select(axis, torch.tensor(rows, device=value.device))
    y, x, *_ = full_box
    cuts = [value[r : r + 1, ..., a - y : c - y, b - x : d - x] for r, (a, b, c, d) in zip(rows, boxes, strict=True)]  # type: ignore[misc]
    if len(cuts) == 1:
        return cuts[0]
    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    batch = torch.empty((len(cuts), *cuts[0].shape[1:]), dtype=value.dtype, device=value.device, memory_format=layout)
    return torch.cat(cuts, out=batch)


def _by_image(node: Node) -> bool:
    """Whether one axis of the value counts the images, so that a unit's can be picked out."""
    return node.batch_axis is not None and (node.batch_axis == 0 or len(node.full_shape) < 4)


def _alike(jobs: list[UnitJob]) -> list[list[UnitJob]]:
    """The jobs by the signature of their trees."""
    groups: dict[Any, list[UnitJob]] = {}
    for job in jobs:
        groups.setdefault(job.tree.signature, []).append(job)
    return list(groups.values())


def _laid_out(value: Any) -> Any:
    """Maps in the layout that convolutions are fastest in."""
    return (
        value.contiguous(memory_format=torch.channels_last) if isinstance(value, Tensor) and value.ndim == 4 else value
    )


def _chunks(jobs: list[UnitJob], tree: Tree, device: torch.device) -> Iterator[list[UnitJob]]:
    room = _room(tree, device)
    for first in range(0, len(jobs), room):
        yield jobs[first : first + room]


def _room(tree: Tree, device: torch.device) -> int:
    """Units a batch: bounds the memory, and keeps the largest value in the cache."""
    largest = max(torch.Size(tree.size(node)).numel() for node in tree.trunk.data if node.is_tensor)
    return max(1, _VALUES.get(device.type, _VALUES["cuda"]) // largest)


def shuffle_places(
    tree: Tree, values: Mapping[Node, Any], seeds: Sequence[int], keep: Collection[Node]
) -> dict[Node, Any]:
    """`values` with the places of each channel in another order: a channel stays active at as many places.

    values: of one batch, on the tree's boxes. seeds: one a unit of the batch. keep: nodes that stay as they are. A join
    of shuffled maps is the join of what they became, so that switches still point at active units. The order is a
    random one a map, shifted by a random number in each channel. Raises SettingsError where no map has two places.
    """
    shuffled: dict[Node, Tensor] = {}
    for node in tree.trunk.data:
        value = values.get(node)
        if not isinstance(value, Tensor) or node in keep or tree.box(node) is None or value[0, 0].numel() < 2:
            continue
        parts: Any = node.args[0] if node.operator == "cat" else ()
        if parts and all(part in shuffled and tree.box(part) == tree.box(node) for part in parts):
            shuffled[node] = torch.cat([shuffled[part] for part in parts], node.argument("dim"))
        else:
            rows = [_in_another_order(row, stream(node.name, seed)) for row, seed in zip(value, seeds, strict=True)]
            shuffled[node] = torch.stack(rows)
    if not shuffled:
        raise SettingsError(
            f"no map with several places lies between the image and '{tree.trunk.target.name}': its masks cannot be "
            "shuffled over places."
        )
    return {**values, **{node: _laid_out(value) for node, value in shuffled.items()}}


def _in_another_order(maps: Tensor, seed: int) -> Tensor:
    """(channel, *, height, width) with the places of each channel in another order."""
    flat = maps.flatten(-2).flatten(0, -2)
    channels, places = flat.shape
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(places, generator=generator)
    shifts = torch.randint(places, (channels, 1), generator=generator)
    index = order.repeat(2).unfold(0, places, 1)[shifts[:, 0]]  # a row for each shift
    return flat.gather(1, index.to(flat.device)).reshape(maps.shape)
