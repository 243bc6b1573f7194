"""Nearest neighbours before and after a stress: how many of the true ones are still found.

Distances are Euclidean between the vectors as given, over every pair (no index that approximates). They are summed in
float64, and distances that agree to 2**-40 of the largest possible one are ties: the lower index in the database comes
first. A stress that makes all vectors equal therefore finds the first k of the database.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.stats.average_precision import as_tensor

MEMORY = 256 * 2**20  # bytes that distances may take at a time
_COLUMNS = 512  # dimensions turned to float64 at a time
_RESOLUTION = 40  # bits of a distance that count

Vectors = Float[Tensor, "n p"] | Float[np.ndarray, "n p"]
Neighbours = Int64[Tensor, "queries k"]


def draw_queries(n: int, queries: int = 1000, seed: int = 0) -> Int64[np.ndarray, " queries"]:
    """`queries` of n rows drawn without replacement, in rising order; all n where there are no more.

    Errors: SettingsError for fewer than one.
    """
    if queries < 1 or n < 1:
        raise SettingsError(f"{queries} queries of {n:,} vectors cannot be drawn; give at least 1.")
    if queries >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, queries, replace=False))


def nearest(queries: Vectors, database: Vectors, k: int, *, memory: int = MEMORY) -> Neighbours:
    """Rows of the `database` nearest to each query, nearest first, (queries, k).

    memory: bytes for distances; queries are taken in parts that fit, and the result does not depend on it.
    Errors: SettingsError for vectors of different length, with NaN or infinity, or a k above the database's size.
    """
    _check(queries, database, k)
    n, device = len(database), queries.device if isinstance(queries, Tensor) else torch.device("cpu")
    rows = max(1, memory // (24 * n))  # distances, keys and what the choice of the least takes, 8 bytes each
    neighbours = torch.empty((len(queries), k), dtype=torch.int64, device=device)
    for first in range(0, len(queries), rows):
        part = slice(first, first + rows)
        squares = torch.zeros((len(queries[part]), n), dtype=torch.float64, device=device)
        lengths = squares.new_zeros(len(squares)), squares.new_zeros(n)
        for start in range(0, queries.shape[1], _COLUMNS):
            columns = slice(start, start + _COLUMNS)
            _add(squares, lengths, _block(queries, part, columns, device), _block(database, ..., columns, device))
        neighbours[part] = _least(squares, lengths, k)
    return neighbours


def recall(approximate: Neighbours, exact: Neighbours, k: int) -> float:
    """Share (0..1) of the k nearest, `exact`, among the k `approximate` ones: recall@k, mean over the queries."""
    for name, rows in (("approximate", approximate), ("exact", exact)):
        if rows.ndim != 2 or len(rows) != len(approximate) or not 1 <= k <= rows.shape[1]:
            raise SettingsError(
                f"recall@{k} of neighbours `{name}` of shape {tuple(rows.shape)}; give one row of {k} or more a query."
            )
    among = (approximate[:, :k, None] == exact[:, None, :k].to(approximate.device)).any(1)
    return float(among.sum()) / among.numel()


def same_class(
    neighbours: Neighbours,
    query_labels: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    k: int = 1,
) -> float:
    """Share (0..1) of the first k neighbours that are of their query's class: precision@k, mean over the queries.

    labels: of the database, int64 (n,); or 0 and 1 (n, classes), where one label in common is enough.
    """
    query_classes, classes = (as_tensor(values).to(neighbours.device) for values in (query_labels, labels))
    if query_classes.ndim != classes.ndim or len(query_classes) != len(neighbours) or not 1 <= k <= neighbours.shape[1]:
        raise SettingsError(
            f"labels of shape {tuple(query_classes.shape)} and {tuple(classes.shape)} do not fit "
            f"{len(neighbours):,} queries with {neighbours.shape[1]} neighbours each and k = {k}; give the labels of "
            "the queries and of the database."
        )
    near = classes[neighbours[:, :k]]
    agree = near == query_classes[:, None] if classes.ndim == 1 else ((near > 0) & (query_classes[:, None] > 0)).any(2)
    return float(agree.sum()) / agree.numel()


def _block(vectors: Vectors, rows: slice | object, columns: slice, device: torch.device) -> Tensor:
    """Some dimensions of some vectors in float64."""
    part = vectors[rows, columns]  # type: ignore[index]
    if isinstance(part, Tensor):
        return part.detach().to(device, torch.float64)
    return torch.from_numpy(np.array(part, np.float64)).to(device)


def _add(squares: Tensor, lengths: tuple[Tensor, Tensor], queries: Tensor, database: Tensor) -> None:
    """Add to squared distances, and to squared lengths, what these dimensions contribute."""
    lengths_here = queries.square().sum(1), database.square().sum(1)
    squares.addmm_(queries, database.T, alpha=-2).add_(lengths_here[0][:, None]).add_(lengths_here[1])
    for total, part in zip(lengths, lengths_here, strict=True):
        total += part


def _least(squares: Tensor, lengths: tuple[Tensor, Tensor], k: int) -> Tensor:
    """Indices of the k least by (distance, index): both packed in one whole number, so that no two are equal."""
    bits = max(1, squares.shape[1] - 1).bit_length()
    largest = (lengths[0].sqrt() + lengths[1].max().sqrt()).square()
    unit = torch.where(largest > 0, largest, 1) / 2.0 ** min(_RESOLUTION, 62 - bits)
    keys = (squares / unit[:, None]).round_().clamp_(min=0).long()
    keys.mul_(1 << bits).add_(torch.arange(keys.shape[1], device=keys.device))
    return keys.topk(k, largest=False, sorted=True).values & ((1 << bits) - 1)


def _check(queries: Vectors, database: Vectors, k: int) -> None:
    shapes = f"queries of shape {tuple(queries.shape)} and a database of shape {tuple(database.shape)}"
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1] or not math.prod(queries.shape):
        raise SettingsError(f"{shapes} cannot be compared; give vectors of the same length, one a row.")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(database):
        raise SettingsError(f"k = {k!r} neighbours of {len(database):,} vectors; give 1 to {len(database):,}.")
    for vectors in (queries, database):
        for start in range(0, len(vectors), 4096):
            part = vectors[start : start + 4096]
            if not bool(part.isfinite().all() if isinstance(part, Tensor) else np.isfinite(part).all()):
                raise SettingsError("vectors hold NaN or infinity and have no nearest neighbours; leave them out.")
