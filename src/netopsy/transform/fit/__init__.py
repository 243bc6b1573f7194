"""Recipes: ways to bring vectors down to a number of bits. `Recipe.fit(x_train)` gives a transform."""

from netopsy.transform.fit.alternatives import candidates
from netopsy.transform.fit.binary import Itq, SignBits, TransformCoding
from netopsy.transform.fit.levels import Bins, Directions, Truncation, Whitened
from netopsy.transform.fit.product import OptimizedProduct, ProductCodes
from netopsy.transform.fit.quantizer import Recipe, parse_size
from netopsy.transform.fit.training import TrainingSet, unit

__all__ = [
    "Bins",
    "Directions",
    "Itq",
    "OptimizedProduct",
    "ProductCodes",
    "Recipe",
    "SignBits",
    "TrainingSet",
    "TransformCoding",
    "Truncation",
    "Whitened",
    "candidates",
    "parse_size",
    "unit",
]
