"""Feature vectors: of any node of a network, or given by the user."""

from netopsy.features.extract import default_node, dimensions, extract, shared_classes, split_rows, split_samples
from netopsy.features.features import Features, blocks_of
from netopsy.features.load import load_features

__all__ = [
    "Features",
    "blocks_of",
    "default_node",
    "dimensions",
    "extract",
    "load_features",
    "shared_classes",
    "split_rows",
    "split_samples",
]
