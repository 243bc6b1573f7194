"""Slow, independent versions of the mathematics behind the study `facets`."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import linprog


def dip_by_programming(values: np.ndarray) -> float:
    """Hartigan's dip by its definition: for every place of the mode, a linear programme over distribution functions.

    Left of the mode the function is convex, right of it concave; at the mode it may jump. It is linear between the
    values, so its largest distance to the sample's step function is met at their two ends.
    """
    x, counts = np.unique(values, return_counts=True)
    top = np.cumsum(counts) / counts.sum()
    bottom = top - counts / counts.sum()
    return min(_programme(x, top, bottom, mode) for mode in range(len(x)))


def _programme(x: np.ndarray, top: np.ndarray, bottom: np.ndarray, mode: int) -> float:
    n = len(x)
    size = n + 2  # values up to the mode, values from the mode on, the distance
    rows: list[np.ndarray] = []
    limits: list[float] = []

    def below(entries: dict[int, float], limit: float) -> None:
        row = np.zeros(size)
        for column, factor in entries.items():
            row[column] += factor
        rows.append(row)
        limits.append(limit)

    def near(column: int, value: float) -> None:
        below({column: 1, size - 1: -1}, value)
        below({column: -1, size - 1: -1}, -value)

    for i in range(mode + 1):
        near(i, bottom[i])
        if i < mode:
            near(i, top[i])
            below({i: 1, i + 1: -1}, 0)
    for i in range(mode, n):
        near(i + 1, top[i])
        if i > mode:
            near(i + 1, bottom[i])
        if i < n - 1:
            below({i + 1: 1, i + 2: -1}, 0)
    below({mode: 1, mode + 1: -1}, 0)
    for i in range(1, n - 1):
        before, after = 1 / (x[i] - x[i - 1]), 1 / (x[i + 1] - x[i])
        if i < mode:
            below({i: before + after, i - 1: -before, i + 1: -after}, 0)
        if i > mode:
            below({i + 1: -before - after, i: before, i + 2: after}, 0)
    goal = np.zeros(size)
    goal[-1] = 1
    solved = linprog(goal, A_ub=np.array(rows), b_ub=limits, bounds=[(None, None)] * (size - 1) + [(0, 1)])
    return solved.fun if solved.status == 0 else 1.0


def shortest_sum(table: np.ndarray) -> tuple[int, int]:
    """(products, literals) of the shortest sum of products, by trying all of them, fewest products first."""
    inputs = len(table).bit_length() - 1
    cells = list(itertools.product((0, 1), repeat=inputs))
    products = []
    for literals in itertools.product((0, 1, None), repeat=inputs):
        true = np.array([all(v is None or v == c for v, c in zip(literals, cell, strict=True)) for cell in cells])
        if not (true & (table == 0)).any():
            products.append((true, sum(v is not None for v in literals)))
    for count in range(len(table) + 1):
        lengths = [
            sum(length for _, length in chosen)
            for chosen in itertools.combinations(products, count)
            if np.logical_or.reduce([true for true, _ in chosen] or [np.zeros(len(table), bool)])[table == 1].all()
        ]
        if lengths:
            return count, min(lengths)
    raise AssertionError


def irredundant_sums(table: np.ndarray) -> list[tuple[int, int, tuple[bool, ...]]]:
    """(products, literals, value in each cell) of all sums of products that equal the table and from which neither a
    product nor a literal can be left out: of all sets of products, tried one by one.
    """
    inputs = len(table).bit_length() - 1
    cells = list(itertools.product((0, 1), repeat=inputs))

    def true_of(literals: tuple[int | None, ...]) -> np.ndarray:
        return np.array([all(v is None or v == c for v, c in zip(literals, cell, strict=True)) for cell in cells])

    def allowed(literals: tuple[int | None, ...]) -> bool:
        return not (true_of(literals) & (table == 0)).any()

    def shorter(literals: tuple[int | None, ...]) -> list[tuple[int | None, ...]]:
        return [(*literals[:i], None, *literals[i + 1 :]) for i, v in enumerate(literals) if v is not None]

    primes = [
        p
        for p in itertools.product((0, 1, None), repeat=inputs)
        if allowed(p) and not any(allowed(s) for s in shorter(p)) and (true_of(p) & (table == 1)).any()
    ]

    def covers(some: tuple[tuple[int | None, ...], ...]) -> bool:
        return bool(np.logical_or.reduce([true_of(p) for p in some] or [np.zeros(len(cells), bool)])[table == 1].all())

    return [
        (
            len(some),
            sum(v is not None for p in some for v in p),
            tuple(np.logical_or.reduce([true_of(p) for p in some] or [np.zeros(len(cells), bool)]).tolist()),
        )
        for count in range(len(primes) + 1)
        for some in itertools.combinations(primes, count)
        if covers(some) and not any(covers((*some[:i], *some[i + 1 :])) for i in range(count))
    ]
