"""Pictures of single channels (Palmieri et al., Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx

from netopsy.engine.captions import below, beside, caption
from netopsy.engine.mosaic import grid
from netopsy.engine.pictures import resized
from netopsy.errors import SettingsError
from netopsy.network.graph import shape_of
from netopsy.network.network import Network
from netopsy.network.units import channel_axis, find_unit, weight_layer
from netopsy.result import Image
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
            spread = np.linspace(0, len(spatial) - 1, min(_NODES, len(spatial))).round().astype(int)
            self.nodes = {spatial[index]: [] for index in spread}

    def pictures(self, seen: Seen) -> dict[str, Image]:
        """One sheet an image: the image, and for each node its channels' maps under a caption."""
        sheets = {}
        for image, picture in seen.pictures.items():
            if not self.nodes:
                continue
            rows = [self._row(name, asked, seen.maps[image, name]) for name, asked in self.nodes.items()]
            height, width = picture.shape[:2]
            scale = _PICTURE / max(height, width)
            shown = resized(picture, (round(height * scale), round(width * scale)), smooth=scale < 1)
            left = below([caption(f"image {image}"), shown])
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
        sheet = grid(np.stack(tiles), columns=min(_ACROSS, len(tiles)), gap=4)
        return below([caption(text, max(sheet.shape[1], _ACROSS * _TILE)), sheet])


def _gray(values: Tensor) -> np.ndarray:
    """uint8 (tile, tile, 3): 0 black, the largest white, at the tile's size without smoothing."""
    top = float(values.max())
    shades = (values.clamp(min=0) / (top if top > 0 else 1) * 255).round().to(torch.uint8).numpy()
    height, width = shades.shape
    scale = _TILE / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return np.repeat(resized(shades, size, smooth=scale < 1)[:, :, None], 3, 2)


def _is_map(node: fx.Node) -> bool:
    shape = shape_of(node)
    axis = channel_axis(node)
    places = [n for k, n in enumerate(shape) if k not in (0, axis % len(shape))]
    return len(places) == 2 and max(places) > 1
