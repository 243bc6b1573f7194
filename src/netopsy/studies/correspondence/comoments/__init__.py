"""How the units of two networks go together: one pass for all co-moments, arithmetic on them for all the rest."""

from netopsy.studies.correspondence.comoments.cross_moments import cross_moments, cross_moments_of
from netopsy.studies.correspondence.comoments.pair import Pair, layers_of, merge

__all__ = ["Pair", "cross_moments", "cross_moments_of", "layers_of", "merge"]
