"""How many activations are zero."""

from netopsy.studies.sparsity.sparsity import Sparsity

__all__ = ["Sparsity"]
