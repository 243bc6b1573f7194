"""What a source of features holds, as it is read and before it is checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netopsy.features.parts import Rows


@dataclass(frozen=True)
class Raw:
    """Vectors `x` and labels `y`; `classes` that the source names, and rows to train on and to test on, if it parts."""

    name: str
    x: NDArray[np.generic]
    y: NDArray[np.generic]
    classes: tuple[str, ...] | None = None
    parts: tuple[Rows, Rows] | None = None
