"""Confidence intervals of shares and of differences between paired shares, in closed form."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def wilson(hits: float, n: int, z: float = Z95) -> tuple[float, float]:
    """(low, high) of a share of `hits` in `n`.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n <= 0:
        return 0.0, 1.0
    share = hits / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n))
    return (0.0 if hits <= 0 else max(0.0, low)), (1.0 if hits >= n else min(1.0, high))


def paired_difference(losses: float, gains: float, n: int, z: float = Z95) -> tuple[float, float]:
    """(low, high) of (losses - gains) / n: the drop between two shares measured on the same `n` samples.

    losses: samples right before and wrong after; gains: wrong before and right after.
    Source: Bonett & Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", Journal of Educational and Behavioral Statistics 37 (2012): one loss and one gain more, then Wald.
    """
    p, q = (losses + 1) / (n + 2), (gains + 1) / (n + 2)
    spread = z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return max(-1.0, p - q - spread), min(1.0, p - q + spread)
