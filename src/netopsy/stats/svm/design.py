"""A matrix of features with a column of ones behind it, without the copy.

Results lie class by class in memory: a product with few columns is then a third quicker.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Design:
    """[x, 1]. x: float (n, p). Its coefficients are (p + 1, classes), the bias last (and penalised, as LIBLINEAR's)."""

    x: Float[Tensor, "n p"]

    def forward(self, coefficients: Float[Tensor, "p+1 classes"]) -> Float[Tensor, "n classes"]:
        """The scores [x, 1] @ coefficients."""
        return torch.addmm(coefficients[-1:].T, coefficients[:-1].T, self.x.T).T

    def adjoint(self, values: Float[Tensor, "n classes"]) -> Float[Tensor, "p+1 classes"]:
        """[x, 1]^T @ values."""
        by_class = self.x.new_empty(values.shape[1], self.x.shape[1] + 1)
        torch.mm(values.T, self.x, out=by_class[:, :-1])
        torch.sum(values.T, 1, out=by_class[:, -1])
        return by_class.T

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x), self.x.shape[1] + 1
