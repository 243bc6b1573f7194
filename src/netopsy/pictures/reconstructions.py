"""What a rule brings back from units to the images that excite them, cut as their patches are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from netopsy.engine.backproject.backproject import Trace, trace
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.units import Unit, flat_place, places
from netopsy.pictures.mosaic import NEUTRAL, map_pictures
from netopsy.pictures.patches import PatchWindow
from netopsy.samples.samples import Samples

RULES = ("masked", "guided", "gradient")  # the paper's; for activations that it does not know; where there are none
_IMAGES = 32
_UNITS = 64  # sent back in one go
_REACH = 0.995  # of a map's magnitudes lie inside the scale: few large ones would leave the rest gray


def usable_rule(network: Network, node: str, place: tuple[int, ...]) -> str:
    """The first of `RULES` that can bring the units of `node` back to the image; empty where none can."""
    blank = torch.zeros(1, *network.preprocessing.input_shape)
    for rule in RULES:
        try:
            trace(network, blank, [Unit(node, 0, place)], rule)  # type: ignore[arg-type]
        except SettingsError:
            continue
        return rule
    return ""


def reconstructions(
    network: Network,
    samples: Samples,
    units: Sequence[Unit],
    images: Sequence[int],
    window: PatchWindow,
    rule: str,
    done: Callable[[int], None] = lambda count: None,
) -> UInt8[np.ndarray, "n tile_h tile_w 3"]:
    """One picture a unit: 0 is mid-gray, cut and shrunk as its patch, scaled so that 0.5 % of the values reach an end.

    units: with places, all of one node. images: the index of each one's image. done: told how many more are drawn.
    """
    found = np.full((len(units), *window.tile, 3), NEUTRAL, np.uint8)
    members: dict[int, list[int]] = {}
    for position, image in enumerate(images):
        members.setdefault(int(image), []).append(position)
    order = sorted(members)
    for batch in samples.batches(network.preprocessing, _IMAGES, order=order) if order else ():
        jobs = [(row, i) for row, image in enumerate(batch.indices.tolist()) for i in members[image]]
        for start in range(0, len(jobs), _UNITS):
            part = jobs[start : start + _UNITS]
            went = trace(network, batch.images, [units[i] for _, i in part], rule, of=[row for row, _ in part])  # type: ignore[arg-type]
            found[[i for _, i in part]] = _pictures(went, window, network)
            done(len(part))
    return found


def _pictures(went: Trace, window: PatchWindow, network: Network) -> UInt8[np.ndarray, "n tile_h tile_w 3"]:
    """The maps at the windows of their patches, shrunk before they are scaled, so that faint ones can be seen."""
    maps = torch.zeros(len(went.units), went.shape[0], *window.size)
    for k, (crop, field) in enumerate(zip(went.crops, went.fields, strict=True)):
        unit = went.units[k]
        box = window.box(flat_place(unit.place or (), places(network.nodes[unit.node])))
        top, left, bottom, right = (f(a, b) for f, a, b in zip((max, max, min, min), box, field, strict=True))
        part = crop[:, top - field[0] : bottom - field[0], left - field[1] : right - field[1]]
        maps[k, :, top - box[0] : bottom - box[0], left - box[1] : right - box[1]] = part.nan_to_num()
    if window.tile != window.size:
        maps = torch.nn.functional.interpolate(maps, window.tile, mode="bilinear", antialias=True)
    reach = maps.abs().flatten(1).quantile(_REACH, dim=1)[:, None, None, None]
    return map_pictures(maps.clamp(-reach, reach), network.preprocessing)
