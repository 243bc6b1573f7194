"""What the study `correspondence` measures; its tables, figures and findings read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from netopsy.stats.matching import Matching
from netopsy.studies.correspondence.comoments.clusters import CoClusters
from netopsy.studies.correspondence.comoments.mutual_information import Information
from netopsy.studies.correspondence.comoments.pair import Pair
from netopsy.studies.correspondence.regression import LassoPath, LeastSquares

Names = tuple[str, str]

NETWORKS, SHUFFLED, UNTRAINED = "networks", "shuffled", "untrained"
"""What a figure is of: the two networks, or one of the controls."""


@dataclass(frozen=True)
class LayerComparison:
    """What one pair of layers gives, of the two networks or of a control (`of`); `draw` counts untrained networks."""

    of: str
    draw: int
    pair: Pair
    semi: Matching
    bipartite: Matching
    least: LeastSquares
    lasso: LassoPath
    cka: float
    svcca: float
    pwcca: float
    procrustes: float
    information: Information | None = None


@dataclass
class Comparison:
    """All that was counted.

    networks: the names of both. places: of the nodes of each, 1 where a unit has one value an image. order: the
    compared layers of each, in order of execution. how: how the pairs were chosen. compared: by (layer_a, layer_b),
    the networks first, then the controls. map: linear CKA of every layer with every other; None where a pair was asked
    for or the layers are too wide. missing_control: why there is no untrained control. hidden: the nodes of
    the first network that are not its output.
    """

    networks: Names
    images: int
    places: tuple[dict[str, str], dict[str, str]]
    order: tuple[list[str], list[str]]
    decays: tuple[float, ...]
    how: str
    compared: dict[Names, list[LayerComparison]] = field(default_factory=dict)
    clusters: dict[Names, CoClusters] = field(default_factory=dict)
    map: pl.DataFrame | None = None
    missing_control: str | None = None
    hidden: frozenset[str] = frozenset()


def grid_text(grid: Sequence[int]) -> str:
    """`8x8`; `1` of no places."""
    return "x".join(map(str, grid)) or "1"
