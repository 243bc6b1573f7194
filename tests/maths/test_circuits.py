"""How many circuits equal a truth table: against all sets of products, and the lecture's own example."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from reference_facets import irredundant_sums, shortest_sum

from netopsy.studies.facets import circuits
from netopsy.studies.facets.circuits import CONFIDENCE, Covers, count_circuits, f1_of, other_inputs
from netopsy.studies.facets.minimise import TruthTable, minimise, minimise_sums


def random_table(inputs: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([1, 0, -1], 2**inputs, p=[0.4, 0.35, 0.25])


def held_out(inputs: int, seed: int) -> TruthTable:
    draw = np.random.default_rng(seed)
    return TruthTable(inputs, draw.integers(0, 6, 2**inputs), draw.integers(0, 6, 2**inputs))


def lecture() -> np.ndarray:
    """F of 'Interpreting Deep Networks': AC' + AB' + BCD' + AD'."""
    return np.array(
        [
            (a and not c) or (a and not b) or (b and c and not d) or (a and not d)
            for a, b, c, d in itertools.product((0, 1), repeat=4)
        ]
    ).astype(int)


def test_the_lectures_example_is_shorter_than_the_lecture_has_it() -> None:
    table = lecture()
    sums = minimise_sums(table)
    assert (
        minimise(table).text("ABCD")
        == "(A AND NOT B) OR (A AND NOT C) OR (B AND C AND NOT D)"  # the lecture's AD' can be left out
    )
    assert sums.text("ABCD") == "(A OR B) AND (A OR C) AND (NOT B OR NOT C OR NOT D)"  # and its A + D'
    assert (sums.cells == table.astype(bool)).all() and (sums.terms, sums.literals) == (3, 7)
    counted = count_circuits(table, TruthTable(4, table, 1 - table))
    assert counted.shortest.number == 1 and counted.minimal.number == len(irredundant_sums(table))


@pytest.mark.parametrize("cells", [*itertools.product((1, 0, -1), repeat=4)][::5])
def test_every_function_of_two_inputs_is_counted(cells: tuple[int, ...]) -> None:
    check(np.array(cells), 0)


@pytest.mark.parametrize("seed", range(12))
def test_circuits_are_those_that_trying_all_sets_of_products_finds(seed: int) -> None:
    check(random_table(3 + seed % 2, seed), seed)


def check(table: np.ndarray, seed: int) -> None:
    inputs = len(table).bit_length() - 1
    counts, every = held_out(inputs, seed), irredundant_sums(table)
    given, counted = minimise(table), count_circuits(table, counts)
    least = min(row[:2] for row in every)
    assert (len(given.products), given.literals) == least == shortest_sum(table)
    assert counted.minimal.exact and counted.minimal.number == len(every)
    assert counted.shortest.exact and counted.shortest.number == sum(row[:2] == least for row in every)

    def f1(cells: np.ndarray) -> float:
        hits, wrong = counts.fired[cells].sum(), counts.rested[cells].sum()
        return 2 * hits / (2 * hits + wrong + counts.fired[~cells].sum())

    scores = [f1(np.array(row[2], bool)) for row in every]
    assert counted.as_good.number == sum(s >= f1(given.cells) - 1e-9 for s in scores)
    assert (counted.lowest, counted.highest) == pytest.approx((min(scores), max(scores)))


@pytest.mark.parametrize("seed", range(6))
def test_a_product_of_sums_is_the_complement_of_a_sum_of_products(seed: int) -> None:
    table = random_table(4, seed)
    sums = minimise_sums(table)
    assert sums.cells[table == 1].all() and not sums.cells[table == 0].any()
    swapped = np.select([table == 1, table == 0], [0, 1], -1)
    assert (sums.terms, sums.literals) == (len(minimise(swapped).products), minimise(swapped).literals)


def test_constant_products_of_sums() -> None:
    assert minimise_sums(np.zeros(4, int)).text("ab") == "NEVER"
    assert minimise_sums(np.ones(4, int)).text("ab") == "ALWAYS"


def test_more_circuits_than_are_listed_are_bounded_from_below(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = np.array([1, 1, 1, 0, 0, 1, 1, 1])  # a cycle of six implicants
    table, counts = random_table(6, 3), held_out(6, 1)
    truth = count_circuits(table, counts)
    assert truth.minimal.exact and truth.minimal.number > 500
    monkeypatch.setattr(circuits, "LISTED", 20)
    bounded = count_circuits(table, counts)
    assert not bounded.minimal.exact and 100 < bounded.minimal.number <= truth.minimal.number
    assert not bounded.as_good.exact and 50 < bounded.as_good.number <= truth.as_good.number
    assert Covers(ring).collect()[1] and len(Covers(ring).collect()[0]) == len(irredundant_sums(ring))
    assert math.isclose(CONFIDENCE, 127 / 128)


def test_descents_are_unbiased() -> None:
    covers = Covers(random_table(5, 1))
    truth, draw = len(covers.collect()[0]), np.random.default_rng(0)
    weights = np.array([covers.descend(draw)[0] for _ in range(3000)])
    assert truth > 4 and abs(weights.mean() - truth) < 4 * weights.std() / len(weights) ** 0.5
    listed = set(covers.collect()[0])
    assert all(cover in listed for weight, cover in (covers.descend(draw) for _ in range(50)) if weight)


def test_other_inputs_are_all_tried_where_they_are_few() -> None:
    draw = np.random.default_rng(0)
    bits = draw.random((200, 4)) < 0.5
    fires = bits[:, 0] & bits[:, 1]
    bits[:, 2] = bits[:, 0]  # a copy: the circuit over it is as good
    tried = other_inputs(bits[:100], fires[:100], bits[100:], fires[100:], [0, 1], 1.0, 0)
    assert (tried.sets, tried.tried, tried.as_good) == (5, 5, 1)
    assert f1_of(TruthTable(1, np.array([0, 3]), np.array([4, 1])))(np.array([False, True])) == pytest.approx(6 / 7)
