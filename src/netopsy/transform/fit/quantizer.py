"""A way to bring vectors down to a number of bits, not fitted yet, and sizes as the command line writes them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.transform.chain import Transform
from netopsy.transform.coders import Coder
from netopsy.transform.fit.training import TrainingSet
from netopsy.transform.steps import Step, UnitLength

_UNITS = {"b": 1, "bit": 1, "bits": 1, "B": 8, "byte": 8, "bytes": 8}
_PREFIXES = {"": 1, "k": 1000, "K": 1000, "Ki": 1024, "M": 1000**2, "Mi": 1024**2}


def parse_size(text: str) -> int:
    """The bits of a size: "64B" (bytes), "512b" (bits), "1kB" (8000 bits), "1KiB" (8192), "64 bytes", "0.5kB".

    Raises SettingsError for anything else, and where the size is not a whole number of at least 1 bit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(k|K|Ki|M|Mi)?(b|B|bits?|bytes?)\s*", str(text))
    if not match:
        raise SettingsError(f"no size {text!r}; give bytes as 64B, 1kB or 1KiB, or bits as 512b.")
    number, prefix, unit = match.groups()
    bits = float(number) * _PREFIXES[prefix or ""] * _UNITS[unit]
    if bits < 1 or bits != int(bits):
        raise SettingsError(f"the size {text!r} is {bits:g} bits; give a whole number of at least 1 bit.")
    return int(bits)


class Quantizer(ABC):
    """method: what quantizers of different sizes share, for axes and legends. A subclass is a frozen dataclass.

    bits: that a vector takes; fewer where the training set has fewer directions than the quantizer asks for.
    """

    method: ClassVar[str]

    @property
    @abstractmethod
    def bits(self) -> int: ...

    @property
    @abstractmethod
    def label(self) -> str:
        """The quantizer in a few words."""

    @abstractmethod
    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        """The steps and the code, fitted, behind the normalisation."""

    def fit(self, x_train: Tensor | TrainingSet, *, seed: int = 0) -> Transform:
        """Fitted on vectors of unit length, (n, p) float32. A `TrainingSet` shares its directions among quantizers."""
        train = x_train if isinstance(x_train, TrainingSet) else TrainingSet(x_train)
        front = (UnitLength(train.x.shape[1]),) if train.normalised else ()
        return Transform((*front, *self.steps(train, seed)), train.source)
