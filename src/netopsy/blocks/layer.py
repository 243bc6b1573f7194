"""The one layer in a block's place, and MW: it begins as the mean of the filters that it replaces."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy.blocks.block import Block
from netopsy.blocks.fit import Shape, layer_shape
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.settings import stream


class Activation(nn.Module):
    """An elementwise operator of ATen by its name, with its further arguments."""

    def __init__(self, operator: str, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.operator, self.arguments = operator, arguments

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        operator: Any = getattr(torch.ops.aten, self.operator).default
        pairs = list(zip(operator._schema.arguments[1:], self.arguments, strict=True))
        named = {entry.name: value for entry, value in pairs if entry.kwarg_only}  # as gelu's `approximate`
        result: Tensor = operator(x, *(value for entry, value in pairs if not entry.kwarg_only), **named)
        return result

    def extra_repr(self) -> str:
        return ", ".join([self.operator, *map(str, self.arguments)])


class OneLayer(nn.Module):
    """A convolution or linear map, then batch norm and an activation, as the block that it replaces has them.

    conv: values (batch, channel, height, width); tokens: (batch, *places, feature); linear: (batch, feature).
    Source: Nowak & Corso, "Deep Net Triage", Section 2.2 and Eq 1.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        left, right, top, bottom = shape.padding
        even = left == right >= 0 and top == bottom >= 0
        self.edges = None if even or shape.kind != "conv" else shape.padding
        self.conv: nn.Conv2d | None = None
        self.linear: nn.Linear | None = None
        if shape.kind == "conv":
            self.conv = nn.Conv2d(
                shape.inputs,
                shape.outputs,
                shape.kernel,
                shape.stride,
                (top, left) if even else 0,
                bias=shape.bias,
            )
        else:
            self.linear = nn.Linear(shape.inputs, shape.outputs, bias=shape.bias)
        self.norm: nn.Module | None = None
        if shape.norm is not None:
            kind = nn.BatchNorm2d if shape.kind == "conv" else nn.BatchNorm1d
            self.norm = kind(shape.outputs, eps=shape.norm[0], momentum=shape.norm[1])
        self.act = None if shape.act is None else Activation(*shape.act)

    @property
    def map(self) -> nn.Conv2d | nn.Linear:
        """The convolution or linear map."""
        layer = self.linear if self.conv is None else self.conv
        assert layer is not None
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """The block's values of its input."""
        if self.edges is not None:
            x = F.pad(x, self.edges)
        x = self.map(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.act is None else self.act(x)


def new_layer(network: Network, block: Block, seed: int = 0) -> OneLayer:
    """The layer that fits `block`, its weights drawn anew (RW); on the network's device, in its type.

    weight ~ U(-a, a), a = sqrt(6 / (fan_in + fan_out)); bias 0, norm 1 and 0.
    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
    Eq 16. Errors: SettingsError where no one layer fits the block.
    """
    with torch.random.fork_rng([]):  # the layers' own initialisation draws too
        layer = OneLayer(layer_shape(network, block))
    nn.init.xavier_uniform_(layer.map.weight, generator=torch.Generator().manual_seed(stream("start of a block", seed)))
    if layer.map.bias is not None:
        nn.init.zeros_(layer.map.bias)
    floats = [t for t in network.tensors.values() if t.is_floating_point()]
    layer.to(network.device, floats[0].dtype if floats else torch.float32)
    return layer.train(network.module.training)


@torch.no_grad()
def mean_of_parent(network: Network, block: Block, layer: OneLayer, each: Literal["layer", "filter"] = "layer") -> None:
    """Set the weights of `layer`, in place, to means over the filters of the block's layers; biases 0, norm 1 and 0.

    each: `layer`: every k x k slice of the weight is f_avg = 1/N sum_i f_i over all k x k x 1 filters of all layers of
    the block (Nowak & Corso, Section 3.1, Eq 2). `filter`: the slices of filter j are the mean over the slices of the
    filters j of those layers that have as many filters as the new one. A smaller filter counts as one of k x k with
    zeros around it: they compute the same.
    """
    if each not in ("layer", "filter"):
        raise SettingsError(f"each '{each}' must be 'layer' (one mean over all filters) or 'filter' (one a filter).")
    weight = layer.map.weight
    kernel = tuple(weight.shape[2:]) or (1, 1)
    stacks = []
    for name in block.layers:
        block_layer = network.layer(name)
        slices = _slices(network.tensors[block_layer.weight], kernel, block_layer.kind)
        if slices is not None and (each == "layer" or slices.shape[0] == weight.shape[0]):
            stacks.append(slices)
    if each == "layer":
        total = torch.stack([stack.sum((0, 1)) for stack in stacks]).sum(0)
        count = sum(stack.shape[0] * stack.shape[1] for stack in stacks)
        mean = (total / count).expand(weight.shape[0], 1, *kernel)
    elif not stacks:
        raise SettingsError(
            f"no layer of {block.name} has {weight.shape[0]} filters, as the new one; use each='layer' instead."
        )
    else:
        total = torch.cat(stacks, 1).sum(1, keepdim=True)
        mean = total / sum(stack.shape[1] for stack in stacks)
    weight.copy_(mean.expand(*weight.shape[:2], *kernel).reshape(weight.shape).to(weight.dtype))
    reset(layer)


def reset(layer: OneLayer) -> None:
    """Bias 0, norm 1 and 0."""
    if layer.map.bias is not None:
        nn.init.zeros_(layer.map.bias)
    if isinstance(layer.norm, nn.BatchNorm1d | nn.BatchNorm2d):
        layer.norm.reset_parameters()


def _slices(weight: Tensor, kernel: tuple[int, ...], kind: str) -> Tensor | None:
    """One layer's filters as float64 (filters, depth, *kernel), the smaller ones amid zeros; None for other axes."""
    values = weight.detach().double()
    if values.ndim == 2:
        values = values[:, :, None, None]
    if values.ndim != 4:
        return None
    if kind == "conv_transpose":
        values = values.transpose(0, 1)
    rows, columns = values.shape[2:]
    if rows > kernel[0] or columns > kernel[1]:
        return None
    full = values.new_zeros(*values.shape[:2], *kernel)
    top, left = (kernel[0] - rows) // 2, (kernel[1] - columns) // 2
    full[:, :, top : top + rows, left : left + columns] = values
    return full
