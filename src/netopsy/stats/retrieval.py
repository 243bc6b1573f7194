"""Scores of a classifier that gives one number an image and class, and nearest neighbours before and after a stress.

Tied scores are treated in one stated way throughout, and neither score depends on the order of the images.
Distances are Euclidean between the vectors as given, over every pair (no index that approximates). They are summed in
float64, and distances that agree to 2**-40 of the largest possible one are ties: the lower index in the database comes
first. A stress that makes all vectors equal therefore finds the first k of the database.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from netopsy.errors import SettingsError

How = Literal["area", "voc2007"]
AT_ONCE = 2**24  # scores sorted at a time: some 500 MB with everything that goes with them
_RECALLS = 11  # 0, 0.1, ... 1


class MeanPrecision(NamedTuple):
    """mean: of the average precisions of `counted` classes. left_out: classes without a relevant image, not in it."""

    mean: float
    counted: int
    left_out: int


def accuracy(
    scores: Float[Tensor, "n classes"] | Float[np.ndarray, "n classes"],
    labels: Int64[Tensor, " n"] | Int64[np.ndarray, " n"],
) -> float:
    """Expected share (0..1) of images whose highest score is their own class's, ties broken by an even lot.

    An image whose highest score is shared by m classes counts 1/m if its own is among them, so that constant scores
    give exactly 1/classes, whichever class comes first. The sum is exact, rounded once.
    Errors: SettingsError for scores with NaN, or labels that do not fit them.
    """
    values = _check(scores)
    classes = _class_indices(labels, values)
    own_score = values.gather(1, classes[:, None])
    ties = (values == own_score).sum(1)
    top = (values <= own_score).all(1)
    counts = torch.bincount(ties[top], minlength=2).tolist()
    credit = sum((Fraction(count, m) for m, count in enumerate(counts) if count), Fraction())
    return float(credit / len(values))


def average_precision(
    scores: Float[Tensor, "n classes"] | Float[np.ndarray, "n classes"],
    relevant: Tensor | np.ndarray,
    how: How = "area",
) -> Float64[np.ndarray, " classes"]:
    """Average precision of each class, 0..1: how far its images come before the others by descending score.

    relevant: rows of 0 and 1 (n, classes), any type, or class indices (n,) where an image has one class.
    how: `area` sums precision times the step in recall over the distinct scores (no interpolation), as scikit-learn's
    average_precision_score does. `voc2007` takes the mean over recalls 0, 0.1, ... 1 of the highest precision at that
    recall or above (Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010).
    Images of equal score enter together, at the precision that all of them have: constant scores give the share of
    relevant images either way. Whether a recall of tp/positives reaches i/10 is decided in whole numbers.
    A class without a relevant image has no average precision: NaN.
    Errors: SettingsError for scores with NaN, other `relevant` than 0 and 1 or of another shape, an unknown `how`.
    """
    if how not in ("area", "voc2007"):
        raise SettingsError(f"average precision '{how}' is unknown; give area or voc2007.")
    values = _check(scores)
    hits = _rows(relevant, values)
    block = max(1, AT_ONCE // len(values))
    rule = _area if how == "area" else _eleven_points
    parts = [
        rule(*_sort(columns.T.contiguous(), hit_columns.T.contiguous()))
        for columns, hit_columns in zip(values.split(block, 1), hits.split(block, 1), strict=True)
    ]
    result: Float64[np.ndarray, " classes"] = torch.cat(parts).cpu().numpy()
    return result


def mean_average_precision(
    scores: Float[Tensor, "n classes"] | Float[np.ndarray, "n classes"],
    relevant: Tensor | np.ndarray,
    how: How = "area",
) -> MeanPrecision:
    """The mean of `average_precision` over the classes that have a relevant image, and how many those are.

    Where none has, the mean is NaN and `counted` 0.
    """
    precisions = average_precision(scores, relevant, how)
    defined = ~np.isnan(precisions)
    mean = float(precisions[defined].mean()) if defined.any() else float("nan")
    return MeanPrecision(mean, int(defined.sum()), int((~defined).sum()))


def as_tensor(values: Tensor | np.ndarray) -> Tensor:
    """`values` as a tensor; an array that may not be written, such as a mapped file, is copied."""
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        values = np.array(values)
    return torch.as_tensor(values).detach()


def _sort(scores: Tensor, hits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By descending score along the last axis: relevant images so far (int64), whether a tie ends, precision there."""
    ordered, order = scores.sort(dim=1, descending=True)
    relevant_so_far = hits.gather(1, order).cumsum(1)
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    ranks = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=torch.float64)
    return relevant_so_far, ends, relevant_so_far / ranks


def _area(relevant_so_far: Tensor, ends: Tensor, precision: Tensor) -> Tensor:
    """Sum over the ends of ties of (recall there - recall at the end before) x precision."""
    reached = torch.where(ends, relevant_so_far, 0).cummax(1).values
    steps = relevant_so_far.clone()
    steps[:, 1:] -= reached[:, :-1]
    return torch.where(ends, steps * precision, 0).sum(1) / relevant_so_far[:, -1]


def _eleven_points(relevant_so_far: Tensor, ends: Tensor, precision: Tensor) -> Tensor:
    """Mean of the highest precision from each of the eleven recalls on."""
    best = torch.where(ends, precision, 0).flip(1).cummax(1).values.flip(1)
    positives = relevant_so_far[:, -1:]
    tenths = torch.arange(_RECALLS, device=relevant_so_far.device)
    needed = (tenths * positives + 9) // 10  # the fewest relevant images that make a recall of i/10
    first = torch.searchsorted(relevant_so_far, needed).clamp_(max=relevant_so_far.shape[1] - 1)
    points = best.gather(1, first).mean(1)
    return torch.where(positives[:, 0] > 0, points, torch.nan)


def _check(scores: Tensor | np.ndarray) -> Tensor:
    """Scores (n, classes) in a type that sorts everywhere."""
    values = as_tensor(scores)
    if values.ndim != 2 or not values.numel():
        raise SettingsError(f"scores of shape {tuple(values.shape)} are no table; give one row an image (n, classes).")
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float() if values.is_floating_point() else values.double()
    if bool(values.isnan().any()):
        rows = int(values.isnan().any(1).sum())
        raise SettingsError(f"{rows:,} of {len(values):,} rows of scores hold NaN; leave them out, or mend the fit.")
    return values


def _class_indices(labels: Tensor | np.ndarray, scores: Tensor) -> Tensor:
    indices = as_tensor(labels).to(scores.device)
    n, classes = scores.shape
    if indices.shape != (n,) or indices.is_floating_point() or indices.dtype == torch.bool:
        raise SettingsError(
            f"labels are {indices.dtype} of shape {tuple(indices.shape)} for {n:,} rows of scores; give {n:,} class "
            "indices, or use mean average precision where an image may have several classes."
        )
    indices = indices.long()
    if not 0 <= int(indices.min()) <= int(indices.max()) < classes:
        raise SettingsError(
            f"labels run from {int(indices.min())} to {int(indices.max())} and scores have {classes} classes; "
            f"give 0 to {classes - 1}."
        )
    return indices


def _rows(relevant: Tensor | np.ndarray, scores: Tensor) -> Tensor:
    """`relevant` as int64 rows of 0 and 1."""
    rows = as_tensor(relevant).to(scores.device)
    if rows.ndim == 1:
        return torch.nn.functional.one_hot(_class_indices(rows, scores), scores.shape[1])
    if rows.shape != scores.shape or not bool(((rows == 0) | (rows == 1)).all()):
        raise SettingsError(
            f"relevance is {rows.dtype} of shape {tuple(rows.shape)} for scores of shape {tuple(scores.shape)}; "
            "give 0 and 1 in the same shape."
        )
    return rows.long()


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
    _check_search(queries, database, k)
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


def _check_search(queries: Vectors, database: Vectors, k: int) -> None:
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
