"""Nearest neighbours against faiss and exact fractions; ties and parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_ranking import neighbours

from netopsy.errors import SettingsError
from netopsy.stats.retrieval import draw_queries, nearest, recall, same_class


def vectors(n: int, p: int, seed: int, levels: int | None = None) -> np.ndarray:
    """Random vectors, of so many distinct values a dimension if given."""
    x = np.random.default_rng(seed).normal(size=(n, p))
    return (np.round(x * levels / 4) if levels else x).astype(np.float32)


@pytest.mark.parametrize("p", [3, 64, 1100])
def test_neighbours_are_those_of_faiss(p: int) -> None:
    faiss = pytest.importorskip("faiss")
    queries, database = vectors(40, p, 0), vectors(900, p, 1)
    index = faiss.IndexFlatL2(p)
    index.add(database)
    _, expected = index.search(queries, 10)
    np.testing.assert_array_equal(nearest(torch.from_numpy(queries), torch.from_numpy(database), 10), expected)


@pytest.mark.parametrize("levels", [None, 2, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_neighbours_are_exact_and_ties_go_to_the_lower_index(levels: int | None, dtype: type) -> None:
    queries, database = vectors(12, 5, 0, levels).astype(dtype), vectors(150, 5, 1, levels).astype(dtype)
    neighbour_rows = nearest(queries, database, 20)
    assert neighbour_rows.tolist() == [neighbours(query, database, 20) for query in queries]


def test_duplicates_come_in_order_wherever_they_lie() -> None:
    once = vectors(257, 129, 3)
    database = np.concatenate([once, once[::-1], once])
    neighbour_rows = nearest(once[:31], database, 3)
    assert neighbour_rows.tolist() == [[i, 513 - i, 514 + i] for i in range(31)]


def test_parts_of_the_queries_change_nothing() -> None:
    queries, database = torch.from_numpy(vectors(50, 8, 0, 3)), torch.from_numpy(vectors(300, 8, 1, 3))
    whole = nearest(queries, database, 7)
    for memory in (1, 24 * 300 * 7, 24 * 300 * 49):
        assert torch.equal(nearest(queries, database, 7, memory=memory), whole)


def test_recall_is_the_overlap_written_out() -> None:
    queries, database = vectors(30, 20, 0), vectors(400, 20, 1)
    exact = nearest(queries, database, 10)
    stressed = nearest(np.round(queries), np.round(database), 10)
    for k in (1, 3, 10):
        pairs = zip(exact[:, :k].tolist(), stressed[:, :k].tolist(), strict=True)
        expected = np.mean([len(set(a) & set(b)) / k for a, b in pairs])
        assert recall(stressed, exact, k) == pytest.approx(expected, rel=1e-12)
        assert 0 < expected < 1
    assert recall(nearest(queries * 2, database * 2, 10), exact, 10) == 1


def test_equal_vectors_find_the_first_of_the_database() -> None:
    neighbour_rows = nearest(np.zeros((4, 6), np.float32), np.zeros((50, 6), np.float32), 5)
    assert neighbour_rows.tolist() == [[0, 1, 2, 3, 4]] * 4
    exact = torch.tensor([[0, 1, 2, 9, 8]] * 4)
    assert recall(neighbour_rows, exact, 5) == 0.6


def test_same_class_is_the_nearest_neighbour_classifier() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    lot = np.random.default_rng(0)
    labels, query_labels = lot.integers(0, 3, 500), lot.integers(0, 3, 80)
    database = vectors(500, 6, 1) + 1.5 * np.eye(6, dtype=np.float32)[labels]
    queries = vectors(80, 6, 2) + 1.5 * np.eye(6, dtype=np.float32)[query_labels]
    neighbour_rows = nearest(queries, database, 5)
    one = KNeighborsClassifier(1).fit(database, labels)
    assert same_class(neighbour_rows, query_labels, labels) == pytest.approx(one.score(queries, query_labels))
    five = KNeighborsClassifier(5).fit(database, labels).predict_proba(queries)
    assert same_class(neighbour_rows, query_labels, labels, 5) == pytest.approx(
        five[np.arange(80), query_labels].mean()
    )
    rows = np.eye(3, dtype=np.float32)
    assert same_class(neighbour_rows, rows[query_labels], rows[labels], 5) == same_class(
        neighbour_rows, query_labels, labels, 5
    )


def test_one_label_in_common_is_enough() -> None:
    neighbour_rows = torch.tensor([[0, 1], [1, 2]])
    labels = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert same_class(neighbour_rows, np.array([[0, 1, 1], [1, 0, 1]]), labels, 2) == 0.75
    assert same_class(neighbour_rows, np.array([[0, 1, 1], [1, 0, 0]]), labels, 1) == 0.5


def test_queries_are_drawn_by_seed() -> None:
    rows = draw_queries(500, 60, seed=3)
    assert len(set(rows.tolist())) == 60 and (np.diff(rows) > 0).all() and rows.max() < 500
    np.testing.assert_array_equal(rows, draw_queries(500, 60, seed=3))
    assert not np.array_equal(rows, draw_queries(500, 60, seed=4))
    np.testing.assert_array_equal(draw_queries(7), np.arange(7))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest(np.zeros((2, 3)), np.zeros((5, 4)), 1), "same length"),
        (lambda: nearest(np.zeros((2, 3)), np.zeros((5, 3)), 6), "give 1 to 5"),
        (lambda: nearest(np.zeros((2, 3)), np.zeros((5, 3)), 0), "give 1 to 5"),
        (lambda: nearest(np.full((2, 3), np.nan), np.zeros((5, 3)), 1), "NaN"),
        (lambda: nearest(np.zeros((2, 3)), np.full((5, 3), np.inf), 1), "infinity"),
        (lambda: recall(torch.zeros(2, 3), torch.zeros(2, 2), 3), "exact"),
        (lambda: same_class(torch.zeros(2, 3).long(), np.zeros(3), np.zeros(5)), "labels"),
        (lambda: draw_queries(5, 0), "at least 1"),
    ],
)
def test_mistakes_are_said(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match=message):
        call()
