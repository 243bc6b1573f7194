"""What one unit depends on along each image axis, and which operators look at a small window of their operand only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from netopsy.network.graph import aten
from netopsy.network.node import Node


@dataclass(frozen=True)
class KernelWindow:
    """The stretch of an operand's axis that an operator reads for one stretch of its own."""

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def reads(self, first: int, end: int) -> tuple[int, int]:
        """(first, end) of what the outputs `first` to `end` read; it may reach into the padding."""
        start = first * self.stride - self.padding
        return start, (end - 1) * self.stride - self.padding + self.dilation * (self.kernel - 1) + 1


POINT = (KernelWindow(), KernelWindow())
# operators that leave the image axes alone where their arguments do (checked by shape)
_KEEPING = {"view", "reshape", "unsafe_view", "squeeze", "unsqueeze", "clone", "contiguous", "alias", "dropout", "cat"}
_KEEPING |= {"slice", "permute", "expand", "avg_pool3d", "pad", "constant_pad_nd", "narrow", "to_copy", "prelu"}


def is_spatial(node: Node) -> bool:
    """Whether the last two axes of the node's value can be those of an image."""
    return node.per_sample and len(node.full_shape) >= 4


def windows(node: Node) -> tuple[KernelWindow, KernelWindow] | None:
    """How the node reads its spatial operands, vertically and horizontally; None where it needs all of them."""
    if not is_spatial(node) or node.op != "call_function":
        return None
    target: Any = node.target
    kind = node.operator
    if target is aten.conv2d.default:
        return _of(node, "weight", padding=node.argument("padding"), dilation=node.argument("dilation"))
    if target is aten.max_pool2d.default:
        return _of(node, "kernel_size", padding=node.argument("padding"), dilation=node.argument("dilation"))
    if target is aten.avg_pool2d.default:
        # at the edges the divisor depends on the place, unless padding counts and no window is cut
        padding = _pair(node.argument("padding") or 0)
        if node.argument("ceil_mode") or (any(padding) and node.argument("count_include_pad") is False):
            return None
        return _of(node, "kernel_size", padding=padding, dilation=1)
    if target is aten.batch_norm.default:
        return POINT
    steps = stepping(node)
    if steps is not None:
        vertical, horizontal = (KernelWindow(1, step, -start) for start, step in steps)
        return vertical, horizontal
    pointwise = torch.Tag.pointwise in getattr(target, "tags", ())
    return POINT if (pointwise or kind in _KEEPING) and _keeps(node, kind) else None


def stepping(node: Node) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(start, step) vertically and horizontally of a slice x[..., start::step] of an image axis; None for others."""
    if node.target is not aten.slice.Tensor or not is_spatial(node.inputs[0]):
        return None
    axis, start, step = (node.argument(name) for name in ("dim", "start", "step"))
    behind = axis % len(node.full_shape) - len(node.full_shape) + 2  # 0 vertical, 1 horizontal
    if behind < 0 or not isinstance(start or 0, int) or (start or 0) < 0:
        return None
    along = (start or 0, step)
    return (along, (0, 1)) if behind == 0 else ((0, 1), along)


def _keeps(node: Node, kind: str) -> bool:
    """Whether each place of the image axes is made from the same place of every operand."""
    size = node.full_shape[-2:]
    for operand in node.inputs:
        if not operand.is_tensor:
            continue
        shape = operand.full_shape
        if operand.from_input:
            same = is_spatial(operand) and shape[-2:] == size
            single = kind not in _KEEPING and all(n == 1 for n in shape[-2:])
            if not same and not (single and is_spatial(operand)):
                return False
        elif kind != "prelu" and any(n != 1 for n in shape[-2:]):
            return False  # a constant picture would have to be cut for each unit
    return _ARGUMENTS_KEEP.get(kind, lambda node, rank: True)(node, len(node.full_shape))


def _axis_in_front(node: Node, rank: int) -> bool:
    axis: Any = node.argument("dim")
    return axis % rank < rank - 2


def _order_keeps(node: Node, rank: int) -> bool:
    order: Any = node.args[1]
    return [a % rank for a in order[-2:]] == [rank - 2, rank - 1]


def _no_spatial_padding(node: Node, rank: int) -> bool:
    amounts = node.args[1]
    return not any(amounts[:4]) if isinstance(amounts, list | tuple) else False


def _flat_kernel(node: Node, rank: int) -> bool:
    stride = node.argument("stride") or node.argument("kernel_size")
    sizes = (node.argument("kernel_size"), stride, node.argument("padding") or 0)
    return [_pair(size) for size in sizes] == [(1, 1), (1, 1), (0, 0)] and not node.argument("ceil_mode")


_ARGUMENTS_KEEP: dict[str, Any] = {
    "cat": _axis_in_front,
    "slice": _axis_in_front,
    "narrow": _axis_in_front,
    "permute": _order_keeps,
    "pad": _no_spatial_padding,
    "constant_pad_nd": _no_spatial_padding,
    "avg_pool3d": _flat_kernel,
}


def _of(node: Node, size: str, padding: Any, dilation: Any) -> tuple[KernelWindow, KernelWindow] | None:
    value = node.argument(size)
    kernel = value.full_shape[-2:] if isinstance(value, Node) else _pair(value)
    stride = node.argument("stride")
    if isinstance(padding, str) or stride is None or stride == []:
        stride = kernel if size == "kernel_size" else 1
    if isinstance(padding, str):
        return None
    parts = zip(kernel, _pair(stride), _pair(padding or 0), _pair(dilation or 1), strict=True)
    vertical, horizontal = (KernelWindow(k, s, p, d) for k, s, p, d in parts)
    return vertical, horizontal


def _pair(value: Any) -> tuple[int, int]:
    """The last two of a list of sizes; a single number twice."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values[-2:][0], values[-1]


KernelWindows = Mapping[Node, tuple[KernelWindow, KernelWindow] | None]


@dataclass(frozen=True)
class ReadRange:
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

    first: dict[Node, int]
    length: dict[Node, int]
    reads: dict[tuple[Node, Node], ReadRange]

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

    node: Node
    size: int | None
    sees_all: bool
    operands: tuple[tuple[Node, int, KernelWindow | None], ...]


def links(order: Sequence[Node], windows: KernelWindows, axis: int) -> list[Link]:
    """The links of the data nodes that a target depends on, in order of execution.

    axis: 0 vertical, 1 horizontal.
    """
    result = []
    for node in order:
        window, spatial = windows[node], is_spatial(node)
        size = node.full_shape[-2 + axis] if spatial else None
        operands = []
        for operand in node.inputs:
            if operand in windows and is_spatial(operand):
                length = operand.full_shape[-2 + axis]
                axis_window = None if window is None else window[axis]
                # a single value of the operand serves all places of a pointwise node
                broadcast = axis_window == KernelWindow() and length == 1 != size
                operands.append((operand, length, None if broadcast else axis_window))
        sees_all = window is None and (bool(node.inputs) or not spatial)
        result.append(Link(node, size, sees_all, tuple(operands)))
    return result


def spans(links: Sequence[Link], places: tuple[int, int] | None = None) -> Spans:
    """The spans for the units at `places` (first, end) of the last of the links; for all its places by default."""
    needed: dict[Node, tuple[int, int]] = {}
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
                reads[link.node, operand] = ReadRange(0, 1)
                continue
            first, end = window.reads(*needed[link.node])
            low, high = _inside(first, end, size)
            reads[link.node, operand] = ReadRange(low - needed[operand][0], high - low, low - first, end - high)
    ranges = {link.node: needed[link.node] for link in links if link.node in needed}
    return Spans({n: a for n, (a, _) in ranges.items()}, {n: b - a for n, (a, b) in ranges.items()}, reads)


def _inside(first: int, end: int, size: int) -> tuple[int, int]:
    """The part of a stretch inside 0 to `size`; at least one value, where all of it is padding."""
    low, high = min(max(first, 0), size - 1), min(max(end, 1), size)
    return low, max(high, low + 1)
