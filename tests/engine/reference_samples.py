"""Slow, independent versions of what netopsy.samples does: torchvision's transforms, quotas by exact fractions."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from netopsy.network.preprocessing import Preprocessing

MODES = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}


def torchvision_input(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """The network's input (channel, height, width) by torchvision's transforms on the Pillow image."""
    p = preprocessing
    how = MODES[p.interpolation]
    if (image.height, image.width) == p.size:
        steps = []
    elif p.resize is None:
        steps = [transforms.Resize(p.size, how)]
    else:
        steps = [transforms.Resize(p.resize, how), transforms.CenterCrop(p.size)]
    pixels = transforms.PILToTensor()(transforms.Compose(steps)(image.convert("L" if p.channels == "L" else "RGB")))
    unit = transforms.ConvertImageDtype(torch.float32)(pixels) if p.scale == 1 / 255 else pixels.float() * p.scale
    if p.channels == "BGR":
        unit = unit.flip(0)
    return transforms.Normalize(p.mean, p.std)(unit)


def within_quota(strata: list[int], chosen: list[int], count: int) -> bool:
    """Whether every stratum's number among `chosen` is its exact share of `count`, rounded down or up."""
    had, have = Counter(strata), Counter(chosen)
    shares = {stratum: Fraction(count * number, len(strata)) for stratum, number in had.items()}
    return all(abs(have[stratum] - share) < 1 for stratum, share in shares.items())
