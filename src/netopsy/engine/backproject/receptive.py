"""What one unit depends on along each image axis, and which operators look at a small window of their operand only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from netopsy.network.graph import aten, batch_first, operator_name, shape_of
from netopsy.network.macs import argument


@dataclass(frozen=True)
class Window:
    """The stretch of an operand's axis that an operator reads for one stretch of its own."""

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def reads(self, first: int, end: int) -> tuple[int, int]:
        """(first, end) of what the outputs `first` to `end` read; it may reach into the padding."""
        start = first * self.stride - self.padding
        return start, (end - 1) * self.stride - self.padding + self.dilation * (self.kernel - 1) + 1


POINT = (Window(), Window())
# operators that leave the image axes alone where their arguments do (checked by shape)
_KEEPING = {"view", "reshape", "unsafe_view", "squeeze", "unsqueeze", "clone", "contiguous", "alias", "dropout", "cat"}
_KEEPING |= {"slice", "permute", "expand", "avg_pool3d", "pad", "constant_pad_nd", "narrow", "to_copy", "prelu"}


def is_spatial(node: fx.Node) -> bool:
    """Whether the last two axes of the node's value can be those of an image."""
    return batch_first(node) and len(shape_of(node)) >= 4


def windows(node: fx.Node, data: Collection[fx.Node]) -> tuple[Window, Window] | None:
    """How the node reads its spatial operands, vertically and horizontally; None where it needs all of them."""
    if not is_spatial(node) or node.op != "call_function":
        return None
    target: Any = node.target
    kind = operator_name(node)
    if target is aten.conv2d.default:
        return _of(node, "weight", padding=argument(node, "padding"), dilation=argument(node, "dilation"))
    if target is aten.max_pool2d.default:
        return _of(node, "kernel_size", padding=argument(node, "padding"), dilation=argument(node, "dilation"))
    if target is aten.avg_pool2d.default:
        # at the edges the divisor depends on the place, unless padding counts and no window is cut
        padding = _pair(argument(node, "padding") or 0)
        if argument(node, "ceil_mode") or (any(padding) and argument(node, "count_include_pad") is False):
            return None
        return _of(node, "kernel_size", padding=padding, dilation=1)
    if target is aten.batch_norm.default:
        return POINT
    steps = stepping(node)
    if steps is not None:
        vertical, horizontal = (Window(1, step, -start) for start, step in steps)
        return vertical, horizontal
    pointwise = torch.Tag.pointwise in getattr(target, "tags", ())
    return POINT if (pointwise or kind in _KEEPING) and _keeps(node, kind, data) else None


def stepping(node: fx.Node) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(start, step) vertically and horizontally of a slice x[..., start::step] of an image axis; None for others."""
    if node.target is not aten.slice.Tensor or not is_spatial(node.all_input_nodes[0]):
        return None
    axis, start, step = (argument(node, name) for name in ("dim", "start", "step"))
    behind = axis % len(shape_of(node)) - len(shape_of(node)) + 2  # 0 vertical, 1 horizontal
    if behind < 0 or not isinstance(start or 0, int) or (start or 0) < 0:
        return None
    along = (start or 0, step)
    return (along, (0, 1)) if behind == 0 else ((0, 1), along)


def _keeps(node: fx.Node, kind: str, data: Collection[fx.Node]) -> bool:
    """Whether each place of the image axes is made from the same place of every operand."""
    size = shape_of(node)[-2:]
    for operand in node.all_input_nodes:
        if not isinstance(operand.meta.get("val"), Tensor):
            continue
        shape = shape_of(operand)
        if operand in data:
            same = is_spatial(operand) and shape[-2:] == size
            single = kind not in _KEEPING and all(n == 1 for n in shape[-2:])
            if not same and not (single and is_spatial(operand)):
                return False
        elif kind != "prelu" and any(n != 1 for n in shape[-2:]):
            return False  # a constant picture would have to be cut for each unit
    return _ARGUMENTS_KEEP.get(kind, lambda node, rank: True)(node, len(shape_of(node)))


def _axis_in_front(node: fx.Node, rank: int) -> bool:
    axis: Any = argument(node, "dim")
    return axis % rank < rank - 2


def _order_keeps(node: fx.Node, rank: int) -> bool:
    order: Any = node.args[1]
    return [a % rank for a in order[-2:]] == [rank - 2, rank - 1]


def _no_spatial_padding(node: fx.Node, rank: int) -> bool:
    amounts = node.args[1]
    return not any(amounts[:4]) if isinstance(amounts, list | tuple) else False


def _flat_kernel(node: fx.Node, rank: int) -> bool:
    stride = argument(node, "stride") or argument(node, "kernel_size")
    sizes = (argument(node, "kernel_size"), stride, argument(node, "padding") or 0)
    return [_pair(size) for size in sizes] == [(1, 1), (1, 1), (0, 0)] and not argument(node, "ceil_mode")


_ARGUMENTS_KEEP: dict[str, Any] = {
    "cat": _axis_in_front,
    "slice": _axis_in_front,
    "narrow": _axis_in_front,
    "permute": _order_keeps,
    "pad": _no_spatial_padding,
    "constant_pad_nd": _no_spatial_padding,
    "avg_pool3d": _flat_kernel,
}


def _of(node: fx.Node, size: str, padding: Any, dilation: Any) -> tuple[Window, Window] | None:
    value = argument(node, size)
    kernel = shape_of(value)[-2:] if isinstance(value, fx.Node) else _pair(value)
    stride = argument(node, "stride")
    if isinstance(padding, str) or stride is None or stride == []:
        stride = kernel if size == "kernel_size" else 1
    if isinstance(padding, str):
        return None
    parts = zip(kernel, _pair(stride), _pair(padding or 0), _pair(dilation or 1), strict=True)
    vertical, horizontal = (Window(k, s, p, d) for k, s, p, d in parts)
    return vertical, horizontal


def _pair(value: Any) -> tuple[int, int]:
    """The last two of a list of sizes; a single number twice."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values[-2:][0], values[-1]


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
