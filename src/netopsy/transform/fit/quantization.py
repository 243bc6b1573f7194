"""Scalar quantization to the centres of equal bins (Carvalho et al., Section 2.2): Q-1 and Q-2.

Q-1 has one dictionary for all dimensions, Q-2 one for each: h bins of width st = (max - min) / h over the range of the
training set, H = {min + st / 2 + st i | 0 <= i < h}. A value goes to the nearest centre, so that what lies outside the
training range goes to the first or last one. Halfway between two centres it goes to the lower one, as the first
minimum does in a list of distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.transform.coders import LARGEST_H

BLOCK = 1 << 17
"""Values that the steps of a quantization work on at once, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class Ranges:
    """Least and greatest value in the training set. low, high: float32, (p,) for Q-2 or (1,) for Q-1."""

    low: Float32[Tensor, " d"]
    high: Float32[Tensor, " d"]


@dataclass(frozen=True)
class Grid:
    """The numbers of h equal bins, float32, (d,): bin k = 1..h is ceil((x - low) inverse), its centre first + k step.

    `first` lies half a bin below `low`. A dimension without extent has step and inverse 0: its only centre is `low`.
    """

    low: Float32[Tensor, " d"]
    inverse: Float32[Tensor, " d"]
    step: Float32[Tensor, " d"]
    first: Float32[Tensor, " d"]


def fit_ranges(x_train: Float32[Tensor, "n p"], per_dimension: bool) -> Ranges:
    """The range of all values of the training set (Q-1), or of each of its dimensions (Q-2)."""
    if x_train.numel() == 0:
        raise SettingsError(f"ranges of {tuple(x_train.shape)} values; give at least one vector of one dimension.")
    if per_dimension:
        return Ranges(x_train.amin(0), x_train.amax(0))
    low, high = torch.aminmax(x_train)
    return Ranges(low.reshape(1), high.reshape(1))


def grid(ranges: Ranges, h: int) -> Grid:
    """The bins of `h` levels (1..65536), computed in float64 and rounded once."""
    if isinstance(h, bool) or not isinstance(h, int) or not 1 <= h <= LARGEST_H:
        raise SettingsError(f"{h} levels; give a whole number from 1 to {LARGEST_H}.")
    low, high = ranges.low.double(), ranges.high.double()
    step = (high - low) / h
    inverse = (1 / step).float()
    inverse = torch.where(torch.isfinite(inverse), inverse, torch.zeros_like(inverse))
    return Grid(low.float(), inverse, step.float(), (low - step / 2).float())


def quantize(x: Float32[Tensor, "n p"], ranges: Ranges, h: int) -> Float32[Tensor, "n p"]:
    """Each value at the centre of its bin, one of h (Q-1 or Q-2, as the `ranges` are)."""
    bins = grid(ranges, h)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = max(1, BLOCK // max(x.shape[1], 1)) if x.device.type == "cpu" else max(len(x), 1)
    for part, into in zip(x.split(rows), out.split(rows), strict=True):
        torch.sub(part, bins.low, out=into)
        into.mul_(bins.inverse).ceil_().clamp_(1, h).mul_(bins.step).add_(bins.first)
    return out
