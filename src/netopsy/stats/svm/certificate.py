"""How far a solution can be from the best one: primal objective against dual objective, in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

ROWS = 256
"""Samples turned into float64 at a time: they stay in the processor's cache between the two products."""


class Certificate(NamedTuple):
    """Per class: the primal objective, and its distance to the dual one relative to it; the optimum lies between."""

    objective: Float64[Tensor, " classes"]
    gap: Float64[Tensor, " classes"]


def certify(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n classes"],
    coefficients: Float[Tensor, "p+1 classes"],
    c: float,
    dual: Float[Tensor, "n classes"] | None = None,
) -> Certificate:
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
    return Certificate(primal, gap / primal)
