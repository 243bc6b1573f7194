"""Convolution and pooling on a part of the image, forward and transposed; padding only at the image's edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from netopsy.engine.backproject.receptive import stepping
from netopsy.network.graph import aten
from netopsy.network.node import Node

IntPair = tuple[int, int]
Padding = tuple[int, int, int, int]  # left, right, top, bottom


@dataclass(frozen=True)
class Convolution:
    """W x, and W^T g."""

    stride: IntPair
    dilation: IntPair
    groups: int

    def forward(self, x: Tensor, padding: Padding, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x: what is read of the operand, without padding."""
        left, right, top, bottom = padding
        if left == right and top == bottom:
            return F.conv2d(x, weight, bias, self.stride, (top, left), self.dilation, self.groups)
        return F.conv2d(F.pad(x, padding), weight, bias, self.stride, 0, self.dilation, self.groups)

    def backward(self, g: Tensor, x: Tensor | None, padding: Padding, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The transposed convolution, on what was read of the operand."""
        if weight.shape[-2:] == (1, 1) and self.stride == (1, 1) and not any(padding) and self.groups == 1:
            return F.conv2d(g, weight.transpose(0, 1))
        left, right, top, bottom = padding
        more = top - bottom, left - right
        if all(0 <= m < max(s, d) for m, s, d in zip(more, self.stride, self.dilation, strict=True)):
            return F.conv_transpose2d(g, weight, None, self.stride, (top, left), more, self.groups, self.dilation)
        spread = F.conv_transpose2d(g, weight, None, self.stride, 0, 0, self.groups, self.dilation)
        return F.pad(spread, [-n for n in padding])


@dataclass(frozen=True)
class MaxPool:
    """The largest value of each window, and back to the place that it came from (the switches P)."""

    kernel: IntPair
    stride: IntPair
    dilation: IntPair

    def forward(self, x: Tensor, padding: Padding) -> Tensor:
        """x: what is read of the operand, without padding."""
        return F.max_pool2d(_pad_edges(x, padding), self.kernel, self.stride, 0, self.dilation)

    def everywhere(self) -> AveragePool:
        """The sum over each window: what all its places could contribute."""
        return AveragePool(self.kernel, self.stride, 1, self.dilation)

    def backward(self, g: Tensor, x: Tensor | None, padding: Padding) -> Tensor:
        """P^T g, with the switches that `x` sets."""
        assert x is not None
        settings = self.kernel, self.stride, (0, 0), self.dilation, False
        # units of one image share its values without a copy, and so the switches
        first = x[:1] if x.stride(0) == 0 else x
        edged = _pad_edges(first, padding)
        switches = aten.max_pool2d_with_indices(edged, *settings)[1].expand(len(g), -1, -1, -1)
        edged = edged.expand(len(g), -1, -1, -1)
        spread = aten.max_pool2d_with_indices_backward(g, edged, *settings, switches)
        return F.pad(spread, [-n for n in padding]) if any(padding) else spread


@dataclass(frozen=True)
class AveragePool:
    """The mean of each window, padding counted, and its transpose."""

    kernel: IntPair
    stride: IntPair
    divisor: int
    dilation: IntPair = (1, 1)

    def forward(self, x: Tensor, padding: Padding) -> Tensor:
        """x: what is read of the operand, without padding."""
        return F.avg_pool2d(F.pad(x, padding), self.kernel, self.stride, 0, divisor_override=self.divisor)

    def backward(self, g: Tensor, x: Tensor | None, padding: Padding) -> Tensor:
        """Each value spread evenly over its window."""
        channels = g.shape[-3]
        box = torch.full((channels, 1, *self.kernel), 1 / self.divisor, dtype=g.dtype, device=g.device)
        spread = F.conv_transpose2d(g, box, stride=self.stride, groups=channels, dilation=self.dilation)
        return F.pad(spread, [-n for n in padding]) if any(padding) else spread


@dataclass(frozen=True)
class Slice:
    """Every so many rows and columns, x[..., ::step]; the first is where the reading starts."""

    step: IntPair

    def forward(self, x: Tensor, padding: Padding) -> Tensor:
        """x: what is read of the operand."""
        return x[..., :: self.step[0], :: self.step[1]]

    def backward(self, g: Tensor, x: Tensor | None, padding: Padding) -> Tensor:
        """Zeros between the values."""
        height, width = ((n - 1) * step + 1 for n, step in zip(g.shape[-2:], self.step, strict=True))
        spread = g.new_zeros(*g.shape[:-2], height, width)
        self.forward(spread, padding).copy_(g)
        return spread


Operator = Convolution | MaxPool | AveragePool | Slice


def operator_of(node: Node) -> Operator | None:
    """The node's windowed operator; None where it is none."""
    if node.target is aten.conv2d.default:
        return Convolution(_pair(node.argument("stride")), _pair(node.argument("dilation")), node.argument("groups"))
    steps = stepping(node)
    if steps is not None:
        return Slice((steps[0][1], steps[1][1]))
    if node.target not in (aten.max_pool2d.default, aten.avg_pool2d.default):
        return None
    kernel = _pair(node.argument("kernel_size"))
    stride = _pair(node.argument("stride") or kernel)
    if node.target is aten.max_pool2d.default:
        return MaxPool(kernel, stride, _pair(node.argument("dilation")))
    return AveragePool(kernel, stride, node.argument("divisor_override") or kernel[0] * kernel[1])


def parameters_of(node: Node) -> tuple[Any, ...]:
    """The nodes of a convolution's weight and bias (None where there is no bias); none of a pooling."""
    return (node.argument("weight"), node.argument("bias")) if node.target is aten.conv2d.default else ()


def factors(parameters: Sequence[Any], values: Mapping[Node, Any]) -> tuple[Any, ...]:
    """Values of `parameters_of` a node."""
    return tuple(values[a] if isinstance(a, Node) else a for a in parameters)


def _pad_edges(x: Tensor, padding: Padding) -> Tensor:
    return F.pad(x, padding, value=-torch.inf) if any(padding) else x


def _pair(value: Any) -> IntPair:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values[0], values[-1]
