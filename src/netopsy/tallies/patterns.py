"""Which patterns of active and silent units occur: of whole layers by their hashes, of a few units one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from netopsy.engine.observe.tally import Tally, sample_blocks
from netopsy.errors import SettingsError

_WORD = 24  # units that one float32 can hold exactly
_UNITS = 62  # bits of an int64 without its sign, less one to spare
_ROOM = 4096


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


@dataclass(frozen=True)
class JointPatternsResult:
    """The patterns of some units that occurred; all information in nats.

    patterns: bool (pattern, unit), True where the unit is active; the most frequent first. counts: rows of each.
    """

    patterns: Bool[Tensor, "pattern unit"]
    counts: Int64[Tensor, " pattern"]

    @property
    def rows(self) -> int:
        """Images counted; or places, with `each_place`."""
        return int(self.counts.sum())

    @property
    def active(self) -> Float64[Tensor, " unit"]:
        """Share of the rows on which each unit is active, 0..1; NaN where nothing was seen."""
        return self._joint.diagonal().clone()

    @property
    def entropy(self) -> float:
        """Of the patterns, -sum p log p: at most log(number of patterns), and at most the sum of the units' own."""
        return float(_entropy(self.counts.double() / self.rows))

    @cached_property
    def information(self) -> Float64[Tensor, "unit unit"]:
        """Mutual information of the activity of each unit and each other; on the diagonal each unit's own entropy.

        From the counts as they are; by chance independent units have about 1 / (2 rows) (Miller, "Note on the bias of
        information estimates", 1955).
        """
        both, active = self._joint, self.active
        cells = torch.stack([both, active[:, None] - both, active - both, 1 - active[:, None] - active + both])
        unit = _entropy(torch.stack([active, 1 - active], -1))
        return (unit[:, None] + unit - _entropy(cells.movedim(0, -1))).clamp_min(0)

    @property
    def _joint(self) -> Float64[Tensor, "unit unit"]:
        """Share of the rows on which both units are active."""
        on = self.patterns.double()
        return (
            on.T @ (self.counts[:, None] * on) / self.rows if self.rows else on.new_full((on.shape[1],) * 2, torch.nan)
        )


class JointPatterns(Tally):
    """Which of some units are active together, and how often: of one node or several, also of two networks.

    channels: the units, for each node in the order in which they are watched. threshold: values above it are active.
    axes: where the channels of each node are; by default 1. each_place: a row is a place of an image, where all nodes
    have equally many; by default it is an image, on which a unit is active if it is at any place. At most 62 units.
    update: the values of the nodes, (batch, channel, *space). result: `JointPatternsResult`. NaN is not active. Memory:
    16 bytes for each pattern that occurs.
    """

    def __init__(
        self,
        channels: Sequence[Sequence[int]],
        threshold: float = 0.0,
        axes: Sequence[int] | None = None,
        *,
        each_place: bool = False,
    ) -> None:
        self.channels = tuple(tuple(int(channel) for channel in chosen) for chosen in channels)
        self.axes = (1,) * len(self.channels) if axes is None else tuple(axes)
        self.threshold, self.each_place = float(threshold), each_place
        units = sum(map(len, self.channels))
        if not 1 <= units <= _UNITS or len(self.axes) != len(self.channels):
            raise SettingsError(
                f"channels name {units} units of {len(self.channels)} nodes, with {len(self.axes)} axes; give 1 to "
                f"{_UNITS} units in all, and an axis for each node."
            )
        self.codes: Tensor | None = None  # int64 (pattern,): unit i is bit i
        self.counts: Tensor | None = None
        self.room = _ROOM  # entries before equal codes are put together

    def update(self, values: Tensor | tuple[Tensor, ...], indices: Tensor) -> None:
        given = (values,) if isinstance(values, Tensor) else values
        if len(given) != len(self.channels):
            raise SettingsError(f"channels are named of {len(self.channels)} nodes, but {len(given)} are watched.")
        if not len(indices):
            return
        units = [self._active(*node) for node in zip(given, self.channels, self.axes, strict=True)]
        if len({on.shape[2] for on in units}) > 1:
            raise SettingsError(
                f"the nodes have {', '.join(str(on.shape[2]) for on in units)} places, so they cannot be counted place "
                "by place; leave out each_place."
            )
        on = torch.cat([one.to(units[0].device) for one in units], 1).long()
        bits = 1 << torch.arange(on.shape[1], device=on.device)
        self._add(*torch.unique((on * bits[:, None]).sum(1).flatten(), return_counts=True))

    def _active(self, values: Tensor, channels: tuple[int, ...], axis: int) -> Bool[Tensor, "batch unit place"]:
        maps = values[:, None] if values.ndim == 1 else values.movedim(axis, 1)
        if channels and not 0 <= min(channels) <= max(channels) < maps.shape[1]:
            raise SettingsError(f"channels {channels} must be 0 to {maps.shape[1] - 1}: the node has {maps.shape[1]}.")
        on = (maps[:, list(channels)].flatten(2) if maps.ndim > 2 else maps[:, list(channels), None]) > self.threshold
        return on if self.each_place else on.any(2, keepdim=True)

    def _add(self, codes: Tensor, counts: Tensor) -> None:
        self.codes = codes if self.codes is None else torch.cat([self.codes, codes])
        self.counts = counts if self.counts is None else torch.cat([self.counts, counts])
        if len(self.codes) > self.room:
            self.codes, self.counts = _combine(self.codes, self.counts)
            self.room = 2 * len(self.codes) + _ROOM

    def merge(self, other: JointPatterns) -> None:
        if other.codes is not None and other.counts is not None:
            self._add(other.codes.clone(), other.counts.clone())

    def result(self) -> JointPatternsResult:
        units = torch.arange(sum(map(len, self.channels)))
        nothing = torch.zeros(0, dtype=torch.int64)
        codes, counts = (nothing if x is None else x.cpu() for x in (self.codes, self.counts))
        codes, counts = _combine(codes, counts)
        order = counts.argsort(descending=True, stable=True)
        return JointPatternsResult((codes[order, None] >> units & 1).bool(), counts[order])


def _combine(codes: Int64[Tensor, " entry"], counts: Int64[Tensor, " entry"]) -> tuple[Tensor, Tensor]:
    """Each code once, ascending, with the sum of its counts."""
    distinct, places = torch.unique(codes, return_inverse=True)
    return distinct, torch.zeros_like(distinct).index_add_(0, places, counts)


def _entropy(shares: Float64[Tensor, "*shape cell"]) -> Float64[Tensor, "*shape"]:
    """-sum p log p over the last axis; a cell without any, or with less than none by rounding, adds nothing."""
    shares = shares.clamp_min(0)
    return -torch.special.xlogy(shares, shares).sum(-1)


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
