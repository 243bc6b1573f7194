"""What `observe` can count: one tally a file."""

from netopsy.engine.tallies.active import Active, ActiveResult
from netopsy.engine.tallies.class_means import ClassMeans, ClassMeansResult
from netopsy.engine.tallies.collect import Collect
from netopsy.engine.tallies.histogram import Buckets, Histogram
from netopsy.engine.tallies.moments import Moments, MomentsResult
from netopsy.engine.tallies.patterns import Patterns, PatternsResult
from netopsy.engine.tallies.sparsity import Sparsity, SparsityResult
from netopsy.engine.tallies.strongest import Strongest, StrongestImages

__all__ = [
    "Active",
    "ActiveResult",
    "Buckets",
    "ClassMeans",
    "ClassMeansResult",
    "Collect",
    "Histogram",
    "Moments",
    "MomentsResult",
    "Patterns",
    "PatternsResult",
    "Sparsity",
    "SparsityResult",
    "Strongest",
    "StrongestImages",
]
