"""Share weights: one table of values a layer, from 1-D k-means (Han et al., ICLR 2016, Section 3)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from netopsy.codec.shared import LARGEST_TABLE, SharedTensor
from netopsy.errors import SettingsError
from netopsy.stats.kmeans1d.clustering import SortedValues, Start


def share(
    weight: Float[Tensor, "..."],
    entries: int,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    start: Start = "dp",
    seed: int = 0,
) -> SharedTensor:
    """`weight` with `entries` shared values, 2 to 4096: 2 ** bits. Where some are pruned, 0.0 is one of the entries.

    mask: True at the weights to keep; by default those that are not zero. start, seed: of the k-means (`kmeans1d`).
    """
    if not 2 <= entries <= LARGEST_TABLE:
        raise SettingsError(f"{entries} shared weights; give 2 to {LARGEST_TABLE}, that is 1 to 12 bits.")
    values = weight.detach().float().cpu().numpy().reshape(-1)
    kept = values != 0 if mask is None else mask.detach().cpu().numpy().reshape(-1) & (values != 0)
    decoded = np.zeros_like(values)
    if kept.any():
        free = entries if kept.all() else entries - 1
        decoded[kept] = SortedValues(values[kept]).kmeans(free, start=start, seed=seed).decode()
    return SharedTensor.of(decoded.reshape(tuple(weight.shape)))


def decoded(shared: SharedTensor, like: Tensor) -> Tensor:
    """The shared tensor as torch has it, on the device and of the type of `like`."""
    return torch.from_numpy(shared.decode()).to(like)
