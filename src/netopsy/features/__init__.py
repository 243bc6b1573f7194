"""Feature vectors: of any node of a network, or given by the user."""

from netopsy.features.extract import default_node, dimensions, extract, part_rows, part_samples, shared_classes
from netopsy.features.features import Features, blocks_of
from netopsy.features.load import load_features

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
