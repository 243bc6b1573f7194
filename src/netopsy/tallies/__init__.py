"""What `observe` can count: one tally a file."""

from netopsy.engine.observe.counting import LABELS, PLACES
from netopsy.engine.observe.tally import Tally
from netopsy.tallies.answers import Answers, AnswersResult
from netopsy.tallies.collect import Collect, Digests
from netopsy.tallies.moments import Buckets, ClassMeans, ClassMeansResult, Histogram, Moments, MomentsResult
from netopsy.tallies.patterns import JointPatterns, JointPatternsResult, Patterns, PatternsResult
from netopsy.tallies.sparsity import ActiveCount, ActiveCountResult, Range, RangeResult, ZeroShare, ZeroShareResult
from netopsy.tallies.top_images import TopImages, TopImagesResult

__all__ = [
    "LABELS",
    "PLACES",
    "ActiveCount",
    "ActiveCountResult",
    "Answers",
    "AnswersResult",
    "Buckets",
    "ClassMeans",
    "ClassMeansResult",
    "Collect",
    "Digests",
    "Histogram",
    "JointPatterns",
    "JointPatternsResult",
    "Moments",
    "MomentsResult",
    "Patterns",
    "PatternsResult",
    "Range",
    "RangeResult",
    "Tally",
    "TopImages",
    "TopImagesResult",
    "ZeroShare",
    "ZeroShareResult",
]
