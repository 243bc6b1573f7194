"""Which layer, and which of its units, to look at where the user names none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from netopsy.engine.walk import plan
from netopsy.errors import SettingsError
from netopsy.network.activations import activations
from netopsy.network.graph import operator_name, shape_of
from netopsy.network.network import Network
from netopsy.network.units import Unit, channel_axis, unit_nodes
from netopsy.samples import Samples

_CONVOLUTIONS = {"conv2d", "convolution", "conv_transpose2d"}


def default_layer(network: Network) -> str:
    """The activation behind the last convolution with more than one place; else the last unit node with an activation.

    (Palmieri et al. take layer 13 of VGG-16, its last convolution.)
    """
    nodes = unit_nodes(network)
    known = activations(network, mixing=False)
    maps = [n for n in nodes if n in known and len(shape_of(nodes[n])) == 4 and math.prod(shape_of(nodes[n])[2:]) > 1]
    behind = [n for n in maps if operator_name(nodes[n].all_input_nodes[0]) in _CONVOLUTIONS | {"batch_norm", "add"}]
    hidden = [n for n in nodes if n in known]
    for candidates in (behind, maps, hidden, list(nodes)):
        if candidates:
            return candidates[-1]
    raise SettingsError(f"{network.name} has no node whose units could be traced back.")


def read_images(network: Network, samples: Samples, indices: Sequence[int]) -> Tensor:
    """The preprocessed images at `indices`, (n, channel, height, width), on the network's device."""
    outside = [i for i in indices if not 0 <= i < len(samples)]
    if outside or not indices:
        raise SettingsError(f"no image {outside or 'given'}: give numbers from 0 to {len(samples) - 1}.")
    (batch,) = samples.batches(network.preprocessing, len(indices), order=list(indices))
    return batch.images.to(network.device)


def most_active(network: Network, node: str, image: Tensor, count: int) -> list[Unit]:
    """The `count` most active channels at the place of the node's strongest value on one image.

    image: (channel, height, width). Fewer where fewer are above zero; always at least one.
    """
    with torch.no_grad():
        value = plan(network, [node]).run({"input": image[None]}, batch=1)[node][0]
    axis = channel_axis(network.nodes[node]) % (value.ndim + 1) - 1
    maps = value.movedim(axis, 0).flatten(1)  # (channel, places)
    column = maps[:, maps.amax(0).argmax()]
    place = torch.unravel_index(maps.amax(0).argmax(), value.movedim(axis, 0).shape[1:])
    strongest = column.topk(min(count, len(column)))
    chosen = [int(c) for c, v in zip(strongest.indices, strongest.values, strict=True) if v > 0]
    where = tuple(int(p) for p in place)
    return [Unit(node, channel, where) for channel in chosen or [int(strongest.indices[0])]]
