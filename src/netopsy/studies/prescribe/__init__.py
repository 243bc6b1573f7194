"""How small the network can be stored within a budget of accuracy."""

from netopsy.studies.prescribe.prescribe import Prescribe

__all__ = ["Prescribe"]
