"""Which units to look at where none are named, and their strong stimuli."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from netopsy.engine.drivers import Drive, find_drive
from netopsy.engine.tallies.strongest import Strongest, StrongestImages
from netopsy.network.network import Network
from netopsy.network.units import Unit, channel_axis, channels, unit_nodes, weight_layer


class StrongestOfUnit(Strongest):
    """The k images that excite one unit most. place: where in the map, None for wherever it is strongest."""

    def __init__(self, k: int, channel: int, place: tuple[int, ...] | None, axis: int) -> None:
        super().__init__(k, 1)
        self.channel, self.at, self.channels_at = channel, place, axis

    def update(self, values: Tensor, indices: Tensor) -> None:
        own = values.select(self.channels_at, self.channel)
        for position in self.at or ():
            own = own[:, position]
        super().update(own[:, None], indices)


def watch(drive: Drive, count: int) -> tuple[str, StrongestOfUnit]:
    """The node to watch and the tally for the strong stimuli of one unit."""
    axis = channel_axis(drive.network.nodes[drive.end.node])
    return drive.end.node, StrongestOfUnit(count, drive.end.channel, drive.end.place, axis)


def late_drive(network: Network) -> Drive | str:
    """The first unit of the last layer but one whose units can be taken apart, or why there is none."""
    last = network.layers[-1].name if network.layers else ""
    why = "has no layer whose units have input channels in a layer before"
    for name in reversed(unit_nodes(network)):
        if weight_layer(network, network.nodes[name]) in (last, ""):
            continue
        drive = find_drive(network, Unit(name, 0))
        if isinstance(drive, Drive) and channels(network.nodes[name]) > 1:
            return drive
    return f"{network.name} {why}."


def torn(stimuli: StrongestImages, labels: Int64[np.ndarray, " n"], least: int) -> list[int]:
    """Channels, the likeliest to have several facets first: those whose strong stimuli are shared by two classes.

    The share of the second most common class decides, then the mean of the strong stimuli. least: stimuli at least.
    """
    rows: list[tuple[float, float, int]] = []
    for channel, images in enumerate(stimuli.images.numpy()):
        values: Float64[np.ndarray, " k"] = stimuli.values[channel].double().numpy()
        good = (images >= 0) & (values > 0)
        if good.sum() < least:
            continue
        counts = np.sort(np.bincount(np.unique(labels[images[good]], return_inverse=True)[1]))[::-1]
        second = counts[1] / good.sum() if len(counts) > 1 else 0.0
        rows.append((-second, -float(values[good].mean()), channel))
    return [channel for *_, channel in sorted(rows)]


def only_good(stimuli: StrongestImages, row: int, rectified: bool) -> tuple[Float64[np.ndarray, " n"], Tensor, Tensor]:
    """Values, images and places of one channel's stimuli, without empty entries and, behind a function, silent ones."""
    values, images, places = stimuli.values[row], stimuli.images[row], stimuli.places[row]
    good = (images >= 0) & torch.isfinite(values)
    if rectified:
        good &= values > 0
    return values[good].double().numpy(), images[good], places[good]
