"""Each unit of one layer as a linear combination of the units of another, from the co-moments alone."""

from netopsy.studies.correspondence.regression.lasso import LassoPath, lasso_path
from netopsy.studies.correspondence.regression.least_squares import LeastSquares, explained, least_squares

__all__ = ["LassoPath", "LeastSquares", "explained", "lasso_path", "least_squares"]
