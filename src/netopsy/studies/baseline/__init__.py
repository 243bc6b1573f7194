"""How good the network is, whether it is loaded right, and what is wrong with it."""

from netopsy.studies.baseline.baseline import Baseline

__all__ = ["Baseline"]
