"""Prune by magnitude: which weights a layer keeps (Han et al., "Learning both Weights and Connections", NIPS 2015)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from netopsy.errors import SettingsError


def keep_share(weight: Float[Tensor, "..."], density: float) -> Bool[Tensor, "..."]:
    """True at the `density` (0 to 1) of the weights that are largest in magnitude; of equal ones the earlier.

    Zeros are never kept, so that a layer already sparse may keep fewer; at least one weight of a non-zero layer is.
    """
    if not 0 <= density <= 1:
        raise SettingsError(f"density {density} is the share of weights to keep; give a number from 0 to 1.")
    size = weight.detach().abs().reshape(-1)
    count = max(1, round(density * size.numel()))
    order = torch.sort(size, descending=True, stable=True).indices[:count]
    mask = torch.zeros_like(size, dtype=torch.bool)
    mask[order] = size[order] > 0
    return mask.reshape(weight.shape)


def keep_beyond(weight: Float[Tensor, "..."], multiple: float) -> Bool[Tensor, "..."]:
    """True where the magnitude exceeds `multiple` standard deviations of the layer's weights: Han's threshold."""
    if multiple < 0:
        raise SettingsError(f"a threshold of {multiple} standard deviations must be 0 or more; 1 is usual.")
    return weight.detach().abs() > multiple * weight.detach().std(correction=0)
