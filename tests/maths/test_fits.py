"""Fitted densities against the textbook's formulas and scipy's own fits."""

from __future__ import annotations

from math import log, pi, sqrt

import numpy as np
import pytest
from scipy import special, stats

from netopsy.stats.describe import describe
from netopsy.stats.fits import Density, Fit, fit_all

LAWS = (stats.norm(0.3, 2.0), stats.laplace(-1.0, 0.5), stats.skewnorm(6, 0.1, 0.3), stats.skewnorm(-1.5))


def log_density(density: Density, x: np.ndarray) -> np.ndarray:
    """The formulas of the three densities, written out."""
    z = (x - density.location) / density.scale
    if density.label == "Laplace":
        return -np.abs(z) - log(2 * density.scale)
    normal = -0.5 * z * z - log(density.scale * sqrt(2 * pi))
    return normal if density.shape is None else normal + log(2) + special.log_ndtr(density.shape * z)


def fits_of(values: np.ndarray) -> list[Fit]:
    return fit_all(np.sort(values), describe(np.sort(values)))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("count", [501, 20_000])
def test_the_likelihood_is_the_mean_of_the_written_formula(law: stats.rv_continuous, count: int) -> None:
    values = law.rvs(size=count, random_state=2).astype(np.float32)
    for fit, free in zip(fits_of(values), (2, 2, 3), strict=True):
        want = log_density(fit.density, values.astype(float)).mean()
        assert fit.log_likelihood == pytest.approx(want, rel=1e-9)
        assert fit.bic == pytest.approx(free * log(count) / count - 2 * want, rel=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_the_fits_are_at_least_as_likely_as_scipys(law: stats.rv_continuous) -> None:
    values = law.rvs(size=2_000, random_state=3)
    normal, laplace, skew = (fit.density for fit in fits_of(values))
    assert (normal.location, normal.scale) == pytest.approx(stats.norm.fit(values), rel=1e-9)
    assert (laplace.location, laplace.scale) == pytest.approx(stats.laplace.fit(values), rel=1e-9)
    likelihood = log_density(skew, values).mean()
    assert likelihood >= stats.skewnorm(*stats.skewnorm.fit(values)).logpdf(values).mean() - 1e-9


@pytest.mark.parametrize("shape", [-100.0, -3.0, 0.0, 0.5, 6.0])
def test_owens_t_gives_scipys_distribution_function(shape: float) -> None:
    density = Density("skew normal", 0.2, 1.5, shape)
    at = np.linspace(-6, 6, 25)
    assert density.below(at) == pytest.approx(density.law.cdf(at), abs=1e-9)


def test_no_density_is_fitted_to_fewer_than_eight_distinct_values() -> None:
    assert fits_of(np.tile(np.arange(7.0), 10)) == [] and fits_of(np.ones(50)) == []
