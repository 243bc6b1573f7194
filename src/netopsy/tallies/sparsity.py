"""How many values are zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
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
