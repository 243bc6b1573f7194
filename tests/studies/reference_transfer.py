"""The study `transfer` written out slowly: numpy and scikit-learn's LinearSVC (LIBLINEAR), from the paper's words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

Rows = NDArray[np.float64]


def unit(x: NDArray[np.float32]) -> Rows:
    """Rows of length 1."""
    rows: Rows = x.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def decisions(train: Rows, y: NDArray[np.int64], test: Rows, c: float = 1.0, loss: str = "squared_hinge") -> Rows:
    """Scores (m, classes) of one linear SVM a class; y: classes (n,) or 0/1 rows."""
    targets = y if y.ndim == 2 else np.eye(y.max() + 1)[y]
    columns = []
    for k in range(targets.shape[1]):
        svm = LinearSVC(C=c, loss=loss, tol=1e-8, max_iter=1_000_000, dual=True, random_state=0)
        columns.append(svm.fit(train, targets[:, k] > 0).decision_function(test))
    return np.stack(columns, 1)


def accuracy(scores: Rows, y: NDArray[np.int64]) -> float:
    return float((scores.argmax(1) == y).mean())


def mean_precision(scores: Rows, y: NDArray[np.float32]) -> float:
    return float(np.mean([average_precision_score(y[:, k], scores[:, k]) for k in range(y.shape[1])]))


def mean_precision_11(scores: Rows, y: NDArray[np.float32]) -> float:
    """VOC 2007: the mean over recalls 0, 0.1, ... 1 of the highest precision at that recall or more."""
    each = []
    for k in range(y.shape[1]):
        ranked = y[np.argsort(-scores[:, k]), k]
        precision, hits = np.cumsum(ranked) / np.arange(1, len(ranked) + 1), np.cumsum(ranked)
        each.append(np.mean([precision[10 * hits >= i * ranked.sum()].max() for i in range(11)]))
    return float(np.mean(each))


def projected(train: Rows, test: Rows) -> tuple[Rows, Rows]:
    """Uncentred coordinates along the eigenvectors of the training covariance, those of most variance first."""
    values, vectors = np.linalg.eigh(np.cov(train.T))
    order = np.argsort(-values)
    return train @ vectors[:, order], test @ vectors[:, order]


def nearest_centres(train: Rows, test: Rows, h: int, per_dimension: bool) -> tuple[Rows, Rows]:
    """Every number as the closest of the h bin centres between the training set's least and greatest."""
    out = []
    for x in (train, test):
        y = np.empty_like(x)
        for t in range(x.shape[1]):
            seen = train[:, t] if per_dimension else train
            step = (seen.max() - seen.min()) / h
            centres = np.array([seen.min() + step / 2 + step * i for i in range(h)])
            y[:, t] = centres[np.abs(x[:, t, None] - centres).argmin(1)]
        out.append(y)
    return out[0], out[1]


def erased(x: Rows, removed: int) -> Rows:
    """The rightmost bits of the 32-bit pattern written as 0, by way of the text of the pattern."""
    patterns = [f"{bits:032b}" for bits in x.astype(np.float32).ravel().view(np.uint32)]
    masked = [int(bits[: 32 - removed] + "0" * removed, 2) for bits in patterns]
    return np.array(masked, np.uint32).view(np.float32).reshape(x.shape).astype(np.float64)
