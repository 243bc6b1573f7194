"""The steps of a transform in front of its codes: real vectors to real vectors, in float64.

Sums are taken in float64, so that a vector's codes do not hang on its neighbours in a batch or on the machine, save
where a value lies within about 1e-16 of a border between two codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from netopsy.errors import TransformError

FLOAT32 = np.ndarray[Any, np.dtype[np.float32]]
FLOAT64 = np.ndarray[Any, np.dtype[np.float64]]


class Step(ABC):
    """Vectors of `inputs` values to vectors of `outputs` values.

    A subclass is a frozen dataclass of arrays, ints and strings, which is what a file holds of it.
    """

    kind: ClassVar[str]
    inputs: int
    outputs: int

    @abstractmethod
    def apply(self, x: FLOAT64) -> FLOAT64:
        """(n, inputs) to (n, outputs)."""

    @abstractmethod
    def describe(self) -> str:
        """The step in a few words."""


@dataclass(frozen=True)
class UnitLength(Step):
    """Each vector divided by its Euclidean length; zeros stay zero."""

    kind: ClassVar[str] = "unit"
    inputs: int

    def __post_init__(self) -> None:
        positive(self, inputs=self.inputs)

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.inputs

    def apply(self, x: FLOAT64) -> FLOAT64:
        # by the greatest value first: the squares of very large or very small ones would leave float64
        largest = np.abs(x).max(1, keepdims=True)
        scaled = x / np.where(largest > 0, largest, 1)
        lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
        return scaled / np.where(lengths > 0, lengths, 1)

    def describe(self) -> str:
        return "unit length"


@dataclass(frozen=True)
class Take(Step):
    """The first `outputs` dimensions."""

    kind: ClassVar[str] = "take"
    inputs: int
    outputs: int

    def __post_init__(self) -> None:
        positive(self, inputs=self.inputs, outputs=self.outputs)
        if self.outputs > self.inputs:
            raise TransformError(
                f"the step 'take' keeps {self.outputs} of {self.inputs} dimensions; keep no more than there are."
            )

    def apply(self, x: FLOAT64) -> FLOAT64:
        return x[:, : self.outputs]

    def describe(self) -> str:
        return f"first {self.outputs} of {self.inputs} dimensions"


@dataclass(frozen=True, eq=False)
class Project(Step):
    """x components + offset: principal directions, whitening, a rotation. components: (p, q); offset: (q,); float32."""

    kind: ClassVar[str] = "project"
    components: FLOAT32
    offset: FLOAT32
    name: str = "directions"

    def __post_init__(self) -> None:
        numbers(self, components=(self.components, 2), offset=(self.offset, 1))
        if self.components.shape[1] != len(self.offset):
            raise TransformError(
                f"the step 'project' has {self.components.shape[1]} directions and {len(self.offset)} offsets; "
                "give one each."
            )

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return self.components.shape[0]

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.components.shape[1]

    @cached_property
    def _wide(self) -> FLOAT64:
        return self.components.astype(np.float64)

    def apply(self, x: FLOAT64) -> FLOAT64:
        return x @ self._wide + self.offset

    def describe(self) -> str:
        return f"{self.outputs} {self.name} of {self.inputs} dimensions"


def positive(step: object, **values: int) -> None:
    """Raise TransformError unless every value is a whole number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TransformError(
                f"the step {kind_of(step)!r} has {name} = {value!r}; give a whole number of at least 1."
            )


def numbers(step: object, **arrays: tuple[Any, int]) -> None:
    """Raise TransformError unless every array is finite float32, not empty, with so many axes."""
    for name, (array, axes) in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != axes or not array.size:
            raise TransformError(
                f"the {name} of the step {kind_of(step)!r} is no float32 array of {axes} axes, or empty; give one."
            )
        if not np.isfinite(array).all():
            raise TransformError(f"the step {kind_of(step)!r} has NaN or infinity in its {name}; fit it again.")


def kind_of(step: object) -> str:
    """The name of a step in files."""
    return str(getattr(step, "kind", type(step).__name__))
