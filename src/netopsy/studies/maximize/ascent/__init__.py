"""Activation maximisation: the images that excite a unit most, found by climbing its gradient."""

from netopsy.studies.maximize.ascent.ascend import AscentSettings, Climb, Stage, ascend, likeness
from netopsy.studies.maximize.ascent.parametrisation import ColourCovariance, Fourier, Pixels, mixing, root
from netopsy.studies.maximize.ascent.target import Target, draw, find_targets, move

__all__ = [
    "AscentSettings",
    "Climb",
    "ColourCovariance",
    "Fourier",
    "Pixels",
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
