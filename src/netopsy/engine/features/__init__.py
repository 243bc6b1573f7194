"""Feature vectors: of any node of a network, or given by the user."""

from netopsy.engine.features.extract import default_node, dimensions, extract, shared_classes
from netopsy.engine.features.features import Features, blocks_of
from netopsy.engine.features.load import load_features
from netopsy.engine.features.parts import part_rows, part_samples

__all__ = [
    "Features",
    "blocks_of",
    "default_node",
    "dimensions",
    "extract",
    "load_features",
    "part_rows",
    "part_samples",
    "shared_classes",
]
