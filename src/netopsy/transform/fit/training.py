"""The training set that recipes are fitted on, with what several of them share computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.stats.projection import Projection, fit_projection
from netopsy.transform.steps import Project

SLACK = 1e-3
"""How far from 1 the length of a normalised vector may be."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """x: the training vectors, (n, p) float32, as the recipe's code sees them: of unit length if `normalised`.

    normalised: whether transforms bring vectors to unit length first. source: what the vectors are, kept in transforms.
    """

    x: Float32[Tensor, "n p"]
    normalised: bool = True
    source: str = ""

    def __post_init__(self) -> None:
        n, p = self.x.shape
        if not n or not p:
            raise SettingsError(f"{n} training vectors of {p} values; give at least one of each.")
        lengths = torch.linalg.vector_norm(self.x, dim=1)
        if self.normalised and bool(((lengths - 1).abs() > SLACK).logical_and(lengths != 0).any()):
            raise SettingsError(
                f"the training vectors have lengths of {float(lengths.min()):.3g} to {float(lengths.max()):.3g}; give "
                "unit(x), or TrainingSet(x, normalised=False) for a transform that leaves lengths alone."
            )

    @cached_property
    def projection(self) -> Projection:
        """The principal directions."""
        return fit_projection(self.x)

    @cached_property
    def coordinates(self) -> Float32[Tensor, "n r"]:
        """x along the principal directions, not centred."""
        return self.projection.apply(self.x)

    def directions(
        self, size: int, *, centred: bool = False, mix: Tensor | None = None, name: str = "principal directions"
    ) -> Project:
        """The step to the first `size` directions: about the mean if `centred`, and multiplied by `mix`, (size, q)."""
        components = self.projection.components[:, :size].double()
        components = components if mix is None else components @ mix.to(components)
        offset = -(self.projection.mean @ components) if centred else components.new_zeros(components.shape[1])
        return Project(as_numpy(components), as_numpy(offset), name)


def as_numpy(values: Tensor) -> np.ndarray:
    """A float32 copy in main memory."""
    return np.array(values.detach().to(torch.float32).cpu().numpy(), order="C")
