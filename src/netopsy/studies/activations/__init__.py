"""Which features answer, layer by layer, and which patterns they make."""

from netopsy.studies.activations.activations import Activations

__all__ = ["Activations"]
