"""Receptive fields by experiment: change one pixel at a time and see which outputs move."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def seen(module: nn.Module, shape: tuple[int, int, int], bump: float = 1e3) -> Tensor:
    """Bool (rows, columns, height, width): whether output (row, column), in any channel, depends on the pixel.

    module: maps (batch, channels, height, width) to (batch, channels, rows, columns), with positive weights, so that
    no changes cancel and a raised pixel raises every maximum over it.
    """
    module = module.double().eval()
    channels, height, width = shape
    base = torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bumps = torch.zeros(height * width, channels, height * width, dtype=torch.float64)
    places = torch.arange(height * width)
    bumps[places, :, places] = bump
    with torch.no_grad():
        before = module(base)
        after = module(base + bumps.reshape(-1, channels, height, width))
    # other batch sizes may round differently
    moved = ((after - before).abs() > 1e-10 * before.abs()).any(1)
    return moved.permute(1, 2, 0).reshape(*moved.shape[1:], height, width)


def box(mask: Tensor) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right), half open, of the true entries of a (height, width) mask; None if there are none."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def positive(module: nn.Module) -> nn.Module:
    """The module with all parameters drawn from 0.05..0.15, so that no effect vanishes or cancels."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.05, 0.15)
    return module
