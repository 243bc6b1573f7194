"""Minus the log prior of a network's weights, as a penalty of its training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.weight_priors.laws import standard_density

FLOOR = 1e-3  # of the mean variance, that a direction has at least: no weight is ruled out


@dataclass(frozen=True)
class Term:
    """The law of one parameter: family and shape (see `Law`), mean and std; along a basis, its directions (values,
    values) and the variances along them, of weights of standard deviation 1."""

    name: str
    family: str
    shape: float | None
    mean: float
    std: float
    directions: Tensor | None = None
    variances: Tensor | None = None

    def __call__(self, values: Tensor) -> Float[Tensor, ""]:
        """Minus the log density of all the parameter's values, in nats."""
        numbers = (values.float() - self.mean) / self.std
        logs = torch.tensor(values.numel() * math.log(self.std), device=values.device)
        if self.directions is not None and self.variances is not None:
            spreads = self.variances.clamp_min(FLOOR).sqrt().to(values.device)
            numbers = numbers.reshape(-1, len(spreads)) @ self.directions.to(values.device) / spreads
            logs = logs + len(numbers) * spreads.log().sum()
        return logs - log_density(numbers, self.family, self.shape).sum()


def log_density(values: Tensor, family: str, shape: float | None) -> Tensor:
    """The log density of a family of mean 0 and standard deviation 1, of each value."""
    if family == "Laplace":
        return -math.sqrt(2) * values.abs() - 0.5 * math.log(2)
    density = standard_density(family, shape)
    z = (values - density.location) / density.scale
    normal = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - math.log(density.scale)
    if density.shape is None:
        return normal
    return normal + math.log(2) + torch.special.log_ndtr(density.shape * z)


@dataclass(frozen=True)
class LogPrior:
    """`strength` times minus the log prior of a network's parameters, in nats: a penalty for `fit(penalty=...)`."""

    terms: tuple[Term, ...]
    strength: float = 1.0

    def __call__(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Of all parameters by name; those without a term do not count."""
        return self.strength * torch.stack([term(parameters[term.name]) for term in self.terms]).sum()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the penalty depends on."""
        state = hashlib.sha256(f"{self.strength}".encode())
        for term in self.terms:
            state.update(f"{term.name} {term.family} {term.shape} {term.mean} {term.std}".encode())
            for array in (term.directions, term.variances):
                state.update(b"" if array is None else array.numpy().tobytes())
        return state.hexdigest()

    def __repr__(self) -> str:
        return f"LogPrior(of {len(self.terms)} parameters, strength {self.strength:g})"
