"""Slow, plain versions of what compression counts and keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from reference_codec import relative_walk
from torch import Tensor


def largest(weight: Tensor, density: float) -> list[bool]:
    """For each weight in order, whether it is one of the round(density n) largest; earlier ones win ties."""
    sizes = [abs(value) for value in weight.reshape(-1).tolist()]
    order = sorted(range(len(sizes)), key=lambda place: (-sizes[place], place))
    chosen = set(order[: max(1, round(density * len(sizes)))])
    return [place in chosen and sizes[place] > 0 for place in range(len(sizes))]


def entries_with_fillers(values: Sequence[float], bits: int) -> int:
    """Entries of Han's relative format, with gaps of so many bits: the values that are not zero, and fillers."""
    return len(relative_walk([int(value != 0) for value in values], 0, bits)[0])


def relative_bits(values: Sequence[float], width: int, gaps: Iterable[int] = (3, 4, 5, 8)) -> float:
    """The bits of the cheapest relative format, for a value of `width` bits an entry."""
    return min(entries_with_fillers(values, gap) * (width + gap) for gap in gaps)


def code_width(values: Sequence[float]) -> int:
    """Whole bits that tell the values that are not zero apart."""
    used = len({value for value in values if value})
    return math.ceil(math.log2(used)) if used > 1 else 0


def half(values: np.ndarray) -> np.ndarray:
    """Float32 values through 16 bits, one at a time by way of torch."""
    flat = [torch.tensor(value, dtype=torch.float32).half().float().item() for value in values.reshape(-1).tolist()]
    return np.array(flat, np.float32).reshape(values.shape)


def top1(module: torch.nn.Module, images: Tensor, labels: Sequence[int]) -> float:
    """Accuracy of a plain module, an image at a time."""
    with torch.no_grad():
        right = [int(module(image[None]).argmax()) == label for image, label in zip(images, labels, strict=True)]
    return sum(right) / len(right)
