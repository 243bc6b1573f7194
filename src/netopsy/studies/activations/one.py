"""A closer look at single images: what their layers hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, fx

from netopsy.engine.interpreter import plan
from netopsy.network.network import Network
from netopsy.network.units import channel_axis
from netopsy.pictures.pictures import pictures
from netopsy.samples.samples import Samples
from netopsy.studies.activations.counts import binned
from netopsy.tallies.active import ActiveResult

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
class Seen:
    """What `look` saw: tables, the pictures by image, and the values of the nodes to show, float (channel, h, w)."""

    layers: pl.DataFrame
    places: pl.DataFrame
    values: pl.DataFrame
    pictures: dict[int, np.ndarray]
    maps: dict[tuple[int, str], Tensor]


def typical(active: Mapping[str, ActiveResult]) -> int:
    """The image nearest to the medians over the images of every layer's share of channels and of values active.

    Distances are in standard deviations of the images, averaged over layers; of very many images, every so-many-th
    is tried (see `Active`).
    """
    shares = []
    for found in active.values():
        of = torch.tensor([len(found.channel_images), len(found.channel_images) * found.places]).clamp(min=1)
        shares.append(found.record[found.recorded] / of)
    figures = torch.cat(shares, 1).double()
    spread = figures.std(0, correction=0)
    distance = (figures - figures.median(0).values).abs() / torch.where(spread > 0, spread, 1.0)
    first = next(iter(active.values()))
    rows = first.recorded.nonzero()[:, 0]
    return int(rows[distance.mean(1).argmin()]) * first.every


def look(
    network: Network,
    samples: Samples,
    images: Sequence[int],
    nodes: Mapping[str, fx.Node],
    maps: Collection[str],
    threshold: float,
) -> Seen:
    """Run the `images` one by one: count in `nodes`, keep the values of `maps`."""
    seen = Seen(pl.DataFrame(schema=_LAYERS), pl.DataFrame(schema=_PLACES), pl.DataFrame(schema=_VALUES), {}, {})
    walk = plan(network, (), watched={*nodes, *maps})
    layers, places, values = [seen.layers], [seen.places], [seen.values]
    for batch in samples.batches(network.preprocessing, 1, order=images, workers=0):
        image = int(batch.indices[0])
        seen.pictures[image] = pictures(batch.images, network.preprocessing)[0]

        def visit(name: str, value: Tensor, image: int = image) -> None:
            value = value.detach().movedim(channel_axis(network.nodes[name]), 1)[0]
            if name in maps:
                seen.maps[image, name] = value.to("cpu", torch.float32, copy=True)
            if name in nodes:
                flat = value.to("cpu", torch.float32).reshape(len(value), -1)
                row, at, distribution = _count(flat, threshold)
                layers.append(pl.DataFrame([{"image": image, "node": name, **row}], schema=_LAYERS))
                if flat.shape[1] > 1:
                    places.append(binned(at, image=image, node=name).cast(_PLACES))  # type: ignore[arg-type]
                values.append(distribution.select(pl.lit(image).alias("image"), pl.lit(name).alias("node"), pl.all()))

        with torch.inference_mode():
            walk.run({"input": batch.images.to(network.device)}, batch=1, visit=visit)
    return Seen(
        pl.concat(layers),
        pl.concat(places),
        pl.concat([frame.cast(_VALUES) for frame in values]),  # type: ignore[arg-type]
        seen.pictures,
        seen.maps,
    )


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
    counted, edges = np.histogram(active.numpy(), _VALUE_BINS, (threshold, top if top > threshold else threshold + 1))
    frame = pl.DataFrame({"left": edges[:-1], "right": edges[1:], "count": counted})
    return row, torch.bincount(on.sum(0), minlength=channels + 1), frame
