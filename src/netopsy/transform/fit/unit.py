"""Vectors of length 1, as features are before any stress (the authors' code of Carvalho et al.)."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

BLOCK = 1 << 20
"""Values that are held in float64 at once."""


def unit(x: Float32[Tensor, "n p"]) -> Float32[Tensor, "n p"]:
    """Each row divided by its Euclidean length, in float64 and rounded once; rows of zeros stay zero."""
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    rows = max(1, BLOCK // max(x.shape[1], 1))
    for part, into in zip(x.split(rows), out.split(rows), strict=True):
        wide = part.to(torch.float64, copy=True)
        lengths = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        into.copy_(wide.div_(torch.where(lengths > 0, lengths, 1.0)))
    return out
