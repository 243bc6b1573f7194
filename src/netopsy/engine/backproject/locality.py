"""Which operators look at a small window of their operand, along the two image axes, and which at all of it."""

from __future__ import annotations

from collections.abc import Collection
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
