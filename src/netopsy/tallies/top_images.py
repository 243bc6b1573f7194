"""Which images excite each channel most, how much, and where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from netopsy.engine.observe.tally import Tally
from netopsy.errors import SettingsError
from netopsy.network.units import place_at

NOTHING = -1  # image and place of an entry that no image fills
_LOW = 2**31 - 1  # low half of a key: the larger, the smaller the image's index
_BLOCK = 2**18  # values, 1 MB: scratch memory that stays in the processor's cache


@dataclass(frozen=True)
class TopImagesResult:
    """The strongest images of every channel, strongest first; equal values in the order of the images.

    values: the largest activation in the image, -inf where there were fewer images. images: their indices, -1 where
    there were fewer. places: where in the map, flat (y * width + x), the first of equal ones; -1 where there is none,
    and for means.
    """

    values: Float32[Tensor, "channel k"]
    images: Int64[Tensor, "channel k"]
    places: Int64[Tensor, "channel k"]


class TopImages(Tally):
    """The k images with the largest activation of each channel, one entry an image (Zeiler and Fergus 2014, Figure 2).

    k: entries a channel. axis: where the channels are. channel: this one alone; by default all.
    place: compare the values at this flat place; by default the largest of each map. mean: compare the maps' means.
    update: (batch, channel, *space). result: `TopImagesResult`. NaN and -inf never enter; 12 bytes an entry.

    An entry is one integer that sorts by value, then by image, so that ties are settled alike in any order of batches.
    Every activation is read once, part by part of its map; the place is looked for in the strongest part only, and only
    where the map enters.
    """

    by_sample = True

    def __init__(
        self, k: int = 9, axis: int = 1, *, channel: int | None = None, place: int | None = None, mean: bool = False
    ) -> None:
        if k < 1:
            raise SettingsError(f"k {k} must be at least 1: how many images to keep for each channel.")
        if mean and place is not None:
            raise SettingsError(f"place {place} and mean exclude one another: a mean is over all places.")
        self.k, self.axis = k, axis
        self.channel, self.place, self.mean = channel, place, mean
        self.keys: Tensor | None = None  # int64 (channel, k), descending
        self.places: Tensor | None = None  # int32 (channel, k)

    def update(self, values: Tensor, indices: Tensor) -> None:
        parts = _parts(self._choose(values))
        if not parts.numel():
            return
        if len(parts) != len(indices):
            raise SettingsError(
                f"{len(parts)} rows came for {len(indices)} images: the node does not hold one image a row, so its "
                "strongest images are unknown; choose a node before or behind it."
            )
        peaks = parts.amax(3)
        maxima = peaks.amax(2)
        if math.isnan(maxima.sum().item()):  # one call that meets every NaN
            parts = parts.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            peaks = parts.amax(3)
            maxima = peaks.amax(2)
        keys = _keys(maxima, indices.to(parts.device))
        if self.keys is None or self.places is None:
            self.keys, self.places = _empty(keys.shape[1], self.k, parts.device)
        rows = (keys.amax(0) > self.keys[:, -1]).nonzero()[:, 0]
        if not len(rows):
            return
        some = slice(None) if len(rows) == len(self.keys) else rows
        best, picks = torch.cat([self.keys[some], keys.T[some]], 1).topk(self.k)
        places = self.places[some].gather(1, picks.clamp(max=self.k - 1))
        row, rank = (picks >= self.k).nonzero(as_tuple=True)
        places[row, rank] = _places(parts, peaks, picks[row, rank] - self.k, rows[row]).int()
        self.keys[some], self.places[some] = best, places

    def _choose(self, values: Tensor) -> Tensor:
        """What is compared, (batch, channel, *space)."""
        maps = (values[:, None] if values.ndim == 1 else values).movedim(self.axis if values.ndim > 1 else 1, 1)
        if self.channel is not None:
            maps = maps[:, self.channel, None]
        if self.place is not None:
            for position in place_at(self.place, maps.shape[2:]):
                maps = maps[:, :, position]
        return maps.flatten(2).float().mean(2) if self.mean and maps.ndim > 2 else maps

    def merge(self, other: TopImages) -> None:
        if other.keys is None or other.places is None:
            return
        if self.keys is None or self.places is None:
            self.keys, self.places = other.keys.clone(), other.places.clone()
            return
        self.keys, picks = torch.cat([self.keys, other.keys], 1).topk(self.k)
        self.places = torch.cat([self.places, other.places], 1).gather(1, picks)

    def result(self) -> TopImagesResult:
        if self.keys is None or self.places is None:
            nothing = torch.zeros(0, self.k)
            return TopImagesResult(nothing, nothing.long(), nothing.long())
        keys, places = self.keys.cpu(), self.places.cpu().long()
        images = _LOW - (keys & 0xFFFFFFFF)
        if self.mean or self.place is not None:
            places = torch.full_like(places, NOTHING if self.place is None else self.place)
        return TopImagesResult(_floats((keys >> 32).int()), images, torch.where(images < 0, NOTHING, places))


def _parts(values: Tensor) -> Tensor:
    """(batch, channel, parts, places of a part) of (batch, channel, *space), floating point; a view where it can be."""
    values = values if values.is_floating_point() else values.float()
    maps = values.flatten(2) if values.ndim > 2 else values[..., None]
    return maps.unflatten(2, (-1, _part(maps.shape[2]))) if maps.shape[2] else maps[..., None]


@cache
def _part(places: int) -> int:
    """How many places a part has, a divisor of `places`.

    About 8 square roots: fewer cost time for each part, more cost time for each map that enters.
    """
    target = 8 * math.sqrt(places)
    return min((p for p in range(1, places + 1) if places % p == 0), key=lambda p: abs(math.log(p / target)))


def _keys(maxima: Tensor, indices: Tensor) -> Tensor:
    """One int64 an entry, (batch, channel): the value in the high half, the image's index downwards in the low one.

    -inf comes out below an empty entry, whose index is -1.
    """
    # IEEE 754 numbers are sign and magnitude: negative ones are turned round; adding 0 makes -0 the same as 0
    bits = (maxima.float() + 0.0).view(torch.int32)
    ordered = (bits >> 31).bitwise_and_(_LOW).bitwise_xor_(bits)
    return ordered.long().bitwise_left_shift_(32).bitwise_or_((_LOW - indices)[:, None])


def _floats(ordered: Tensor) -> Tensor:
    """The float32 values of the high halves of keys, int32."""
    return (ordered ^ ((ordered >> 31) & _LOW)).view(torch.float32)


def _empty(channels: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    nobody = torch.full((k, channels), -torch.inf, device=device)
    places = torch.full((channels, k), NOTHING, dtype=torch.int32, device=device)
    return _keys(nobody, torch.full((k,), NOTHING, device=device)).T.contiguous(), places


def _places(parts: Tensor, peaks: Tensor, rows: Tensor, channels: Tensor) -> Tensor:
    """Where the map of [row, channel] first has its maximum, int64 (n,); peaks: the maximum of each part.

    A comparison and amax are vectorised, argmax over many places is not: several times as slow.
    """
    count, size = parts.shape[2:]
    part_peaks = peaks[rows, channels]
    which = part_peaks.argmax(1)
    best = part_peaks.gather(1, which[:, None])
    later = torch.arange(size, 0, -1, dtype=torch.float32, device=parts.device)  # whole numbers up to 2**24
    flat = parts.flatten(0, 2) if parts.is_contiguous() else None
    places = torch.empty_like(which)
    step = max(1, _BLOCK // size)
    for start in range(0, len(rows), step):
        k = slice(start, start + step)
        place = (rows[k], channels[k], which[k])
        some = parts[place] if flat is None else flat.index_select(0, _row(place, parts.shape[1], count))
        at = torch.empty_like(some, dtype=torch.float32)
        torch.eq(some, best[k], out=at)
        places[k] = which[k] * size + size - at.mul_(later).amax(1).long()
    return places


def _row(place: tuple[Tensor, Tensor, Tensor], channels: int, parts: int) -> Tensor:
    """Position of [row, channel, part] among all parts."""
    return (place[0] * channels + place[1]) * parts + place[2]


SELECTIVE, STIMULI, DEEP = 0.75, 9, 6
"""Share of a unit's strongest samples in one class, from which it is called selective; of how many samples; and of how
many of the last nodes units are chosen."""


def telling_units(
    strongest: Mapping[str, TopImagesResult], labels: NDArray[np.integer] | None, most: int
) -> list[tuple[str, int]]:
    """(node, channel) of at most `most` units: selective ones, of as many classes as there are, from the last node up.

    strongest: by node, in order of execution; the first `STIMULI` entries count, and those above zero. labels: the
    class of each sample. Where too few are selective, those of the last node that answer most, each to another sample.
    """
    by_class: dict[int, tuple[str, int]] = {}
    further: list[tuple[str, int]] = []
    for node in [*strongest][::-1]:
        for channel, kind in [] if labels is None else _selective(strongest[node], labels):
            if kind in by_class:
                further.append((node, channel))
            else:
                by_class[kind] = node, channel
        if len(by_class) >= most and len(by_class) + len(further) >= 2 * most:
            break
    chosen = [*by_class.values(), *further][:most]
    if len(chosen) < most and strongest:
        node, last = list(strongest.items())[-1]
        order = last.values[:, 0].argsort(descending=True, stable=True).tolist()
        alive = [c for c in order if last.images[c, 0] >= 0 and last.values[c, 0] > 0 and (node, c) not in chosen]
        of_image: dict[int, int] = {}
        for channel in alive:
            of_image.setdefault(int(last.images[channel, 0]), channel)
        ranked = [*of_image.values(), *(c for c in alive if c not in set(of_image.values()))]
        chosen += [(node, channel) for channel in ranked[: most - len(chosen)]]
    return chosen


def _selective(best: TopImagesResult, labels: NDArray[np.integer]) -> list[tuple[int, int]]:
    """(channel, class) of the selective channels, the largest share first, then the strongest."""
    images, values = best.images[:, :STIMULI].numpy(), best.values[:, :STIMULI].numpy()
    stimuli = (images >= 0) & (values > 0)
    kinds = np.where(stimuli, labels[images.clip(0)], -1)
    alike = ((kinds[:, :, None] == kinds[:, None, :]) & stimuli[:, None, :]).sum(2) * stimuli
    share = alike.max(1) / np.maximum(stimuli.sum(1), 1)
    found = np.flatnonzero((share >= SELECTIVE) & (stimuli.sum(1) >= min(STIMULI, images.shape[1])))
    order = sorted(found.tolist(), key=lambda c: (-share[c], -values[c, 0]))
    return [(c, int(kinds[c, alike[c].argmax()])) for c in order]
