"""The loss of a support vector machine, seen from its dual variables.

Of a margin m = y f the squared hinge C max(0, 1 - m)^2 and the hinge C max(0, 1 - m) (LIBLINEAR's L2-loss and L1-loss;
Fan et al., 2008) are both the largest value of a (1 - m) - (a - start)^2 / (2 slope) over a dual variable a, 0 <= a <=
top: the squared hinge with start 0, slope 2 C and no top; the hinge with top C in the limit of steps that each start
where the last one ended (the augmented Lagrangian method; Rockafellar, 1976).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from netopsy.errors import SettingsError

LOSSES = ("squared_hinge", "hinge")

Margins = Float[Tensor, "n classes"]


@dataclass(frozen=True)
class Piece:
    """One smooth, piecewise quadratic loss; its terms are the module's.

    start: one number a sample and class, or one for all.
    """

    slope: float
    top: float = math.inf
    start: Margins | float = 0.0

    def dual(self, margins: Margins) -> Margins:
        """The dual variables at these margins: minus the derivative of the loss."""
        return (self.slope * (1 - margins)).add_(self.start).clamp_(0, self.top)

    def inside(self, dual: Margins) -> Bool[Tensor, "n classes"]:
        """Where the loss is curved: the support vectors, or of the hinge those at the margin."""
        return dual > 0 if math.isinf(self.top) else (dual > 0) & (dual < self.top)

    def value(self, margins: Margins, dual: Margins) -> Margins:
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
