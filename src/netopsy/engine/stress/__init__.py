"""Stress for feature vectors: fewer dimensions, fewer levels, fewer bits (Carvalho et al. 2016), and its rivals."""

from netopsy.engine.stress.bits import bits_per_vector, compression, erase_bits, level_bits
from netopsy.engine.stress.dimensions import drop_order, step_sizes
from netopsy.engine.stress.projection import Projection, fit_projection
from netopsy.engine.stress.quantization import Ranges, fit_ranges, quantize
from netopsy.engine.stress.training import TrainingSet
from netopsy.engine.stress.unit import unit

__all__ = [
    "Projection",
    "Ranges",
    "TrainingSet",
    "bits_per_vector",
    "compression",
    "drop_order",
    "erase_bits",
    "fit_projection",
    "fit_ranges",
    "level_bits",
    "quantize",
    "step_sizes",
    "unit",
]
