"""Slow, independent scores: the VOC devkit's rule, accuracy over every way to break ties, neighbours one by one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def curve(scores: np.ndarray, relevant: np.ndarray) -> list[tuple[Fraction, Fraction]]:
    """(recall, precision) at each distinct score from the highest down, as exact fractions."""
    positives = int(relevant.sum())
    points = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        hits = int(relevant[chosen].sum())
        points.append((Fraction(hits, positives), Fraction(hits, int(chosen.sum()))))
    return points


def eleven_points(scores: np.ndarray, relevant: np.ndarray) -> float:
    """VOCevaluation of the 2007 devkit: for t = 0:0.1:1, p = max(prec(rec >= t)), ap = ap + p / 11."""
    total = Fraction()
    points = curve(scores, relevant)
    for tenth in range(11):
        reached = [precision for recall, precision in points if recall >= Fraction(tenth, 10)]
        total += max(reached, default=Fraction()) / 11
    return float(total)


def expected_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the images of the share of their top classes that are their own."""
    total = Fraction()
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        top = [index for index, score in enumerate(row) if score == max(row)]
        total += Fraction(top.count(label), len(top))
    return float(total / len(labels))


def neighbours(query: np.ndarray, database: np.ndarray, k: int) -> list[int]:
    """The k nearest rows of the database to one query by (distance, index), differences summed exactly."""

    def squared(row: np.ndarray) -> Fraction:
        return sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(query, row, strict=True))

    return sorted(range(len(database)), key=lambda index: (squared(database[index]), index))[:k]
