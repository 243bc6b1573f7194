"""The fields of chosen units: the theoretical receptive field, and where in it the gradient is (Luo et al., 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from netopsy.engine.backproject.backproject import backproject
from netopsy.engine.backproject.tree import Trunk
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import NetworkError
from netopsy.network.activations import operand
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import Unit, channels, find_unit, middle, places, unit_field, unit_nodes
from netopsy.network.windows.field import Box, receptive_field
from netopsy.samples.samples import Samples
from netopsy.stats.describe import spread_indices
from netopsy.stats.hypothesis_tests import mean_interval


@dataclass(frozen=True)
class Probe:
    """Units of one node at one place.

    label: the node as the user knows it. node: where the gradient starts; in front of an activation, so that a silent
    unit counts as well as an active one. channel: one channel, or None for any. place: see `Unit`.
    channels: how many the node has.
    """

    label: str
    node: str
    channel: int | None
    place: tuple[int, ...]
    channels: int


def find_probe(network: Network, text: str) -> Probe:
    """The probe of a unit; a unit without a place is taken in the middle of its map."""
    unit = find_unit(network, text)
    place = middle(network.nodes[unit.node]) if unit.place is None else unit.place
    return _probe(network, unit.node, unit.channel, place)


def over_depth(network: Network, count: int) -> list[Probe]:
    """The middle units of `count` nodes spread over the depth, the first and the last among them."""
    nodes = unit_nodes(network)
    names = list(nodes)
    return [_probe(network, names[i], None, middle(nodes[names[i]])) for i in spread_indices(len(names), count)]


def field_box(network: Network, probe: Probe) -> tuple[Box, bool]:
    """(top, left, bottom, right) of the probe's theoretical field, cut to the image, and whether that took any off.

    A unit that sees all that its node sees counts as cut: it would see more of a larger image.
    """
    unit = Unit(probe.node, 0, probe.place)
    box = unit_field(network, unit)
    has_places = probe.place and receptive_field(network, probe.node).tells_apart(places(network.nodes[probe.node]))
    return box, not has_places or box != unit_field(network, unit, cut=False)


def _probe(network: Network, name: str, channel: int | None, place: tuple[int, ...]) -> Probe:
    node = network.nodes[name]
    start = operand(network, node, mixing=False).name
    return Probe(name, start, channel, place, channels(node))


_SCHEMA: dict[str, Any] = {
    "node": pl.String,
    "layer": pl.String,
    "operator": pl.String,
    "channels": pl.Int64,
    "rows": pl.Int64,
    "columns": pl.Int64,
    "height": pl.Float64,
    "width": pl.Float64,
    "stride_y": pl.Float64,
    "stride_x": pl.Float64,
    "start_y": pl.Float64,
    "start_x": pl.Float64,
    "covers": pl.Float64,
    "exact": pl.Boolean,
    "because": pl.String,
}


def fields(network: Network) -> pl.DataFrame:
    """One row a node, in order of execution: pixels, not cut to the image; see `netopsy.network.windows.field.Field`.

    covers: the share of the image's area that the unit in the middle sees.
    """
    height, width = (1, 1, *network.preprocessing.input_shape)[-2:]
    rows = []
    for name, node in unit_nodes(network).items():
        field = receptive_field(network, name)
        top, left, bottom, right = field.at(field.grid[0] // 2, field.grid[1] // 2)
        rows.append(
            {
                "node": name,
                "layer": node.layer,
                "operator": node.operator,
                "channels": channels(node),
                "rows": field.grid[0],
                "columns": field.grid[1],
                "height": field.size[0],
                "width": field.size[1],
                "stride_y": field.stride[0],
                "stride_x": field.stride[1],
                "start_y": field.start[0],
                "start_x": field.start[1],
                "covers": (bottom - top) * (right - left) / (height * width),
                "exact": field.exact,
                "because": field.because,
            }
        )
    return pl.DataFrame(rows, schema=_SCHEMA)


_STEP = 8  # images a backward pass


@dataclass(frozen=True)
class Effective:
    """The effective field of a probe.

    box: its theoretical field, cut to the image. cut: whether that took something off it.
    energy: the mean over images of the squared gradient of the unit with respect to each pixel, summed over the
    colours; float64 (height, width).
    area_share: share of the box that the fewest pixels holding most of the energy fill. side: of a square as large, in
    pixels. sd: standard deviation of the energy's position about its centre, (vertical, horizontal). None where there
    is no gradient.
    """

    probe: Probe
    box: Box
    cut: bool
    energy: Float64[Tensor, "height width"]
    area_share: float | None = None
    side: float | None = None
    sd: tuple[float, float] | None = None
    centre: tuple[float, float] | None = None

    @property
    def measures(self) -> list[float | None]:
        """Share of the area, side, deviations and centre, as the table has them."""
        return [self.area_share, self.side, *(self.sd or (None, None)), *(self.centre or (None, None))]


def averages(
    network: Network,
    samples: Samples,
    probes: Sequence[Probe],
    images: Sequence[int],
    share: float,
    generator: torch.Generator,
) -> list[Effective]:
    """The effective field of every probe over the samples numbered `images`; one backward pass an image and probe.

    A probe without a channel has another one, drawn at random, on each image.
    """
    height, width = (1, 1, *network.preprocessing.input_shape)[-2:]
    sums = [torch.zeros(height, width, dtype=torch.float64) for _ in probes]
    draws = [torch.randint(probe.channels, (len(images),), generator=generator).tolist() for probe in probes]
    total, done = len(probes) * len(images), 0
    if not probes:
        return []
    for batch in samples.batches(network.preprocessing, _STEP, order=images):
        inputs = batch.to(network.device)
        first, count = done // len(probes), len(batch.indices)
        for number, probe in enumerate(probes):
            picked = [draws[number][first + i] if probe.channel is None else probe.channel for i in range(count)]
            units = [(probe.node, channel, *probe.place) for channel in picked]
            try:
                maps = backproject(network, inputs, units, "gradient", of=range(count))
                sums[number] += maps.reshape(count, -1, height, width).double().square().sum((0, 1)).cpu()
            except NetworkError:  # an operator without a derivative: the probe has no gradient
                sums[number].fill_(torch.nan)
            done += count
            current_workspace().report("effective fields", done, total)
    return [measure(p, *field_box(network, p), s / len(images), share) for p, s in zip(probes, sums, strict=True)]


def measure(probe: Probe, box: Box, cut: bool, energy: Float64[Tensor, "height width"], share: float) -> Effective:
    """The measures of one energy map: of the fewest pixels that hold a `share` of it, and of its spread."""
    total = energy.sum()
    if not total > 0 or not torch.isfinite(total):
        return Effective(probe, box, cut, energy.nan_to_num(0.0, 0.0, 0.0))
    weights = energy / total
    reached = weights.flatten().sort(descending=True).values.cumsum(0)
    pixels = int((reached < share * (1 - 1e-12)).sum()) + 1
    top, left, bottom, right = box
    sd, centre = [], []
    for axis in (0, 1):
        along = weights.sum(1 - axis)
        position = torch.arange(len(along), dtype=torch.float64)
        mean = (along * position).sum()
        centre.append(float(mean))
        sd.append(float((along * (position - mean).square()).sum().sqrt()))
    area = pixels / ((bottom - top) * (right - left))
    return Effective(probe, box, cut, energy, area, pixels**0.5, (sd[0], sd[1]), (centre[0], centre[1]))


DISTANCES: dict[str, Any] = {
    **{"node": pl.String, "axis": pl.Int64, "samples": pl.Int64, "mean": pl.Float64, "mean_low": pl.Float64},
    **{"mean_high": pl.Float64, "radius": pl.Float64, "radius_low": pl.Float64, "radius_high": pl.Float64},
    **{"itself": pl.Float64, "before": pl.Float64, "after": pl.Float64},
}
_RADIUS = 0.9  # share of the squared gradient within the radius


def distances(
    network: Network, samples: Samples, names: Sequence[str], rows: Sequence[int], generator: torch.Generator
) -> pl.DataFrame:
    """How far along a text or a recording units look: one row a node, means over the samples with 95 % intervals.

    The squared gradient of one unit, a channel drawn at random, at three quarters of each sample, over the places of
    the input, summed over what each place holds. mean: distance weighted by it, in places. radius: within which 90 %
    of it lies. itself, before, after: shares of it. axis: of the node's value that holds the features. names: of nodes
    that `looks_along` its own input.
    """
    parts: dict[str, list[list[float]]] = {name: [] for name in names}
    for batch in samples.batches(network.preprocessing, _STEP, order=rows):
        inputs = batch.to(network.device)
        for name in names:
            node = network.nodes[name]
            length, mask = network.signature.lengths[node.sequence], batch.masks_along(node)[0]
            real = mask.sum(1).tolist()
            grid = places(node)
            axis = [k for k in range(1, len(node.full_shape)) if k != node.channel_axis % len(node.full_shape)].index(
                node.length_axes[0]
            )
            units: list[Unit] = []
            at: list[int] = []
            for count in real:
                place = [size // 2 for size in grid]
                place[axis] = min(grid[axis] - 1, (3 * count // 4) * grid[axis] // length)
                at.append(place[axis] * length // grid[axis])
                units.append(Unit(name, int(torch.randint(channels(node), (1,), generator=generator)), tuple(place)))
            try:
                maps = backproject(network, inputs, units, "gradient", of=range(len(units)))
            except NetworkError:
                continue
            source = source_of_node(network, name)
            squares = maps.double().square().movedim(source.length_axes[0], 1)
            energy = squares.reshape(*squares.shape[:2], -1).sum(2).cpu()
            for weights, here, count in zip(energy, at, real, strict=True):
                weights = weights[:count]
                if weights.sum() > 0 and torch.isfinite(weights).all():
                    parts[name].append(_along(weights / weights.sum(), here))
    table = []
    for name, values in parts.items():
        if not values:
            continue
        columns = torch.tensor(values, dtype=torch.float64)
        ends = [_interval(columns[:, k], float(length)) for k in (0, 1)]
        node = network.nodes[name]
        table.append(
            [
                name,
                node.channel_axis % len(node.full_shape),
                len(values),
                *ends[0],
                *ends[1],
                *columns[:, 2:].mean(0).tolist(),
            ]
        )
    return pl.DataFrame(table, schema=DISTANCES, orient="row")


def source_of_node(network: Network, name: str) -> Node:
    """Where the flow back from a node ends."""
    return Trunk(network, name).source


def looks_along(network: Network, name: str) -> bool:
    """Whether the units of a node lie along the text or recording that the flow back from them ends at.

    Those of a decoder lie along what is written, and the flow back from them ends at what the encoder reads.
    """
    node, source = network.nodes[name], source_of_node(network, name)
    return bool(node.length_axes and source.length_axes) and node.sequence == source.sequence


def along_length(network: Network, count: int) -> tuple[list[str], list[str]]:
    """`count` nodes spread over the depth whose units lie along a text or a recording, and those of another sequence
    than the flow back from them ends at."""
    names = [name for name, node in unit_nodes(network).items() if node.length_axes]
    apart = [name for name in names if not looks_along(network, name)]
    names = [name for name in names if name not in set(apart)]
    return [names[i] for i in spread_indices(len(names), count)], apart


def _along(weights: Float64[Tensor, " length"], place: int) -> list[float]:
    """Mean distance, radius, and the shares at the place itself, before and after it."""
    away = (torch.arange(len(weights)) - place).abs()
    within = torch.zeros(int(away.max()) + 1, dtype=weights.dtype).index_add(0, away, weights).cumsum(0)
    radius = int((within < _RADIUS - 1e-12).sum())
    here = float(weights[place]) if place < len(weights) else 0.0
    return [
        float((away * weights).sum()),
        float(radius),
        here,
        float(weights[:place].sum()),
        float(weights[place + 1 :].sum()),
    ]


def _interval(values: Float64[Tensor, " n"], most: float) -> list[float | None]:
    """Mean, and the ends of its 95 % interval (Student's t, from 0 to `most`); null ends of fewer than three values."""
    return [float(values.mean()), *mean_interval(values.tolist(), (0.0, most))]
