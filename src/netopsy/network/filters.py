"""The filters of a convolution as an array of their own, whichever way the weight is laid out."""

from __future__ import annotations

from torch import Tensor

from netopsy.network.layers import Layer

CONVOLUTIONS = ("conv", "conv_transpose")


def filter_shape(layer: Layer) -> tuple[int, ...]:
    """(filters, depth per group, *kernel): one filter an output channel."""
    first, second, *kernel = layer.weight_shape
    if layer.kind == "conv_transpose":
        return (second * layer.groups, first // layer.groups, *kernel)
    return (first, second, *kernel)


def filters_of(layer: Layer, weight: Tensor) -> Tensor:
    """`weight` of a convolution as (filters, depth per group, *kernel); a view where the layout allows."""
    if layer.kind != "conv_transpose":
        return weight
    groups, (inputs, outputs, *kernel) = layer.groups, weight.shape
    parted = weight.reshape(groups, inputs // groups, outputs, *kernel)
    return parted.transpose(1, 2).reshape(groups * outputs, inputs // groups, *kernel)


def weight_of(layer: Layer, filters: Tensor) -> Tensor:
    """The weight whose filters, (filters, depth per group, *kernel), are `filters`; undoes `filters_of`."""
    if layer.kind != "conv_transpose":
        return filters
    groups, (outputs, depth, *kernel) = layer.groups, filters.shape
    parted = filters.reshape(groups, outputs // groups, depth, *kernel)
    return parted.transpose(1, 2).reshape(groups * depth, outputs // groups, *kernel)
