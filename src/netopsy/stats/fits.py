"""Densities fitted to values by maximum likelihood, and how well they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi, sqrt

import numpy as np
from jaxtyping import Float, Float64
from scipy import optimize, special

from netopsy.stats.describe import Description, chunks

Values = Float64[np.ndarray, " n"]

SAMPLE = 8192
"""Size of the quantile sample that stands for more values than that: its distribution is within 1/SAMPLE of theirs."""
FEWEST = 8


@dataclass(frozen=True)
class Normal:
    """The normal density with mean `location` and standard deviation `scale`."""

    location: float
    scale: float
    shape: None = None
    label = "normal"
    free = 2

    def log_density(self, x: Values) -> Values:
        """Natural logarithm of the density at x."""
        z = (x - self.location) / self.scale
        return -0.5 * z * z - log(self.scale * sqrt(2 * pi))

    def below(self, x: Values) -> Values:
        """Probability of a value up to x."""
        return special.ndtr((x - self.location) / self.scale)


@dataclass(frozen=True)
class Laplace:
    """The Laplace density with median `location` and mean absolute deviation `scale`."""

    location: float
    scale: float
    shape: None = None
    label = "Laplace"
    free = 2

    def log_density(self, x: Values) -> Values:
        """Natural logarithm of the density at x."""
        return -np.abs(x - self.location) / self.scale - log(2 * self.scale)

    def below(self, x: Values) -> Values:
        """Probability of a value up to x."""
        z = (x - self.location) / self.scale
        tail = 0.5 * np.exp(-np.abs(z))
        return np.where(z < 0, tail, 1 - tail)


@dataclass(frozen=True)
class SkewNormal:
    """The skew-normal density 2/scale phi(z) Phi(shape z), z = (x - location)/scale (Azzalini, 1985)."""

    location: float
    scale: float
    shape: float
    label = "skew normal"
    free = 3

    def log_density(self, x: Values) -> Values:
        """Natural logarithm of the density at x."""
        z = (x - self.location) / self.scale
        return -0.5 * z * z - log(self.scale * sqrt(pi / 2)) + special.log_ndtr(self.shape * z)

    def below(self, x: Values) -> Values:
        """Probability of a value up to x."""
        z = (x - self.location) / self.scale
        return np.clip(special.ndtr(z) - 2 * special.owens_t(z, self.shape), 0, 1)


Density = Normal | Laplace | SkewNormal


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
    densities: Sequence[Density] = (
        Normal(about.mean, about.std),
        fit_laplace(ascending),
        fit_skew_normal(sample, about),
    )
    return [_measure(density, ascending, sample) for density in densities]


def quantile_sample(ascending: Float[np.ndarray, " n"], size: int = SAMPLE) -> Values:
    """All of the `ascending` values, or where there are more than `size` those in the middle of `size` equal parts."""
    if len(ascending) <= size:
        return ascending.astype(np.float64)
    ranks = (np.arange(size) + 0.5) / size * len(ascending)
    return ascending[ranks.astype(np.int64)].astype(np.float64)


def fit_laplace(ascending: Float[np.ndarray, " n"]) -> Laplace:
    """The Laplace density of largest likelihood: median and mean absolute deviation from it."""
    n = len(ascending)
    median = (float(ascending[(n - 1) // 2]) + float(ascending[n // 2])) / 2
    return Laplace(median, sum(float(np.abs(part - median).sum()) for part in chunks(ascending)) / n)


def fit_skew_normal(sample: Values, about: Description) -> SkewNormal:
    """The skew-normal density of largest likelihood on `sample`, from the moments of the whole.

    Starts at the density that has the sample's mean, standard deviation and (as far as the family goes) skewness; at
    shape 0 the likelihood is stationary, so the start keeps away from it. The shape stays within +-100, where the
    density is a half-normal.
    """
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
    how = {"ftol": 1e-12, "maxiter": 300}
    best = optimize.minimize(loss, start, jac=True, method="SLSQP", bounds=bounds, options=how)
    location, log_scale, shape = best.x
    return SkewNormal(float(about.mean + about.std * location), about.std * float(np.exp(log_scale)), float(shape))


def _moment_start(skewness: float) -> tuple[float, float, float]:
    """Location, log scale and shape of the standardised skew normal with this skewness, kept within its range."""
    sign, strength = (1.0 if skewness >= 0 else -1.0), min(max(abs(skewness), 0.01), 0.95)
    power = strength ** (2 / 3)
    delta = sign * sqrt(pi / 2 * power / (power + ((4 - pi) / 2) ** (2 / 3)))
    scale = 1 / sqrt(1 - 2 * delta * delta / pi)
    return -scale * delta * sqrt(2 / pi), log(scale), delta / sqrt(1 - delta * delta)


def _measure(density: Density, ascending: Float[np.ndarray, " n"], sample: Values) -> Fit:
    n = len(ascending)
    likelihood = sum(float(density.log_density(part).sum()) for part in chunks(ascending)) / n
    return Fit(density, likelihood, density.free * log(n) / n - 2 * likelihood, ks_distance(density, ascending, sample))


def ks_distance(density: Density, ascending: Float[np.ndarray, " n"], at: Values) -> float:
    """Largest distance, at the points `at`, between the density's distribution function and that of all values."""
    points = at.astype(ascending.dtype)
    model = density.below(at)
    before = np.searchsorted(ascending, points, side="left") / len(ascending)
    upto = np.searchsorted(ascending, points, side="right") / len(ascending)
    return float(max(np.abs(upto - model).max(), np.abs(model - before).max()))
