"""Each unit of one layer as a linear combination of the units of another, from the co-moments alone."""

from netopsy.studies.correspondence.regression.regression import (
    LassoPath,
    LeastSquares,
    explained,
    lasso_path,
    least_squares,
)

__all__ = ["LassoPath", "LeastSquares", "explained", "lasso_path", "least_squares"]
