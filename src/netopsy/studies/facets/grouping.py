"""The facets of one unit: its strong stimuli grouped by what drove them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from sklearn.metrics import silhouette_samples

from netopsy.stats.clustering import Division, divide


@dataclass(frozen=True)
class Facet:
    """One pattern that makes a unit fire.

    rows: its stimuli, strongest first. silhouette: their mean, -1..1; NaN where there is one facet only.
    inputs: numbers of its most decisive input channels, first the most decisive. pushes: the part of the unit's
    positive drive that each brings, on average. elsewhere: the same over the stimuli of the other facets; 0 if none.
    """

    rows: Int64[np.ndarray, " stimuli"]
    silhouette: float
    inputs: tuple[int, ...]
    pushes: tuple[float, ...]
    elsewhere: tuple[float, ...]


@dataclass(frozen=True)
class Facets:
    """The facets of a unit, the largest first, and the tests that found them."""

    parts: tuple[Facet, ...]
    division: Division


def group(
    shares: Float32[np.ndarray, "stimuli input"], *, smallest: int, most: int, level: float, named: int, seed: int
) -> Facets:
    """Group the stimuli of a unit by what each input channel added to it.

    smallest, most, level: as in `divide`. named: decisive inputs of a facet.
    """
    vectors = patterns(shares)
    division = divide(vectors, smallest=smallest, most=most, level=level, seed=seed)
    labels = division.labels
    silhouettes = silhouette_samples(vectors, labels) if division.groups > 1 else np.full(len(labels), np.nan)
    push = np.maximum(shares.astype(np.float64), 0)
    push /= np.maximum(push.sum(1, keepdims=True), 1e-300)
    parts = []
    for k in range(division.groups):
        own = labels == k
        here = push[own].mean(0)
        there = push[~own].mean(0) if not own.all() else np.zeros_like(here)
        # what this facet has and the others lack
        order = np.argsort(there - here, kind="stable")[:named]
        chosen = [int(i) for i in order if here[i] > there[i]]
        parts.append(
            Facet(
                np.flatnonzero(own),
                float(silhouettes[own].mean()),
                tuple(chosen),
                tuple(float(here[i]) for i in chosen),
                tuple(float(there[i]) for i in chosen),
            )
        )
    return Facets(tuple(parts), division)


def patterns(shares: Float32[np.ndarray, "stimuli input"]) -> Float64[np.ndarray, "stimuli input"]:
    """The shares of each stimulus at length 1, so that strength plays no part, then every input channel standardised.

    Without the second step a few strong channels, such as a shortcut's, hide how the others differ.
    """
    values = shares.astype(np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300)
    centred = values - values.mean(0)
    spread = values.std(0)
    # a channel that hardly varies is not blown up
    return centred / (spread + 1e-6 * max(float(values.std()), 1e-300))
