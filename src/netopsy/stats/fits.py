"""Densities fitted to values by maximum likelihood, and how well they fit."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from scipy import optimize, special, stats

from netopsy.stats.describe import Description, chunks

Values = Float64[np.ndarray, " n"]

SAMPLE = 8192
"""Size of the quantile sample that stands for more values than that: its distribution is within 1/SAMPLE of theirs."""
FEWEST = 8


LAWS = {"normal": stats.norm, "Laplace": stats.laplace, "skew normal": stats.skewnorm}


@dataclass(frozen=True)
class Density:
    """A density of `scipy.stats`, by its name in `LAWS`.

    location, scale: mean and standard deviation of a normal; median and mean absolute deviation from it of a Laplace;
    of a skew normal 2/scale phi(z) Phi(shape z), z = (x - location)/scale (Azzalini, 1985), which alone has a shape.
    """

    label: str
    location: float
    scale: float
    shape: float | None = None

    @property
    def law(self) -> Any:
        """The frozen distribution of scipy."""
        return LAWS[self.label](*([] if self.shape is None else [self.shape]), loc=self.location, scale=self.scale)

    def below(self, x: Values) -> Values:
        """Probability of a value up to x."""
        if self.shape is None:
            return self.law.cdf(x)
        # by Owen's T: scipy integrates the tail of a skewed law point by point, a thousand times slower
        z = (x - self.location) / self.scale
        return np.clip(special.ndtr(z) - 2 * special.owens_t(z, self.shape), 0, 1)


@dataclass(frozen=True)
class Fit:
    """A fitted density and its goodness.

    log_likelihood: mean over the values, in nats a value. bic: Bayesian information criterion, lower is better.
    ks: largest distance between the density's distribution function and the values' (Kolmogorov-Smirnov), 0 to 1;
        exact up to 8,192 values, beyond that within 0.00013.
    """

    density: Density
    log_likelihood: float
    bic: float
    ks: float


def fit_all(ascending: Float[np.ndarray, " n"], about: Description) -> list[Fit]:
    """Normal, Laplace and skew-normal fits of the `ascending` values; none for fewer than 8 distinct values."""
    sample = quantile_sample(ascending)
    if about.std <= 0 or len(np.unique(sample)) < FEWEST:
        return []
    densities = (Density("normal", about.mean, about.std), fit_laplace(ascending), fit_skew_normal(sample, about))
    return [_measure(density, ascending, sample) for density in densities]


def quantile_sample(ascending: Float[np.ndarray, " n"], size: int = SAMPLE) -> Values:
    """All of the `ascending` values, or where there are more than `size` those in the middle of `size` equal parts."""
    if len(ascending) <= size:
        return ascending.astype(np.float64)
    ranks = (np.arange(size) + 0.5) / size * len(ascending)
    return ascending[ranks.astype(np.int64)].astype(np.float64)


def fit_laplace(ascending: Float[np.ndarray, " n"]) -> Density:
    """The Laplace density of largest likelihood: median and mean absolute deviation from it."""
    # the `fit` of scipy sorts again, holds all values twice and sums float32 in float32
    n = len(ascending)
    median = (float(ascending[(n - 1) // 2]) + float(ascending[n // 2])) / 2
    return Density("Laplace", median, sum(float(np.abs(part - median).sum()) for part in chunks(ascending)) / n)


def fit_skew_normal(sample: Values, about: Description) -> Density:
    """The skew-normal density of largest likelihood on `sample`, from the moments of the whole.

    Starts at the density that has the sample's mean, standard deviation and (as far as the family goes) skewness; at
    shape 0 the likelihood is stationary, so the start keeps away from it. The shape stays within +-100, where the
    density is a half-normal.
    """
    # by the gradient: ten times as fast as the `fit` of scipy, which has none and stops at 1e-5
    x = (sample - about.mean) / about.std

    def loss(parameters: Values) -> tuple[float, Values]:
        location, log_scale, shape = parameters
        scale = np.exp(log_scale)
        z = (x - location) / scale
        tail = special.log_ndtr(shape * z)
        ratio = np.exp(-0.5 * (shape * z) ** 2 - 0.5 * log(2 * pi) - tail)
        value = float(np.mean(0.5 * z * z - tail)) + log_scale
        slope = z - shape * ratio
        gradient = (-np.mean(slope) / scale, 1 - np.mean(z * slope), -np.mean(z * ratio))
        return value, np.array(gradient)

    bounds = [(-8.0, 8.0), (log(0.05), log(8.0)), (-100.0, 100.0)]
    start = _moment_start(about.skewness)
    options = {"ftol": 1e-12, "maxiter": 300}
    best = optimize.minimize(loss, start, jac=True, method="SLSQP", bounds=bounds, options=options)
    location, log_scale, shape = best.x
    place, spread = about.mean + about.std * location, about.std * np.exp(log_scale)
    return Density("skew normal", float(place), float(spread), float(shape))


def _moment_start(skewness: float) -> tuple[float, float, float]:
    """Location, log scale and shape of the standardised skew normal with this skewness, kept within its range."""
    sign, strength = (1.0 if skewness >= 0 else -1.0), min(max(abs(skewness), 0.01), 0.95)
    power = strength ** (2 / 3)
    delta = sign * sqrt(pi / 2 * power / (power + ((4 - pi) / 2) ** (2 / 3)))
    scale = 1 / sqrt(1 - 2 * delta * delta / pi)
    return -scale * delta * sqrt(2 / pi), log(scale), delta / sqrt(1 - delta * delta)


def _measure(density: Density, ascending: Float[np.ndarray, " n"], sample: Values) -> Fit:
    n = len(ascending)
    if density.shape is None:  # the largest likelihood of these two is minus the entropy: no pass over the values
        free, likelihood = 2, -float(density.law.entropy())
    else:
        free, likelihood = 3, sum(float(density.law.logpdf(part).sum()) for part in chunks(ascending)) / n
    return Fit(density, likelihood, free * log(n) / n - 2 * likelihood, ks_distance(density, ascending, sample))


def ks_distance(density: Density, ascending: Float[np.ndarray, " n"], at: Values) -> float:
    """Largest distance, at the points `at`, between the density's distribution function and that of all values."""
    points = at.astype(ascending.dtype)
    model = density.below(at)
    before = np.searchsorted(ascending, points, side="left") / len(ascending)
    upto = np.searchsorted(ascending, points, side="right") / len(ascending)
    return float(max(np.abs(upto - model).max(), np.abs(model - before).max()))
