"""Which patterns of active and silent units occur: one hash an image, and one for some places."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from netopsy.engine.observe.tally import Tally, sample_blocks
from netopsy.errors import SettingsError

_WORD = 24  # units that one float32 can hold exactly


@dataclass(frozen=True)
class PatternsResult:
    """64-bit hashes of on/off patterns; equal patterns have equal hashes, others differ but for one chance in 2^64.

    indices, images: the samples seen, ascending, and the hash of each one's whole pattern.
    places: hashes of the channels' pattern at each of the places drawn; empty where a node has no places.
    """

    indices: Int64[Tensor, " image"]
    images: Int64[Tensor, " image"]
    places: Int64[Tensor, " place"]


class Patterns(Tally):
    """The activation pattern of each image: which units of the node are above zero (Montufar et al., 2014, Section 2).

    images: how many samples there are: 8 bytes are kept for each. threshold: values above it are on.
    axis: where the channels are. places: at most so many places are drawn for the patterns of single places: as many
    from each image as that allows, at least one from every so-many-th image; the same seed draws the same ones.
    update: (batch, channel, *space). result: `PatternsResult`. NaN is off.
    """

    def __init__(self, images: int, threshold: float = 0.0, axis: int = 1, places: int = 20_000, seed: int = 0) -> None:
        if images < 1 or places < 1:
            raise SettingsError(f"images {images} and places {places} must be at least 1.")
        self.number, self.threshold, self.axis, self.seed = images, float(threshold), axis, seed
        self.every = -(-images // places)
        self.per_image = max(1, places // images)
        self.hashes: Tensor | None = None
        self.seen: Tensor | None = None
        self.drawn: Tensor | None = None

    def update(self, values: Tensor, indices: Tensor) -> None:
        first = 0
        for x in sample_blocks(values, self.axis):
            self._add(x.flatten(2) if x.ndim > 2 else x[:, :, None], indices[first : first + len(x)])
            first += len(x)

    def _add(self, x: Float32[Tensor, "batch channel place"], indices: Tensor) -> None:
        channels, places = x.shape[1:]
        if not x.numel():
            return
        if self.hashes is None or self.seen is None:
            self.hashes = torch.zeros(self.number, dtype=torch.int64, device=x.device)
            self.seen = torch.zeros(self.number, dtype=torch.bool, device=x.device)
        on = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        torch.gt(x, self.threshold, out=on)
        bits = _powers(channels, x.device)
        groups = on.view(-1, len(bits), places)
        words = torch.bmm(bits.expand(len(groups), 1, -1), groups).view(len(x), -1, places).long()
        hashes = mix(words.mul_(_factors(words.shape[1], self.seed, x.device)[:, None]).sum(1))
        rows = indices.to(x.device)
        self.hashes[rows] = mix((hashes * _factors(places, self.seed + 1, x.device)).sum(1))
        self.seen[rows] = True
        if places > 1:
            self._draw(hashes, rows)

    def _draw(self, hashes: Int64[Tensor, "batch place"], indices: Tensor) -> None:
        places = hashes.shape[1]
        count = min(self.per_image, places)
        if self.drawn is None:
            self.drawn = torch.zeros(-(-self.number // self.every), count, dtype=torch.int64, device=hashes.device)
        sampled = indices % self.every == 0
        rows = indices[sampled] // self.every
        turn = rows[:, None] * count + torch.arange(count, device=hashes.device)
        self.drawn[rows] = hashes[sampled].gather(1, _order(places, self.seed, hashes.device)[turn % places])

    def merge(self, other: Patterns) -> None:
        if other.hashes is None or other.seen is None:
            return
        self.hashes = other.hashes.clone() if self.hashes is None else self.hashes + other.hashes
        self.seen = other.seen.clone() if self.seen is None else self.seen | other.seen
        if other.drawn is not None:
            self.drawn = other.drawn.clone() if self.drawn is None else self.drawn + other.drawn

    def result(self) -> PatternsResult:
        nothing = torch.zeros(0, dtype=torch.int64)
        if self.hashes is None or self.seen is None:
            return PatternsResult(nothing, nothing, nothing)
        seen = self.seen.cpu()
        sample = nothing if self.drawn is None else self.drawn.cpu()[seen[:: self.every]].view(-1)
        return PatternsResult(seen.nonzero()[:, 0], self.hashes.cpu()[seen], sample)


def mix(numbers: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """A bijection of 64-bit numbers that spreads every bit over all (SplitMix64, Steele et al., 2014)."""
    numbers = (numbers ^ _shift_right(numbers, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    numbers = (numbers ^ _shift_right(numbers, 27)) * (0x94D049BB133111EB - 2**64)
    return numbers ^ _shift_right(numbers, 31)


def _shift_right(numbers: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: torch's own keeps the sign."""
    return (numbers >> bits) & (2 ** (64 - bits) - 1)


@lru_cache(32)
def _powers(channels: int, device: torch.device) -> Float32[Tensor, " bit"]:
    """Powers of two that pack as many units into a number as divide `channels`; exact in TF32 products too."""
    width = max(n for n in range(1, _WORD + 1) if channels % n == 0)
    return 2.0 ** torch.arange(width, dtype=torch.float32, device=device)


@lru_cache(32)
def _factors(count: int, seed: int, device: torch.device) -> Int64[Tensor, " count"]:
    """Random odd numbers."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator) | 1).to(device)


@lru_cache(32)
def _order(places: int, seed: int, device: torch.device) -> Int64[Tensor, " place"]:
    return torch.randperm(places, generator=torch.Generator().manual_seed(seed)).to(device)
