"""Samples of every kind: where they come from, how they are read, and how they reach a network."""

from netopsy.samples.load import load_samples
from netopsy.samples.samples import Batch, Samples

__all__ = ["Batch", "Samples", "load_samples"]
