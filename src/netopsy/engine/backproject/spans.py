"""Along one image axis: which stretch of every node one unit depends on, and how each operator reads its operands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from netopsy.engine.backproject.locality import Window, is_spatial
from netopsy.network.graph import shape_of

Windows = Mapping[fx.Node, tuple[Window, Window] | None]


@dataclass(frozen=True)
class Read:
    """The part of an operand's stretch that an operator reads: where it starts, its length, the padding around it."""

    start: int
    length: int
    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class Spans:
    """Stretches of all spatial nodes along one axis, for one place of the target.

    first: where each node's stretch begins. length: of each. reads: by (node, operand), relative to the operand's own.
    signature: equal for two places whose stretches differ by shifts alone, so that their units can be one batch.
    """

    first: dict[fx.Node, int]
    length: dict[fx.Node, int]
    reads: dict[tuple[fx.Node, fx.Node], Read]

    @property
    def signature(self) -> tuple[object, ...]:
        """What two places must share to be one batch."""
        return (*self.length.values(), *self.reads.values())


@dataclass(frozen=True)
class Link:
    """What the spans of one axis need of one node.

    size: values along the axis; None where the node has no places. sees_all: whether all of it is made, from all of
    its operands. operands: with the size of each and how it is read; None where one value serves all places.
    """

    node: fx.Node
    size: int | None
    sees_all: bool
    operands: tuple[tuple[fx.Node, int, Window | None], ...]


def links(order: Sequence[fx.Node], windows: Windows, axis: int) -> list[Link]:
    """The links of the data nodes that a target depends on, in order of execution.

    axis: 0 vertical, 1 horizontal.
    """
    found = []
    for node in order:
        window, spatial = windows[node], is_spatial(node)
        size = shape_of(node)[-2 + axis] if spatial else None
        operands = []
        for operand in node.all_input_nodes:
            if operand in windows and is_spatial(operand):
                length = shape_of(operand)[-2 + axis]
                how = None if window is None else window[axis]
                # a single value of the operand serves all places of a pointwise node
                broadcast = how == Window() and length == 1 != size
                operands.append((operand, length, None if broadcast else how))
        sees_all = window is None and (bool(node.all_input_nodes) or not spatial)
        found.append(Link(node, size, sees_all, tuple(operands)))
    return found


def spans(links: Sequence[Link], places: tuple[int, int] | None = None) -> Spans:
    """The spans for the units at `places` (first, end) of the last of the links; for all its places by default."""
    needed: dict[fx.Node, tuple[int, int]] = {}
    target = links[-1]
    if target.size is not None:
        needed[target.node] = (0, target.size) if places is None else places
    for link in reversed(links):
        if link.sees_all and link.size is not None:
            needed[link.node] = (0, link.size)
        for operand, size, window in link.operands:
            stretch = (0, size) if window is None else _inside(*window.reads(*needed[link.node]), size)
            old = needed.get(operand)
            needed[operand] = stretch if old is None else (min(old[0], stretch[0]), max(old[1], stretch[1]))
    reads = {}
    for link in links:
        for operand, size, window in () if link.sees_all else link.operands:
            if window is None:
                reads[link.node, operand] = Read(0, 1)
                continue
            first, end = window.reads(*needed[link.node])
            low, high = _inside(first, end, size)
            reads[link.node, operand] = Read(low - needed[operand][0], high - low, low - first, end - high)
    kept = {link.node: needed[link.node] for link in links if link.node in needed}
    return Spans({n: a for n, (a, _) in kept.items()}, {n: b - a for n, (a, b) in kept.items()}, reads)


def _inside(first: int, end: int, size: int) -> tuple[int, int]:
    """The part of a stretch inside 0 to `size`; at least one value, where all of it is padding."""
    low, high = min(max(first, 0), size - 1), min(max(end, 1), size)
    return low, max(high, low + 1)
