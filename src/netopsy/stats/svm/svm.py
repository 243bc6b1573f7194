"""One-vs-rest linear support vector machines, and how good they are known to be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class Svm:
    """A linear machine a class.

    weights: (p, classes). bias: (classes,); penalised like a weight, as in LIBLINEAR.
    objective: 1/2 |w|^2 + 1/2 bias^2 + the sum of the losses, per class. gap: the most that it can lie above the
    optimum, relative to it; computed in float64. steps: products with the features. cold: classes whose float32
    solution was not good enough, so that they were solved again from nothing in float64.
    """

    weights: Float[Tensor, "p classes"]
    bias: Float[Tensor, " classes"]
    objective: Float64[Tensor, " classes"]
    gap: Float64[Tensor, " classes"]
    steps: int
    cold: int = 0

    def scores(self, x: Float[Tensor, "n p"]) -> Float[Tensor, "n classes"]:
        """x @ weights + bias, in the precision of x."""
        return torch.addmm(self.bias.to(x.dtype), x, self.weights.to(x.dtype))

    @property
    def coefficients(self) -> Float[Tensor, "p+1 classes"]:
        """The weights with the bias below them."""
        return torch.cat([self.weights, self.bias[None]])


def signs(labels: Tensor | np.ndarray, classes: int) -> Float[Tensor, "n classes"]:
    """+1 where a sample has the class, else -1. labels: int64 (n,), or (n, classes) of 0 and 1."""
    given = torch.as_tensor(labels)
    if given.ndim == 2:
        return torch.where(given > 0, 1.0, -1.0)
    return torch.where(given[:, None] == torch.arange(classes, device=given.device), 1.0, -1.0)
