"""What a unit sees of an image, cut out at its receptive field, and what a rule brings back from the unit to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from netopsy.engine.backproject.backproject import Trace, trace
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.units import Unit, flat_place, place_at, places
from netopsy.network.windows.field import Box, ReceptiveField, receptive_field
from netopsy.pictures.mosaic import NEUTRAL, draw_frame, map_pictures, pictures, resize, waveform
from netopsy.samples.samples import Samples

_BATCH = 32
_WIDE = 3  # how much wider than high a recording is drawn


@dataclass(frozen=True)
class PatchWindow:
    """The part of an image that a patch of one node shows: its receptive field, or the whole side if that is smaller.

    size: (height, width) in pixels of the network's input. tile: (height, width) of the patch, shrunk to fit.
    field: the node's receptive field; None where its places cannot be told apart, and a patch is the whole image.
    grid: rows and columns of the field's places. kind: of the network's samples; a recording is drawn whole, its window
    shaded and its place marked, and of an array of more axes the slice through the unit, marked too.
    places: the node's.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    image: tuple[int, int]
    field: ReceptiveField | None
    grid: tuple[int, int]
    kind: str = "image"
    places: tuple[int, ...] = ()

    def along(self, place: int) -> tuple[int, int]:
        """(start, end), half open, of the part of a recording that the unit at the flat `place` sees."""
        _, left, _, right = self.box(place)
        return max(0, left), min(self.image[1], right)

    def draw(self, value: np.ndarray, real: int, place: int) -> UInt8[np.ndarray, "tile_h tile_w 3"]:
        """The patch of a sample that is no image, its first input. real: how long it is without padding."""
        if self.kind == "series":
            start, end = self.along(place)
            line = value.reshape(-1, value.shape[-1])
            return waveform(line, real, (start, end), (start + end - 1) // 2, self.tile)
        return self._slice(value, place)

    def _slice(self, value: np.ndarray, place: int) -> np.ndarray:
        """The last two axes of an array, the others at the place of the unit as far as its node has them."""
        space = value.shape[1:] if value.ndim > 2 else value.shape
        at = place_at(max(place, 0), self.places) if self.places else ()
        aligned = len(at) == len(space)
        centre = [
            (2 * p + 1) * size // (2 * grid) for p, size, grid in zip(at, space, self.places, strict=True)
        ] if aligned else [size // 2 for size in space]  # fmt: skip
        chosen = value[0] if value.ndim > 2 else value
        for p in centre[:-2]:
            chosen = chosen[p]
        low, high = float(chosen.min()), float(chosen.max())
        shades = np.rint((chosen - low) / ((high - low) or 1) * 255).astype(np.uint8).reshape(-1, chosen.shape[-1])
        tile = resize(np.repeat(shades[:, :, None], 3, 2), self.tile, smooth=False)
        if aligned and len(centre) > 1:
            y, x = (c * side // full for c, side, full in zip(centre[-2:], self.tile, shades.shape, strict=True))
            tile = draw_frame(tile, (max(0, y - 2), max(0, x - 2), y + 3, x + 3))
        return tile

    def box(self, place: int) -> Box:
        """(top, left, bottom, right), half open, at the flat `place`; over the image's edge where the field is."""
        corner = (0, 0)
        if self.field is not None:
            corner = self.field.at(*divmod(place, self.grid[1]), cut=False)[:2]
        top, left = (
            0 if size == full else start for start, size, full in zip(corner, self.size, self.image, strict=True)
        )
        return top, left, top + self.size[0], left + self.size[1]

    def cut(self, picture: UInt8[np.ndarray, "height width 3"], place: int) -> UInt8[np.ndarray, "tile_h tile_w 3"]:
        """The patch at `place` of one image (or of a map of its size), neutral gray beyond its edge."""
        top, left, bottom, right = self.box(place)
        inside = picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if inside.shape[:2] != self.size:
            patch = np.full((*self.size, 3), NEUTRAL, np.uint8)
            y, x = max(-top, 0), max(-left, 0)
            patch[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
            inside = patch
        return resize(np.ascontiguousarray(inside), self.tile) if self.tile != self.size else inside


def window(network: Network, node: str, tile: int = 64) -> PatchWindow:
    """How patches of `node` are cut; none is larger than `tile` pixels on a side.

    Raises UnknownLayer for a name that the network does not have.
    """
    record = network.node(node)
    shape, kind = network.preprocessing.input_shape, network.signature.inputs[0].kind
    image: tuple[int, int] = (1, shape[-1]) if kind == "series" else (1, *shape)[-2:]  # type: ignore[assignment]
    field = receptive_field(network, node)
    has_places = field.tells_apart(places(record))
    if kind not in ("image", "series"):
        side = (tile, max(1, round(tile * image[1] / max(image[0], 1)))) if image[0] > 1 else (tile // 4, tile)
        return PatchWindow(image, side, image, None, field.grid, "array", places(record))
    size = image
    if has_places:
        size = tuple(min(math.ceil(side), full) for side, full in zip(field.size, image, strict=True))  # type: ignore[assignment]
    if kind == "series":
        return PatchWindow(size, (tile, _WIDE * tile), image, field if has_places else None, field.grid, kind)
    shrink = min(1.0, tile / max(size))
    height, width = (max(1, round(side * shrink)) for side in size)
    return PatchWindow(size, (height, width), image, field if has_places else None, field.grid)


def patches(
    network: Network,
    samples: Samples,
    units: Mapping[str, tuple[Sequence[int] | Tensor, Sequence[int] | Tensor]],
    *,
    tile: int = 64,
) -> dict[str, UInt8[np.ndarray, "n tile_h tile_w 3"]]:
    """The patches of any number of units, by node; each image is read once, however many of them share it.

    units: node -> (n image indices, n flat places: y * width + x). A negative index gives a neutral gray patch.
    tile: pixels on the longer side of a patch at most; smaller fields are not enlarged.
    Raises UnknownLayer for an unknown node, SettingsError for a place outside the node, SamplesError for an image that
    cannot be read.
    """
    kind = network.signature.inputs[0].kind
    windows = {node: window(network, node, tile) for node in units}
    lists = {node: [torch.as_tensor(v).reshape(-1).tolist() for v in pair] for node, pair in units.items()}
    tiles = {node: np.full((len(lists[node][0]), *w.tile, 3), NEUTRAL, np.uint8) for node, w in windows.items()}
    requests: dict[int, list[tuple[str, int, int]]] = {}
    for node, (images, place_list) in lists.items():
        for position, (image, place) in enumerate(zip(images, place_list, strict=True)):
            if image >= 0:
                requests.setdefault(image, []).append((node, position, place))
    order = sorted(requests)
    for batch in samples.batches(network.preprocessing, _BATCH, order=order) if order else ():
        drawn = pictures(batch.images, network.preprocessing) if kind == "image" else batch.images.float().numpy()
        masks = batch.masks_along(network.nodes[network.signature.names[0]])
        real = masks[0].sum(1).tolist() if masks else [batch.images.shape[-1]] * len(drawn)
        for row, index in enumerate(batch.indices.tolist()):
            done: dict[tuple[object, ...], np.ndarray] = {}
            for node, position, place in requests[index]:
                w = windows[node]
                key = (w.box(place), w.tile, place if w.kind == "array" else 0)
                if key not in done:
                    patch = w.cut(drawn[row], place) if kind == "image" else w.draw(drawn[row], real[row], place)
                    done[key] = patch
                tiles[node][position] = done[key]
    return tiles


RULES = ("masked", "guided", "gradient")  # the paper's; for activations that it does not know; where there are none
_IMAGES = 32
_UNITS = 64  # sent back in one go
_REACH = 0.995  # of a map's magnitudes lie inside the scale: few large ones would leave the rest gray


def usable_rule(network: Network, node: str, place: tuple[int, ...]) -> str:
    """The first of `RULES` that can bring the units of `node` back to the image; empty where none can."""
    blank = dict(zip(network.signature.names, network.signature.example(1).values(), strict=True))
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
    report: Callable[[int], None] = lambda count: None,
) -> UInt8[np.ndarray, "n tile_h tile_w 3"]:
    """One picture a unit: 0 is mid-gray, cut and shrunk as its patch, scaled so that 0.5 % of the values reach an end.

    units: with places, all of one node. images: the index of each one's image. report: gets how many more are drawn.
    """
    tiles = np.full((len(units), *window.tile, 3), NEUTRAL, np.uint8)
    members: dict[int, list[int]] = {}
    for position, image in enumerate(images):
        members.setdefault(int(image), []).append(position)
    order = sorted(members)
    for batch in samples.batches(network.preprocessing, _IMAGES, order=order) if order else ():
        jobs = [(row, i) for row, image in enumerate(batch.indices.tolist()) for i in members[image]]
        for start in range(0, len(jobs), _UNITS):
            part = jobs[start : start + _UNITS]
            unit_trace = trace(network, batch.inputs, [units[i] for _, i in part], rule, of=[row for row, _ in part])  # type: ignore[arg-type]
            tiles[[i for _, i in part]] = _pictures(unit_trace, window, network)
            report(len(part))
    return tiles


def _pictures(unit_trace: Trace, window: PatchWindow, network: Network) -> UInt8[np.ndarray, "n tile_h tile_w 3"]:
    """The maps at the windows of their patches, shrunk before they are scaled, so that faint ones can be seen."""
    maps = torch.zeros(len(unit_trace.units), unit_trace.shape[0], *window.size)
    for k, (crop, field) in enumerate(zip(unit_trace.crops, unit_trace.fields, strict=True)):
        unit = unit_trace.units[k]
        box = window.box(flat_place(unit.place or (), places(network.nodes[unit.node])))
        top, left, bottom, right = (f(a, b) for f, a, b in zip((max, max, min, min), box, field, strict=True))
        part = crop[:, top - field[0] : bottom - field[0], left - field[1] : right - field[1]]
        maps[k, :, top - box[0] : bottom - box[0], left - box[1] : right - box[1]] = part.nan_to_num()
    if window.tile != window.size:
        maps = torch.nn.functional.interpolate(maps, window.tile, mode="bilinear", antialias=True)
    reach = maps.abs().flatten(1).quantile(_REACH, dim=1)[:, None, None, None]
    return map_pictures(maps.clamp(-reach, reach), network.preprocessing)
