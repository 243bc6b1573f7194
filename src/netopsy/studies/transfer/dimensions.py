"""How many dimensions are kept at each step, and which (Carvalho et al., Section 2.1)."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from netopsy.errors import SettingsError


def step_sizes(n: int, steps: int = 20) -> list[int]:
    """Dimensions kept at each of the 20 steps, descending: p_i = floor(n (21 - i) / 20), i = 1..20, from n itself.

    With fewer dimensions than steps some sizes are 0 or equal: those are left out, so the list is shorter.
    The sums are of integers. The authors' tables have 2047 of 4096 dimensions where the formula gives 2048: their code
    took the floor of a rounded product.
    """
    if n < 1 or steps < 1:
        raise SettingsError(f"{n} dimensions in {steps} steps; give at least one dimension and one step.")
    sizes = (n * (steps + 1 - i) // steps for i in range(1, steps + 1))
    return sorted({size for size in sizes if size}, reverse=True)


def drop_order(n: int, seed: int) -> Int64[Tensor, " n"]:
    """A random order of n dimensions, those that stay longest first (DR-1).

    `x[:, drop_order(n, seed)][:, :size]` for falling sizes drops dimensions one after the other: each set holds the
    next one, within one seed.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
