"""How many values are zero, how many channels answer, and between which values they go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from netopsy.engine.observe.tally import Tally, sample_blocks
from netopsy.errors import SettingsError

_EXACT = 2**24  # up to here float32 counts without a gap


@dataclass(frozen=True)
class ZeroShareResult:
    """share: of zeros per channel, 0..1 (NaN if nothing was seen). zeros: their number. seen: values per channel."""

    share: Float64[Tensor, " channel"]
    zeros: Int64[Tensor, " channel"]
    seen: int


class ZeroShare(Tally):
    """Share of zeros per channel (Lorieul et al., Section III.B).

    threshold: values of at most this magnitude count as zero. axis: where the channels are.
    softmax: whether to turn the channels into probabilities first (in float64, which does not underflow soon).
    update: (batch, channel, *space). result: `ZeroShareResult`. NaN is not zero.
    """

    def __init__(self, threshold: float = 0.0, axis: int = 1, softmax: bool = False) -> None:
        if not threshold >= 0:
            raise SettingsError(f"threshold {threshold} must be 0 or more: values of at most that magnitude are zeros.")
        self.threshold, self.axis, self.softmax = float(threshold), axis, softmax
        self.zeros: Tensor | None = None
        self.seen = 0

    def update(self, values: Tensor, indices: Tensor) -> None:
        for x in sample_blocks(values, self.axis):
            if self.softmax:
                x = x.double().softmax(1)
            # a comparison that writes floats is vectorised, one that writes booleans is not: five times as slow
            is_zero = torch.empty_like(x)
            if self.threshold:
                torch.le(x.abs(), self.threshold, out=is_zero)
            else:
                torch.eq(x, 0, out=is_zero)
            space = [d for d in range(x.ndim) if d != 1]
            each = x.numel() // x.shape[1]
            zeros = is_zero.sum(space, dtype=None if each <= _EXACT and x.dtype != torch.half else torch.float64).long()
            self.zeros = zeros if self.zeros is None else self.zeros.add_(zeros)
            self.seen += each

    def merge(self, other: ZeroShare) -> None:
        if other.zeros is not None:
            self.zeros = other.zeros.clone() if self.zeros is None else self.zeros + other.zeros
            self.seen += other.seen

    def result(self) -> ZeroShareResult:
        zeros = torch.zeros(0, dtype=torch.int64) if self.zeros is None else self.zeros.cpu()
        return ZeroShareResult(zeros.double() / max(self.seen, 1), zeros, self.seen)


@dataclass(frozen=True)
class RangeResult:
    """The least and the greatest value of each channel; empty if nothing was seen."""

    low: Float64[Tensor, " channel"]
    high: Float64[Tensor, " channel"]


class Range(Tally):
    """The range of each channel's values: 0 to 0 is a dead unit, one value another that says nothing.

    axis: where the channels are. update: (batch, channel, *space). result: `RangeResult`. A NaN stays.
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def update(self, values: Tensor, indices: Tensor) -> None:
        for x in sample_blocks(values, self.axis):
            flat = x.movedim(1, 0).flatten(1)
            if not flat.shape[1]:
                continue
            low, high = flat.amin(1), flat.amax(1)
            self.low = low if self.low is None else torch.minimum(self.low, low)
            self.high = high if self.high is None else torch.maximum(self.high, high)

    def merge(self, other: Range) -> None:
        if other.low is not None and other.high is not None:
            self.low = other.low.clone() if self.low is None else torch.minimum(self.low, other.low)
            self.high = other.high.clone() if self.high is None else torch.maximum(self.high, other.high)

    def result(self) -> RangeResult:
        nothing = torch.zeros(0, dtype=torch.float64)
        low, high = (nothing if t is None else t.double().cpu() for t in (self.low, self.high))
        return RangeResult(low, high)


SHARE_BINS = 1000  # bins of the share of an image's values that are active


@dataclass(frozen=True)
class ActiveCountResult:
    """What `ActiveCount` counted over `images` images of `places` places each; a value above the threshold is active.

    by_channels: images by their number of channels active anywhere; index 0 to `channel`.
    by_place: places by the number of channels active there, over all images.
    by_share: images by the share of their values that are active, in equal bins from 0 to 1.
    share_mean, share_variance: of that share over the images (population variance), exact.
    channel_images: images on which each channel was active anywhere.
    record: (channels active, values active) of every `every`-th image; `recorded`: whether that image was seen.
    """

    images: int
    places: int
    by_channels: Int64[Tensor, " count"]
    by_place: Int64[Tensor, " count"]
    by_share: Int64[Tensor, " bin"]
    share_mean: float
    share_variance: float
    channel_images: Int64[Tensor, " channel"]
    every: int
    record: Int64[Tensor, "row 2"]
    recorded: Bool[Tensor, " row"]


class ActiveCount(Tally):
    """Features activated (Palmieri et al., Section 5): a channel is active on an image if any place is above zero.

    images: how many there are; the figures of every `every`-th one are kept, of at most `records` images.
    threshold: values above this are active. axis: where the channels are.
    update: (batch, channel, *space). result: `ActiveCountResult`. NaN is not active.
    """

    def __init__(self, images: int, threshold: float = 0.0, axis: int = 1, records: int = 2000) -> None:
        if images < 1 or records < 1:
            raise SettingsError(f"images {images} and records {records} must be at least 1.")
        self.every = -(-images // records)
        self.rows = -(-images // self.every)
        self.threshold, self.axis = float(threshold), axis
        self.images = self.places = 0
        self.by_channels: Tensor | None = None
        self.by_place: Tensor | None = None
        self.by_share: Tensor | None = None
        self.sums: Tensor | None = None  # float64 (2,): of the shares and of their squares
        self.channel_images: Tensor | None = None
        self.record: Tensor | None = None
        self.recorded: Tensor | None = None

    def update(self, values: Tensor, indices: Tensor) -> None:
        first = 0
        for x in sample_blocks(values, self.axis):
            self._add(x.flatten(2) if x.ndim > 2 else x[:, :, None], indices[first : first + len(x)])
            first += len(x)

    def _add(self, x: Float64[Tensor, "batch channel place"], indices: Tensor) -> None:
        channels, places = x.shape[1:]
        if not x.numel():
            return
        # a comparison that writes floats is vectorised, one that writes booleans is not
        on = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        torch.gt(x, self.threshold, out=on)
        active_at_place = on.sum(1)
        anywhere = on.amax(2)
        number = anywhere.sum(1).long()
        total = active_at_place.sum(1, dtype=torch.float64).long()
        share = total.double() / (channels * places)
        bins = total * SHARE_BINS // (channels * places)
        counts = {
            "by_channels": torch.bincount(number, minlength=channels + 1),
            "by_place": torch.bincount(active_at_place.long().view(-1), minlength=channels + 1),
            "by_share": torch.bincount(bins.clamp_(max=SHARE_BINS - 1), minlength=SHARE_BINS),
            "sums": torch.stack([share.sum(), share.square().sum()]),
            "channel_images": anywhere.sum(0).long(),
        }
        for name, count in counts.items():
            count_before = getattr(self, name)
            setattr(self, name, count if count_before is None else count_before.add_(count))
        self.images += len(x)
        self.places = places
        if self.record is None or self.recorded is None:
            self.record = torch.zeros(self.rows, 2, dtype=torch.int64, device=x.device)
            self.recorded = torch.zeros(self.rows, dtype=torch.bool, device=x.device)
        sampled = (indices % self.every == 0).to(x.device)
        rows = indices.to(x.device)[sampled] // self.every
        self.record[rows] = torch.stack([number, total], 1)[sampled]
        self.recorded[rows] = True

    def merge(self, other: ActiveCount) -> None:
        if other.record is None or other.recorded is None:
            return
        for name in ("by_channels", "by_place", "by_share", "sums", "channel_images", "record"):
            mine, more = getattr(self, name), getattr(other, name)
            setattr(self, name, more.clone() if mine is None else mine + more)
        self.recorded = other.recorded.clone() if self.recorded is None else self.recorded | other.recorded
        self.images += other.images
        self.places = other.places

    def result(self) -> ActiveCountResult:
        nothing = torch.zeros(0, dtype=torch.int64)
        by_channels, by_place, by_share, each = (
            nothing if tensor is None else tensor.cpu()
            for tensor in (self.by_channels, self.by_place, self.by_share, self.channel_images)
        )
        sums = torch.zeros(2, dtype=torch.float64) if self.sums is None else self.sums.cpu()
        mean, square = (sums / max(1, self.images)).tolist()
        record = torch.zeros(0, 2, dtype=torch.int64) if self.record is None else self.record.cpu()
        recorded = torch.zeros(0, dtype=torch.bool) if self.recorded is None else self.recorded.cpu()
        return ActiveCountResult(
            self.images,
            self.places,
            by_channels,
            by_place,
            by_share,
            mean,
            max(0.0, square - mean**2),
            each,
            self.every,
            record,
            recorded,
        )
