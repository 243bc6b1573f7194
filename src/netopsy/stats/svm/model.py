"""One-vs-rest linear support vector machines, and how far they can be from the best ones: a certificate in float64.

Results lie class by class in memory: a product with few columns is then a third quicker.

The loss is seen from its dual variables: of a margin m = y f the squared hinge C max(0, 1 - m)^2 and the hinge
C max(0, 1 - m) (LIBLINEAR's L2-loss and L1-loss; Fan et al., 2008) are both the largest value of
a (1 - m) - (a - start)^2 / (2 slope) over a dual variable a, 0 <= a <= top: the squared hinge with start 0, slope 2 C,
no top; the hinge with top C in the limit of steps that each start where the last one ended (the augmented Lagrangian
method; Rockafellar, 1976). The certificate is the primal objective against the dual one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from netopsy.errors import SettingsError


@dataclass(frozen=True)
class Svm:
    """A linear machine a class.

    weights: (p, classes). bias: (classes,); penalised like a weight, as in LIBLINEAR.
    objective: 1/2 |w|^2 + 1/2 bias^2 + the sum of the losses, per class. gap: the most that it can lie above the
    optimum, relative to it; computed in float64. steps: products with the features. refits: classes whose float32
    solution was not good enough, so that they were solved again from nothing in float64.
    """

    weights: Float[Tensor, "p classes"]
    bias: Float[Tensor, " classes"]
    objective: Float64[Tensor, " classes"]
    gap: Float64[Tensor, " classes"]
    steps: int
    refits: int = 0

    def scores(self, x: Float[Tensor, "n p"]) -> Float[Tensor, "n classes"]:
        """x @ weights + bias, in the precision of x."""
        return torch.addmm(self.bias.to(x.dtype), x, self.weights.to(x.dtype))

    @property
    def coefficients(self) -> Float[Tensor, "p+1 classes"]:
        """The weights with the bias below them."""
        return torch.cat([self.weights, self.bias[None]])


def signs(labels: Tensor | np.ndarray, classes: int) -> Float[Tensor, "n classes"]:
    """+1 where a sample has the class, else -1. labels: int64 (n,), or (n, classes) of 0 and 1."""
    tensor = torch.as_tensor(labels)
    if tensor.ndim == 2:
        return torch.where(tensor > 0, 1.0, -1.0)
    return torch.where(tensor[:, None] == torch.arange(classes, device=tensor.device), 1.0, -1.0)


@dataclass(frozen=True)
class DesignMatrix:
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


LOSSES = ("squared_hinge", "hinge")

MarginValues = Float[Tensor, "n classes"]


@dataclass(frozen=True)
class Piece:
    """One smooth, piecewise quadratic loss; its terms are the module's.

    start: one number a sample and class, or one for all.
    """

    slope: float
    top: float = math.inf
    start: MarginValues | float = 0.0

    def dual(self, margins: MarginValues) -> MarginValues:
        """The dual variables at these margins: minus the derivative of the loss."""
        return (self.slope * (1 - margins)).add_(self.start).clamp_(0, self.top)

    def inside(self, dual: MarginValues) -> Bool[Tensor, "n classes"]:
        """Where the loss is curved: the support vectors, or of the hinge those at the margin."""
        return dual > 0 if math.isinf(self.top) else (dual > 0) & (dual < self.top)

    def value(self, margins: MarginValues, dual: MarginValues) -> MarginValues:
        """The loss of each sample, given its margin and its `dual`."""
        return dual * (1 - margins) - (dual - self.start).square_() / (2 * self.slope)

    def take(self, classes: Tensor) -> Piece:
        """The loss of some of the classes."""
        start = self.start if isinstance(self.start, float) else self.start[:, classes]
        return Piece(self.slope, self.top, start)


def check_loss(loss: str, c: float) -> None:
    """Raise SettingsError for an unknown loss or a C that is no positive number."""
    if loss not in LOSSES:
        raise SettingsError(f"no loss '{loss}'; give {' or '.join(LOSSES)}.")
    if not 0 < c < math.inf:
        raise SettingsError(f"c {c} must be a positive number: what an error weighs against the size of the weights.")


ROWS = 256
"""Samples turned into float64 at a time: they stay in the processor's cache between the two products."""


class SvmCertificate(NamedTuple):
    """Per class: the primal objective, and its distance to the dual one relative to it; the optimum lies between."""

    objective: Float64[Tensor, " classes"]
    gap: Float64[Tensor, " classes"]


def certify(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n classes"],
    coefficients: Float[Tensor, "p+1 classes"],
    c: float,
    dual: Float[Tensor, "n classes"] | None = None,
) -> SvmCertificate:
    """The duality gap of `coefficients` (weights above, bias last), from one pass over x.

    dual: None for the squared hinge, whose dual variables 2 C max(0, 1 - y f) make the gap half the squared gradient;
    for the hinge dual variables in 0..C.
    """
    w = coefficients.double()
    size = 0.5 * w.square().sum(0)
    loss, linear = torch.zeros_like(size), torch.zeros_like(size)
    image = torch.zeros_like(w.T).contiguous()
    for first in range(0, len(x), ROWS):
        rows = slice(first, first + ROWS)
        part, sign = x[rows].double(), y[rows].double()
        excess = (1 - sign * torch.addmm(w[-1:].T, w[:-1].T, part.T).T).clamp_min_(0)
        if dual is None:
            a = 2 * c * excess
            loss += c * excess.square().sum(0)
        else:
            a = dual[rows].double().clamp(0, c)
            loss += c * excess.sum(0)
            linear += a.sum(0)
        a *= sign
        image[:, :-1].addmm_(a.T, part)
        image[:, -1] += a.sum(0)
    primal = size + loss
    dual_value = linear - 0.5 * image.square().sum(1)
    gap = 0.5 * (w - image.T).square().sum(0) if dual is None else primal - dual_value
    return SvmCertificate(primal, gap / primal)
