"""A way to bring vectors down to a number of bits, not fitted yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from netopsy.engine.stress.training import TrainingSet
from netopsy.transform import Transform


class Recipe(ABC):
    """method: what recipes of different sizes share, for axes and legends. A subclass is a frozen dataclass."""

    method: ClassVar[str]

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits a vector takes; fewer where the training set has fewer directions than the recipe asks for."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The recipe in a few words."""

    @abstractmethod
    def fit(self, x_train: Tensor | TrainingSet, *, seed: int = 0) -> Transform:
        """Fitted on vectors of unit length, (n, p) float32. A `TrainingSet` shares its directions among recipes."""
