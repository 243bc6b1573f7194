"""Convolution and pooling on a part of the image, forward and transposed; padding only at the image's edges. Recurrent
operators as the linear maps that they are on a sample."""

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


_State = tuple[Tensor, Tensor | None]  # hidden, and cell of an LSTM


def masked_recurrence(node: Node, arguments: Mapping[Node, Any]) -> Any:
    """What a recurrent operator gives, computed so that its derivative is that of the linear map it is on the sample.

    As the masks r of rectifiers are held (Palmieri et al., Equation 8), gates are held at their values, and tanh(z) is
    r z with r = tanh(z) / z held: from the inputs and the states at the start to every state the map is then linear.
    Without biases, and from states of 0, a state is the sum over the steps of its map times their inputs.
    """
    kind = node.operator.removesuffix("_cell")
    args: Any
    args, _ = node.filled(arguments)
    if node.operator != kind:
        x, state, of_input, of_state, *biases = args
        hidden = list(state) if kind == "lstm" else [state]
        first = _step(kind, x, (hidden[0], hidden[-1]), [of_input, of_state, *(biases or (None, None))], None)
        return first if kind == "lstm" else first[0]
    x, state, weights, has_biases, layers, _, _, both_ways, batch_first = args
    starts = state if kind == "lstm" else [state]
    x = x.transpose(0, 1) if batch_first else x
    directions = 2 if both_ways else 1
    size, lasts = len(weights) // (layers * directions), []
    for layer in range(layers):
        ways = []
        for way in range(directions):
            k = layer * directions + way
            maps = list(weights[k * size : (k + 1) * size])
            projection = maps.pop() if size == (5 if has_biases else 3) else None
            maps += [] if has_biases else [None, None]
            now: _State = (starts[0][k], starts[-1][k])
            outputs = []
            for values in x.flip(0) if way else x:
                now = _step(kind, values, now, maps, projection)
                outputs.append(now[0])
            ways.append(torch.stack(outputs[::-1] if way else outputs))
            lasts.append(now)
        x = torch.cat(ways, -1)
    last = [torch.stack([part for part in (s[i] for s in lasts) if part is not None]) for i in range(len(starts))]
    return (x.transpose(0, 1) if batch_first else x, *last)


def _step(kind: str, x: Tensor, state: _State, maps: Sequence[Any], projection: Tensor | None) -> _State:
    """One step of one layer in one direction, as torch.nn.LSTM, GRU and RNN define it."""
    of_input, of_state, bias_input, bias_state = maps
    hidden, cell = state
    a, b = F.linear(x, of_input, bias_input), F.linear(hidden, of_state, bias_state)
    if kind == "lstm":
        assert cell is not None
        enter, forget, new, leave = (a + b).chunk(4, 1)
        gates = [torch.sigmoid(z).detach() for z in (enter, forget, leave)]
        cell = gates[1] * cell + gates[0] * _masked_tanh(new)
        hidden = gates[2] * _masked_tanh(cell)
        return hidden if projection is None else F.linear(hidden, projection), cell
    if kind == "gru":
        (reset, update, new), (reset_b, update_b, new_b) = a.chunk(3, 1), b.chunk(3, 1)
        reset, update = (torch.sigmoid(z).detach() for z in (reset + reset_b, update + update_b))
        return (1 - update) * _masked_tanh(new + reset * new_b) + update * hidden, None
    return (_masked_tanh(a + b) if kind == "rnn_tanh" else torch.relu(a + b)), None


def _masked_tanh(z: Tensor) -> Tensor:
    value = torch.tanh(z)
    mask = torch.where(z == 0, 1.0, value / torch.where(z == 0, 1.0, z))
    return mask.detach() * z
