"""A closer look at single images: what their layers hold, channel by channel (Palmieri et al., Figure 2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.engine.observe.tally import real_places
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.units import find_unit, places
from netopsy.pictures import mosaic
from netopsy.pictures.mosaic import below, beside, caption, fit_side, pictures
from netopsy.result import Image, Panel
from netopsy.samples.samples import Batch, Samples
from netopsy.stats.describe import spread_indices
from netopsy.studies.activations.counts import bin_counts
from netopsy.tallies.sparsity import ActiveCountResult
from netopsy.wording import plural

_VALUE_BINS = 30
_LAYERS: dict[str, Any] = {
    "image": pl.Int64,
    "node": pl.String,
    "channels": pl.Int64,
    "channels_active": pl.Int64,
    "channels_share": pl.Float64,
    "at_a_place": pl.Float64,
    "share": pl.Float64,
    "mean_if_active": pl.Float64,
    "max": pl.Float64,
}
_PLACES = {"image": pl.Int64, "node": pl.String, "left": pl.Int64, "right": pl.Int64, "count": pl.Int64}
_VALUES = {"image": pl.Int64, "node": pl.String, "left": pl.Float64, "right": pl.Float64, "count": pl.Int64}


@dataclass(frozen=True)
class SliceRecord:
    """What `record_images` saw: tables, the pictures by image (None of what is none), and the values of the nodes to
    show, float (channel, h, w)."""

    layers: pl.DataFrame
    places: pl.DataFrame
    values: pl.DataFrame
    pictures: dict[int, np.ndarray | None]
    maps: dict[tuple[int, str], Tensor]


def typical_image(active: Mapping[str, ActiveCountResult]) -> int:
    """The image nearest to the medians over the images of every layer's share of channels and of values active.

    Distances are in standard deviations of the images, averaged over layers; of very many images, every so-many-th
    is tried (see `Active`).
    """
    shares = []
    for result in active.values():
        of = torch.tensor([len(result.channel_images), len(result.channel_images) * result.places]).clamp(min=1)
        shares.append(result.record[result.recorded] / of)
    figures = torch.cat(shares, 1).double()
    spread = figures.std(0, correction=0)
    distance = (figures - figures.median(0).values).abs() / torch.where(spread > 0, spread, 1.0)
    first = next(iter(active.values()))
    rows = first.recorded.nonzero()[:, 0]
    return int(rows[distance.mean(1).argmin()]) * first.every


def record_images(
    network: Network,
    samples: Samples,
    images: Sequence[int],
    nodes: Mapping[str, Node],
    maps: Collection[str],
    threshold: float,
) -> SliceRecord:
    """Run the `images` one by one: count in `nodes`, keep the values of `maps`."""
    record = SliceRecord(
        pl.DataFrame(schema=_LAYERS), pl.DataFrame(schema=_PLACES), pl.DataFrame(schema=_VALUES), {}, {}
    )
    walk = plan(network, (), watched={*nodes, *maps})
    layers, places, values = [record.layers], [record.places], [record.values]
    for batch in samples.batches(network.preprocessing, 1, order=images, workers=0):
        image = int(batch.indices[0])
        taken = network.preprocessing
        record.pictures[image] = pictures(batch.images, taken)[0] if isinstance(taken, Preprocessing) else None

        def visit(name: str, value: Tensor, image: int = image, batch: Batch = batch) -> None:
            node = network.nodes[name]
            if name in maps:
                moved = value.detach().movedim(node.channel_axis, 1)[0]
                record.maps[image, name] = moved.to("cpu", torch.float32, copy=True)
            if name in nodes:
                flat = _real(node, value.detach(), batch).to("cpu", torch.float32)
                row, at, distribution = _count(flat, threshold)
                layers.append(pl.DataFrame([{"image": image, "node": name, **row}], schema=_LAYERS))
                if flat.shape[1] > 1:
                    places.append(bin_counts(at, image=image, node=name).cast(_PLACES))  # type: ignore[arg-type]
                values.append(distribution.select(pl.lit(image).alias("image"), pl.lit(name).alias("node"), pl.all()))

        with torch.inference_mode():
            walk.run(batch.to(network.device), batch=1, visit=visit)
    return SliceRecord(
        pl.concat(layers),
        pl.concat(places),
        pl.concat([frame.cast(_VALUES) for frame in values]),  # type: ignore[arg-type]
        record.pictures,
        record.maps,
    )


def _real(node: Node, value: Tensor, batch: Batch) -> Tensor:
    """A node's value for one sample as (channel, place), without the places of padding."""
    moved = value.movedim(node.channel_axis, 1)
    flat = moved[0].reshape(moved.shape[1], -1)
    if not (masks := batch.masks_along(node)):
        return flat
    real = real_places(node.length_axes, value, masks).movedim(node.channel_axis, 1)[0, 0]
    return flat[:, real.expand(moved.shape[2:]).reshape(-1)]


def _count(flat: Tensor, threshold: float) -> tuple[dict[str, Any], Tensor, pl.DataFrame]:
    """Figures of one node on one image, places by their number of active channels, and the active values in bins."""
    on = flat > threshold
    channels, places = flat.shape
    anywhere = int(on.any(1).sum())
    active = flat[on].double()
    active = active[active.isfinite()]
    row = {
        "channels": channels,
        "channels_active": anywhere,
        "channels_share": anywhere / channels,
        "at_a_place": int(on.sum()) / places,
        "share": int(on.sum()) / on.numel(),
        "mean_if_active": float(active.mean()) if len(active) else None,
        "max": float(active.max()) if len(active) else None,
    }
    top = float(active.max()) if len(active) else threshold
    counts, edges = np.histogram(active.numpy(), _VALUE_BINS, (threshold, top if top > threshold else threshold + 1))
    frame = pl.DataFrame({"left": edges[:-1], "right": edges[1:], "count": counts})
    return row, torch.bincount(on.sum(0), minlength=channels + 1), frame


_NODES = 5  # as many layers as the paper shows
_TILE = 84
_ACROSS = 8  # maps side by side: a sheet is as wide as a page of the report
_PICTURE = 180


class Slices:
    """Which maps to show, and their pictures.

    nodes: node -> channels asked for, or none for as many as `shown`, chosen on each image by `order`.
    """

    def __init__(
        self, network: Network, nodes: Mapping[str, Node], maps: Sequence[str], shown: int, order: str
    ) -> None:
        self.network, self.shown, self.order = network, shown, order
        self.nodes: dict[str, list[int]] = {}
        for text in maps:
            head, _, tail = text.rpartition(":")
            if head and tail.isdigit():
                unit = find_unit(network, (head, int(tail)))
                name, channels = unit.node, [unit.channel]
            else:
                name, channels = network.node(text).name, []
            if not _is_map(network.nodes[name]):
                raise SettingsError(
                    f"node '{name}' of {network.name} has no maps to show: its value for one image has shape "
                    f"{network.nodes[name].full_shape[1:]}; give nodes of shape (channel, height, width)."
                )
            self.nodes[name] = self.nodes.get(name, []) + channels
        if not maps:
            spatial = [name for name, node in nodes.items() if _is_map(node)]
            self.nodes = {spatial[index]: [] for index in spread_indices(len(spatial), _NODES)}

    def pictures(self, record: SliceRecord) -> dict[str, Image]:
        """One sheet an image: the image, and for each node its channels' maps under a caption."""
        sheets = {}
        for image, picture in record.pictures.items():
            if not self.nodes:
                continue
            panels = [self._panel(name, channels, record.maps[image, name]) for name, channels in self.nodes.items()]
            rows = [_row(panel) for panel in panels]
            label_text = f"{'sample' if picture is None else 'image'} {image}"
            label = caption(label_text)
            left = label if picture is None else below([label, fit_side(picture, _PICTURE)])
            key = "maps" if len(record.pictures) == 1 else f"maps_{image}"
            sheets[key] = Image(
                beside([left, below(rows, 2)], 12),
                title=f"Maps of single channels on image {image}",
                reading="Each row is a layer, each square one channel (its number below) at all its places: black is "
                "zero or less, and white is the channel's own largest value on this image; a channel that is silent is "
                "all black.",
                source="Palmieri et al., Figure 2",
                alt=f"Image {image} beside maps of channels of {', '.join(self.nodes)}",
                panels=(*(() if picture is None else (Panel("image", (picture,), label_text),)), *panels),
            )
        return sheets

    def _panel(self, name: str, channels: Sequence[int], maps: Tensor) -> Panel:
        """The maps of the channels that are shown, uint8 (height, width) each."""
        maps = maps.nan_to_num(0.0, 0.0, 0.0)
        if channels:
            chosen = list(channels)
        elif self.order == "first":
            chosen = list(range(min(self.shown, len(maps))))
        else:
            chosen = maps.mean((1, 2)).argsort(descending=True, stable=True)[: self.shown].tolist()
        active = int((maps > 0).flatten(1).any(1).sum())
        layer = self.network.nodes[name].layer
        label = f"{name}, behind {layer}" if layer and layer != name else name
        text = f"{label}: {active} of {plural(len(maps), 'channel')} active, {maps.shape[1]} x {maps.shape[2]}"
        return Panel(name, [_gray(maps[channel]) for channel in chosen], text, tuple(map(str, chosen)), columns=_ACROSS)


def _row(panel: Panel) -> np.ndarray:
    """The maps enlarged, each over its channel."""
    tiles = []
    for shades, channel in zip(panel.pictures, panel.notes, strict=True):
        tile = np.repeat(fit_side(shades, _TILE)[:, :, None], 3, 2)
        tiles.append(below([tile, caption(channel, tile.shape[1], 10)]))
    sheet = mosaic.grid(np.stack(tiles), columns=min(_ACROSS, len(tiles)), gap=4)
    return below([caption(panel.caption, max(sheet.shape[1], _ACROSS * _TILE)), sheet])


def _gray(values: Tensor) -> np.ndarray:
    """uint8 (height, width): 0 black, the largest white."""
    top = float(values.max())
    shades: np.ndarray = (values.clamp(min=0) / (top if top > 0 else 1) * 255).round().to(torch.uint8).numpy()
    return shades


def _is_map(node: Node) -> bool:
    grid = places(node)
    return len(grid) == 2 and max(grid) > 1
