"""Along one image axis: which stretch of every node one unit depends on, and how each operator reads its operands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from netopsy.engine.backward.locality import Window, is_spatial
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


def spans(order: Sequence[fx.Node], windows: Windows, data: Collection[fx.Node], axis: int, place: int | None) -> Spans:
    """The spans for the unit at `place` of the last node of `order`; all places where it is None.

    order: the data nodes that the target depends on, in order of execution. axis: 0 vertical, 1 horizontal.
    """

    def size(node: fx.Node) -> int:
        return shape_of(node)[-2 + axis]

    needed: dict[fx.Node, tuple[int, int]] = {}
    target = order[-1]
    if is_spatial(target):
        needed[target] = (0, size(target)) if place is None else (place, place + 1)

    def widen(node: fx.Node, first: int, end: int) -> None:
        old = needed.get(node, (first, end))
        needed[node] = (min(old[0], first), max(old[1], end))

    for node in reversed(order):
        window = windows[node]
        if window is None and is_spatial(node) and node.all_input_nodes:
            needed[node] = (0, size(node))
        for operand in node.all_input_nodes:
            if operand in data and is_spatial(operand):
                if window is None or _broadcast(node, operand, axis, window[axis]):
                    widen(operand, 0, size(operand))
                else:
                    widen(operand, *_inside(*window[axis].reads(*needed[node]), size(operand)))
    reads = {}
    for node in order:
        window = windows[node]
        for operand in node.all_input_nodes:
            if window is None or operand not in data or not is_spatial(operand):
                continue
            if _broadcast(node, operand, axis, window[axis]):
                reads[node, operand] = Read(0, 1)
                continue
            first, end = window[axis].reads(*needed[node])
            low, high = _inside(first, end, size(operand))
            reads[node, operand] = Read(low - needed[operand][0], high - low, low - first, end - high)
    kept = {node: needed[node] for node in order if node in needed}
    return Spans({n: a for n, (a, _) in kept.items()}, {n: b - a for n, (a, b) in kept.items()}, reads)


def _broadcast(node: fx.Node, operand: fx.Node, axis: int, window: Window) -> bool:
    """Whether a single value of the operand serves all places of a pointwise node."""
    return window == Window() and shape_of(operand)[-2 + axis] == 1 != shape_of(node)[-2 + axis]


def _inside(first: int, end: int, size: int) -> tuple[int, int]:
    """The part of a stretch inside 0 to `size`; at least one value, where all of it is padding."""
    low, high = min(max(first, 0), size - 1), min(max(end, 1), size)
    return low, max(high, low + 1)
