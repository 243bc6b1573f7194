"""Which rows make a smaller set with the classes in the same proportions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

Labels = Int64[np.ndarray, " n"] | Float32[np.ndarray, "n classes"]


def strata(labels: Labels) -> Int64[np.ndarray, " n"]:
    """The stratum of each row: its class, or its rarest label where it may have several, -1 where it has none."""
    if labels.ndim == 1:
        return labels
    held = labels > 0
    frequency = held.sum(axis=0)
    rarest = np.where(held, frequency, len(labels) + 1).argmin(axis=1)
    return np.where(held.any(axis=1), rarest, -1)


def stratified(labels: Labels, count: int, seed: int) -> Int64[np.ndarray, " count"]:
    """`count` rows in rising order, each stratum's share its own share of all rows, rounded down or up.

    Largest remainders get the rows that rounding down leaves over; ties, such as between equal classes when `count` is
    smaller than their number, are drawn by lot. Within a stratum rows are drawn without replacement.
    """
    lot = np.random.default_rng(seed)
    names, member, sizes = np.unique(strata(labels), return_inverse=True, return_counts=True)
    quota = sizes * count  # in units of 1/n, so that remainders are exact
    take, remainder = quota // len(labels), quota % len(labels)
    by_remainder = np.lexsort((lot.random(len(names)), -remainder))
    take[by_remainder[: count - take.sum()]] += 1
    chosen = [lot.permutation(np.flatnonzero(member == s))[: take[s]] for s in range(len(names))]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
