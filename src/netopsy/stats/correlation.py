"""The correlation of the channels of two activations, batch by batch."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor


class Correlation:
    """Pearson's correlation between the channels of two activations, over images and positions, batch by batch.

    axis: where the channels are: 1 of (batch, channel, *space), -1 of (batch, token, feature).
    A channel that is constant correlates 0 with all.
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis, self.count = axis, 0
        self.shift: tuple[Tensor, Tensor] | None = None
        self.sums: tuple[Tensor, ...] = ()

    def update(self, a: Float64[Tensor, "batch *rest"], b: Float64[Tensor, "batch *rest"]) -> None:
        """Add the activations of some images, on one device."""
        x, y = (v.detach().movedim(self.axis, -1).flatten(0, -2).double() for v in (a, b))
        if self.shift is None:  # sums of squares about a value near the mean keep their digits
            self.shift = (x.mean(0), y.mean(0))
        x, y = x - self.shift[0], y - self.shift[1]
        parts = (x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), x.T @ y)
        self.sums = tuple(map(torch.add, self.sums, parts)) if self.sums else parts
        self.count += len(x)

    def result(self) -> Float64[np.ndarray, "first second"]:
        """The correlation of each channel of the first with each of the second, -1 to 1."""
        sx, sy, sxx, syy, sxy = (part.cpu().numpy() for part in self.sums)
        n = self.count
        vx, vy = sxx / n - (sx / n) ** 2, syy / n - (sy / n) ** 2
        flat_x, flat_y = vx <= 1e-12 * np.maximum(sxx / n, 1e-300), vy <= 1e-12 * np.maximum(syy / n, 1e-300)
        scale = np.sqrt(np.where(flat_x, 1.0, vx))[:, None] * np.sqrt(np.where(flat_y, 1.0, vy))[None]
        correlation = (sxy / n - np.outer(sx / n, sy / n)) / scale
        correlation[flat_x, :] = 0.0
        correlation[:, flat_y] = 0.0
        return np.clip(correlation, -1.0, 1.0)
