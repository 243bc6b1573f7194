"""Which units to look at where none are named, and their strong stimuli."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from netopsy.network.network import Network
from netopsy.network.units import Unit, channel_axis, channels, hidden_nodes
from netopsy.studies.facets.contributions import Drive, find_drive
from netopsy.tallies.top_images import Strongest, StrongestImages


def watch(drive: Drive, count: int) -> tuple[str, Strongest]:
    """The node to watch and the tally for the `count` strong stimuli of one unit."""
    axis = channel_axis(drive.network.nodes[drive.end.node])
    return drive.end.node, Strongest(count, axis, channel=drive.end.channel, place=drive.place)


def late_drive(network: Network) -> Drive | str:
    """The first unit of the last hidden node whose units can be taken apart, or why there is none.

    With or without places: the claim is of the unit at the end, of which later ones are better instances.
    """
    for name in reversed(hidden_nodes(network)):
        drive = find_drive(network, Unit(name, 0))
        if isinstance(drive, Drive) and channels(network.nodes[name]) > 1:
            return drive
    return f"{network.name} has no layer whose units have input channels in a layer before."


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
