"""Recipes: ways to bring vectors down to a number of bits. `Quantizer.fit(x_train)` gives a transform."""

from netopsy.transform.fit.levels import Bins, Directions, Truncation, Whitened
from netopsy.transform.fit.product import Itq, OptimizedProductQuantizer, ProductQuantizer, SignBits, TransformCoding
from netopsy.transform.fit.training import Quantizer, TrainingSet, parse_size, unit

__all__ = [
    "Bins",
    "Directions",
    "Itq",
    "OptimizedProductQuantizer",
    "ProductQuantizer",
    "Quantizer",
    "SignBits",
    "TrainingSet",
    "TransformCoding",
    "Truncation",
    "Whitened",
    "parse_size",
    "unit",
]
