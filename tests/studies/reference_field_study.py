"""Slow twins for the study `field`: plain torch modules, autograd, and networks without their nonlinearities."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn


def box_profile(kernel: int, times: int) -> np.ndarray:
    """A box of `kernel` ones over `kernel`, convolved with itself `times` - 1 times."""
    profile = np.ones(1)
    for _ in range(times):
        profile = np.convolve(profile, np.ones(kernel) / kernel)
    return profile


def fewest_pixels(energy: np.ndarray, share: float) -> int:
    """How many of the largest values it takes to hold a `share` of the sum, one by one."""
    left, count = share * energy.sum(), 0
    for value in sorted(energy.ravel(), reverse=True):
        if left <= 1e-12 * energy.sum():
            break
        left, count = left - value, count + 1
    return count


def run(modules: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """Value behind each module, each keeping its gradient."""
    values = []
    for module in modules:
        x = module(x)
        x.retain_grad()
        values.append(x)
    return values


def connected(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """The same connections without signs or choices: a gradient is zero there only where no path leads."""
    plain: list[nn.Module] = []
    for module in modules:
        if isinstance(module, nn.ReLU):
            plain.append(nn.Identity())
        elif isinstance(module, nn.MaxPool2d):
            plain.append(nn.AvgPool2d(module.kernel_size, module.stride, module.padding))
        elif isinstance(module, nn.Conv2d):
            twin = copy.deepcopy(module)
            twin.bias = None
            twin.weight = nn.Parameter(module.weight.detach().abs())
            plain.append(twin)
        else:
            raise TypeError(module)
    return plain


def tree(modules: Sequence[nn.Module], image: Tensor, unit: tuple[int, int, int, int]) -> list[tuple[int, int, int]]:
    """For each ReLU before the unit's and its own: how many units are in the tree, active there, and contribute.

    image: (1, channel, height, width). unit: (index of its module, channel, y, x).
    """
    last, channel, y, x = unit
    counts = []
    ways = []
    for some in (connected(modules), modules):
        start = image.double().clone().requires_grad_()
        values = run([module.double() for module in some[: last + 1]], start)
        values[-1][0, channel, y, x].backward()
        ways.append(values)
    for index, module in enumerate(modules[: last + 1]):
        if isinstance(module, nn.ReLU):
            free, real = ways[0][index], ways[1][index]
            assert free.grad is not None and real.grad is not None
            # weights of a random network do not cancel: a derivative is zero only where no path is open
            inside, on, open_ = free.grad != 0, real > 0, real.grad != 0
            counts.append((int(inside.sum()), int((inside & on).sum()), int((inside & on & open_).sum())))
    return counts
