"""Vectors of length 1, as features are before any stress (the authors' code of Carvalho et al.)."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor


def unit(x: Float32[Tensor, "n p"]) -> Float32[Tensor, "n p"]:
    """Each row divided by its Euclidean length; rows of zeros stay zero. The squares are summed in float64."""
    lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float64)
    lengths = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    inverse = lengths.reciprocal()
    # a row of float32 subnormals has a length whose inverse float32 cannot hold
    if bool((inverse > torch.finfo(torch.float32).max).any()):
        return (x.double() * inverse).float()
    return x.float() * inverse.float()
