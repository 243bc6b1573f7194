"""How the units of two networks go together: one pass for all co-moments, arithmetic on them for all the rest."""

from netopsy.engine.pairs.layers import layers_of
from netopsy.engine.pairs.pair import Pair, merged
from netopsy.engine.pairs.passing import co_moments, co_moments_of

__all__ = ["Pair", "co_moments", "co_moments_of", "layers_of", "merged"]
