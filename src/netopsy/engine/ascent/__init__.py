"""Activation maximisation: the images that excite a unit most, found by climbing its gradient."""

from netopsy.engine.ascent.ascend import Climb, Recipe, ascend
from netopsy.engine.ascent.colours import ColourCovariance, mixing, root
from netopsy.engine.ascent.diversity import likeness
from netopsy.engine.ascent.parametrisation import Fourier, Pixels
from netopsy.engine.ascent.stage import Stage
from netopsy.engine.ascent.target import Target, find_targets
from netopsy.engine.ascent.transforms import draw, move

__all__ = [
    "Climb",
    "ColourCovariance",
    "Fourier",
    "Pixels",
    "Recipe",
    "Stage",
    "Target",
    "ascend",
    "draw",
    "find_targets",
    "likeness",
    "mixing",
    "move",
    "root",
]
