"""Pictures of single channels (Palmieri et al., Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx

from netopsy.errors import SettingsError
from netopsy.network.graph import shape_of
from netopsy.network.network import Network
from netopsy.network.units import find_unit, places, weight_layer
from netopsy.pictures import mosaic
from netopsy.pictures.captions import below, beside, caption
from netopsy.pictures.pictures import fitted
from netopsy.result import Image
from netopsy.stats.spread import spread
from netopsy.studies.activations.one import Seen

_NODES = 5  # as many layers as the paper shows
_TILE = 84
_ACROSS = 8  # maps side by side: a sheet is as wide as a page of the report
_PICTURE = 180


class Slices:
    """Which maps to show, and their pictures.

    nodes: node -> channels asked for, or none for as many as `shown`, chosen on each image by `order`.
    """

    def __init__(
        self, network: Network, nodes: Mapping[str, fx.Node], maps: Sequence[str], shown: int, order: str
    ) -> None:
        self.network, self.shown, self.order = network, shown, order
        self.nodes: dict[str, list[int]] = {}
        for text in maps:
            head, _, tail = text.rpartition(":")
            if head and tail.isdigit():
                unit = find_unit(network, (head, int(tail)))
                name, asked = unit.node, [unit.channel]
            else:
                name, asked = network.node(text).meta["name"], []
            if not _is_map(network.nodes[name]):
                raise SettingsError(
                    f"node '{name}' of {network.name} has no maps to show: its value for one image has shape "
                    f"{shape_of(network.nodes[name])[1:]}; give nodes of shape (channel, height, width)."
                )
            self.nodes[name] = self.nodes.get(name, []) + asked
        if not maps:
            spatial = [name for name, node in nodes.items() if _is_map(node)]
            self.nodes = {spatial[index]: [] for index in spread(len(spatial), _NODES)}

    def pictures(self, seen: Seen) -> dict[str, Image]:
        """One sheet an image: the image, and for each node its channels' maps under a caption."""
        sheets = {}
        for image, picture in seen.pictures.items():
            if not self.nodes:
                continue
            rows = [self._row(name, asked, seen.maps[image, name]) for name, asked in self.nodes.items()]
            left = below([caption(f"image {image}"), fitted(picture, _PICTURE)])
            key = "maps" if len(seen.pictures) == 1 else f"maps_{image}"
            sheets[key] = Image(
                beside([left, below(rows, 2)], 12),
                title=f"Maps of single channels on image {image}",
                reading="Each row is a layer, each square one channel (its number below) at all its places: black is "
                "zero or less, and white is the channel's own largest value on this image; a channel that is silent is "
                "all black.",
                source="Palmieri et al., Figure 2",
                alt=f"Image {image} beside maps of channels of {', '.join(self.nodes)}",
            )
        return sheets

    def _row(self, name: str, asked: Sequence[int], maps: Tensor) -> np.ndarray:
        maps = maps.nan_to_num(0.0, 0.0, 0.0)
        if asked:
            chosen = list(asked)
        elif self.order == "first":
            chosen = list(range(min(self.shown, len(maps))))
        else:
            chosen = maps.mean((1, 2)).argsort(descending=True, stable=True)[: self.shown].tolist()
        active = int((maps > 0).flatten(1).any(1).sum())
        layer = weight_layer(self.network, self.network.nodes[name])
        known = f"{name}, behind {layer}" if layer and layer != name else name
        text = f"{known}: {active} of {len(maps)} channels active, {maps.shape[1]} x {maps.shape[2]}"
        tiles = []
        for channel in chosen:
            tile = _gray(maps[channel])
            tiles.append(below([tile, caption(str(channel), tile.shape[1], 10)]))
        sheet = mosaic.grid(np.stack(tiles), columns=min(_ACROSS, len(tiles)), gap=4)
        return below([caption(text, max(sheet.shape[1], _ACROSS * _TILE)), sheet])


def _gray(values: Tensor) -> np.ndarray:
    """uint8 (height, width, 3) at the tile's size: 0 black, the largest white."""
    top = float(values.max())
    shades = (values.clamp(min=0) / (top if top > 0 else 1) * 255).round().to(torch.uint8).numpy()
    return np.repeat(fitted(shades, _TILE)[:, :, None], 3, 2)


def _is_map(node: fx.Node) -> bool:
    grid = places(node)
    return len(grid) == 2 and max(grid) > 1
