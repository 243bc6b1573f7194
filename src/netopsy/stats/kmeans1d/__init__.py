"""One-dimensional k-means: sort once, start from an exact dynamic programme, zoom in, finish with Lloyd.

`kmeans1d(values, k)` clusters once; `SortedValues(values).kmeans(k)` serves many k from one sort.
docs/kmeans1d.md explains the steps.
"""

from netopsy.stats.kmeans1d.codebook import Codebook
from netopsy.stats.kmeans1d.kmeans1d import SortedValues, kmeans1d

__all__ = ["Codebook", "SortedValues", "kmeans1d"]
