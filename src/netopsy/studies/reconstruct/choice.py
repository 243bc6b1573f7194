"""Which layer, and which of its units, to look at where the user names none."""

from __future__ import annotations

import torch
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.units import Unit, activation_nodes, channel_axis, last_map, place_at


def default_layer(network: Network) -> str:
    """The last activation with several places, since rules act on activations; else the last one, or the last layer.

    (Palmieri et al. take layer 13 of VGG-16, its last convolution.)
    Raises SettingsError for a network without units.
    """
    name = last_map(activation_nodes(network))
    if name is None:
        raise SettingsError(f"{network.name} has no node whose units could be traced back.")
    return name


def most_active(network: Network, node: str, image: Tensor, count: int) -> list[Unit]:
    """The `count` most active channels at the place of the node's strongest value on one image.

    image: (channel, height, width). Fewer where fewer are above zero; always at least one.
    """
    with torch.no_grad():
        value = plan(network, [node]).run({"input": image[None]}, batch=1)[node]
    maps = value.movedim(channel_axis(network.nodes[node]), 1)[0]
    columns = maps.reshape(len(maps), -1)  # (channel, places)
    place = int(columns.amax(0).argmax())
    strongest = columns[:, place].topk(min(count, len(columns)))
    chosen = [int(c) for c, v in zip(strongest.indices, strongest.values, strict=True) if v > 0]
    where = place_at(place, maps.shape[1:])
    return [Unit(node, channel, where) for channel in chosen or [int(strongest.indices[0])]]
