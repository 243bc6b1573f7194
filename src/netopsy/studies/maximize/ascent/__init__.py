"""Activation maximisation: the images that excite a unit most, found by climbing its gradient."""

from netopsy.studies.maximize.ascent.ascend import Climb, Recipe, ascend
from netopsy.studies.maximize.ascent.colours import ColourCovariance, mixing, root
from netopsy.studies.maximize.ascent.diversity import likeness
from netopsy.studies.maximize.ascent.parametrisation import Fourier, Pixels
from netopsy.studies.maximize.ascent.stage import Stage
from netopsy.studies.maximize.ascent.target import Target, find_targets
from netopsy.studies.maximize.ascent.transforms import draw, move

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
