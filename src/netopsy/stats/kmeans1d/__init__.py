"""One-dimensional k-means: sort once, start from an exact dynamic programme, zoom in, finish with Lloyd.

`kmeans1d(values, k)` clusters once; `SortedValues(values).kmeans(k)` serves many k from one sort.
docs/kmeans1d.md explains the steps.
"""

from netopsy.stats.kmeans1d.clustering import SortedValues, kmeans1d
from netopsy.stats.kmeans1d.codebook import Codebook

__all__ = ["Codebook", "SortedValues", "kmeans1d"]
