"""How values are distributed, whatever their range."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from netopsy.engine.observe.tally import Tally
from netopsy.errors import SettingsError

_SHIFT = 19  # drops 19 of 23 bits of a float32's fraction: 16 buckets an octave
_HALF = 2 ** (31 - _SHIFT)


@dataclass(frozen=True)
class Buckets:
    """The buckets that hold values, from the lowest up; the ones around 0 hold zeros (and subnormal numbers).

    left, right: edges; a bucket's width is at most 1/16 of its magnitude. count: values in it. stride: every
    `stride`-th value of a sample was counted. Infinities and NaN have infinite edges.
    """

    left: Float64[Tensor, " bucket"]
    right: Float64[Tensor, " bucket"]
    count: Int64[Tensor, " bucket"]
    stride: int


class Histogram(Tally):
    """Values of a whole node in buckets of floating-point width: 16 an octave, for any range, known or not.

    per_sample: about how many values of each sample are counted, evenly spaced over channels and space; None for all.
    update: (batch, ...). result: `Buckets`.
    """

    def __init__(self, per_sample: int | None = 1024) -> None:
        if per_sample is not None and per_sample < 1:
            raise SettingsError(f"per_sample {per_sample} must be at least 1, or None to count every value.")
        self.per_sample = per_sample
        self.counts: Tensor | None = None
        self.stride = 0

    def update(self, values: Tensor, indices: Tensor) -> None:
        flat = values.flatten(1) if values.ndim > 1 else values[:, None]
        if not flat.numel():
            return
        if not self.stride:
            self.stride = 1 if self.per_sample is None else _prime(flat.shape[1] // self.per_sample)
        bits = flat[:, :: self.stride].float().contiguous().view(torch.int32).view(-1)
        # an arithmetic shift keeps the sign: negative values come out below zero
        counts = torch.bincount((bits >> _SHIFT).add_(_HALF), minlength=2 * _HALF)
        self.counts = counts if self.counts is None else self.counts.add_(counts)

    def merge(self, other: Histogram) -> None:
        if other.counts is not None:
            self.counts = other.counts.clone() if self.counts is None else self.counts + other.counts
            self.stride = other.stride

    def result(self) -> Buckets:
        if self.counts is None:
            nothing = torch.zeros(0, dtype=torch.float64)
            return Buckets(nothing, nothing, nothing.long(), 1)
        counts = self.counts.cpu()
        magnitude = torch.arange(_HALF + 1, dtype=torch.int64) << _SHIFT
        edges = magnitude.to(torch.int32).view(torch.float32).double()
        edges[torch.isnan(edges) | (magnitude >= 2**31)] = torch.inf
        # codes below _HALF are negative floats, whose magnitude grows with the code
        left = torch.cat([-edges[1:].flip(0), edges[:-1]])
        right = torch.cat([-edges[:-1].flip(0), edges[1:]])
        ordered = torch.cat([counts[:_HALF].flip(0), counts[_HALF:]])
        filled = ordered > 0
        return Buckets(left[filled], right[filled], ordered[filled], self.stride)


def _prime(number: int) -> int:
    """The smallest prime of at least `number` (1 for 1 or less): a stride that falls in step with no image width."""
    number = max(number, 1)
    while number > 3 and any(number % d == 0 for d in range(2, int(number**0.5) + 1)):
        number += 1
    return number
