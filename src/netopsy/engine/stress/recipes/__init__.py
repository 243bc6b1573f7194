"""Recipes: ways to bring vectors down to a number of bits. `Recipe.fit(x_train)` gives a transform."""

from netopsy.engine.stress.recipes.binary import Itq, SignBits
from netopsy.engine.stress.recipes.candidates import candidates
from netopsy.engine.stress.recipes.levels import Bins, Directions, Truncation, Whitened
from netopsy.engine.stress.recipes.product import OptimizedProduct, ProductCodes
from netopsy.engine.stress.recipes.recipe import Recipe
from netopsy.engine.stress.recipes.sizes import parse_size
from netopsy.engine.stress.recipes.transform_coding import TransformCoding

__all__ = [
    "Bins",
    "Directions",
    "Itq",
    "OptimizedProduct",
    "ProductCodes",
    "Recipe",
    "SignBits",
    "TransformCoding",
    "Truncation",
    "Whitened",
    "candidates",
    "parse_size",
]
