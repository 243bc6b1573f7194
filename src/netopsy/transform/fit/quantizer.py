"""A way to bring vectors down to a number of bits, not fitted yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from netopsy.transform.chain import Transform
from netopsy.transform.coders import Coder
from netopsy.transform.fit.training import TrainingSet
from netopsy.transform.steps import Step, Unit


class Recipe(ABC):
    """method: what recipes of different sizes share, for axes and legends. A subclass is a frozen dataclass.

    bits: that a vector takes; fewer where the training set has fewer directions than the recipe asks for.
    """

    method: ClassVar[str]

    @property
    @abstractmethod
    def bits(self) -> int: ...

    @property
    @abstractmethod
    def label(self) -> str:
        """The recipe in a few words."""

    @abstractmethod
    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        """The steps and the code, fitted, behind the normalisation."""

    def fit(self, x_train: Tensor | TrainingSet, *, seed: int = 0) -> Transform:
        """Fitted on vectors of unit length, (n, p) float32. A `TrainingSet` shares its directions among recipes."""
        train = x_train if isinstance(x_train, TrainingSet) else TrainingSet(x_train)
        front = (Unit(train.x.shape[1]),) if train.normalised else ()
        return Transform((*front, *self.steps(train, seed)), train.source)
