"""Training, the fourth way to run a network: whole or in part, with masks, with shared weights, against a teacher."""

from netopsy.engine.train.activations import ActivationSet
from netopsy.engine.train.fit import History, fit
from netopsy.engine.train.recipe import Recipe

__all__ = ["ActivationSet", "History", "Recipe", "fit"]
