"""MW: the new layer begins as the mean of the filters that it replaces."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from netopsy.blocks.block import Block
from netopsy.blocks.layer import OneLayer
from netopsy.errors import SettingsError
from netopsy.network.network import Network


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
        own = network.layer(name)
        found = _slices(network.tensors[own.weight], kernel, own.kind)
        if found is not None and (each == "layer" or found.shape[0] == weight.shape[0]):
            stacks.append(found)
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
