"""Boolean functions: truth tables, exact minimisation, Karnaugh maps, thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from reference_facets import shortest_sum
from sympy import Or, symbols
from sympy.logic import SOPform

from netopsy.errors import SettingsError
from netopsy.studies.facets.account import choose_decisive, gray_code, karnaugh_map, refine_cuts, threshold
from netopsy.studies.facets.minimise import Expression, ProductTerm, cells_of, minimise, truth_table


def random_table(inputs: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([1, 0, -1], 2**inputs, p=[0.4, 0.4, 0.2])


@pytest.mark.parametrize("seed", range(12))
def test_an_expression_is_as_short_as_any_that_equals_the_table(seed: int) -> None:
    table = random_table(2 + seed % 2, seed)
    expression = minimise(table)
    assert (expression.cells[table == 1]).all() and not expression.cells[table == 0].any()
    assert (len(expression.products), expression.literals) == shortest_sum(table)


@pytest.mark.parametrize("seed", range(40))
def test_an_expression_equals_the_table_and_is_never_longer_than_sympys(seed: int) -> None:
    inputs = 2 + seed % 5
    table = random_table(inputs, 100 + seed)
    expression = minimise(table)
    assert (expression.cells[table == 1]).all() and not expression.cells[table == 0].any()
    unminimised = int((table == 1).sum())
    assert len(expression.products) <= unminimised and expression.literals <= inputs * unminimised
    names = list(symbols(" ".join(f"x{i}" for i in range(inputs))))
    other = SOPform(names, np.flatnonzero(table == 1).tolist(), np.flatnonzero(table == -1).tolist())
    if other.args:
        assert len(expression.products) <= (len(other.args) if isinstance(other, Or) else 1)


def test_a_cycle_of_implicants_is_covered_by_every_second_one() -> None:
    # six implicants of two literals, each true in two of the six cells: no rule of dominance removes one
    assert len(minimise(np.array([1, 1, 1, 0, 0, 1, 1, 1])).products) == 3


def test_constant_tables_have_constant_expressions() -> None:
    assert minimise(np.zeros(8, int)).text("abc") == "NEVER"
    assert minimise(np.array([1, -1, 1, 1])).text("ab") == "ALWAYS"
    assert minimise(np.full(4, -1)).text("ab") == "NEVER"
    assert minimise(np.array([1])).text("") == "ALWAYS"


@pytest.mark.parametrize("cells", [0, 3, 2**11])
def test_a_table_of_another_length_is_refused(cells: int) -> None:
    with pytest.raises(SettingsError, match="cells"):
        minimise(np.zeros(cells, int))


def test_an_expression_reads_as_it_is_evaluated() -> None:
    table = np.array([(a and not b) or c for a in (0, 1) for b in (0, 1) for c in (0, 1)]).astype(int)
    expression = minimise(table)
    assert expression.text("ABC") == "C OR (A AND NOT B)"
    assert expression.literals == 3 and expression.named == (0, 1, 2)
    assert (expression.cells == table.astype(bool)).all()
    assert Expression(2, (ProductTerm(0b10, 0b00),)).text("AB") == "NOT A"


def test_a_truth_table_counts_every_image_once() -> None:
    generator = np.random.default_rng(0)
    bits, fires = generator.random((200, 3)) < 0.5, generator.random(200) < 0.3
    table = truth_table(bits, fires)
    for cell in range(8):
        inside = (bits == [cell >> 2 & 1, cell >> 1 & 1, cell & 1]).all(1)
        assert (table.fired[cell], table.rested[cell]) == ((inside & fires).sum(), (inside & ~fires).sum())
    assert (cells_of(bits) == bits @ [4, 2, 1]).all()


def test_majorities_leave_ties_and_unseen_cells_free() -> None:
    table = truth_table(np.array([[1], [1], [1]], bool), np.array([True, True, False]))
    assert table.majority.tolist() == [-1, 1]
    tie = truth_table(np.array([[1], [1]], bool), np.array([True, False]))
    assert tie.majority.tolist() == [-1, -1]


@pytest.mark.parametrize("bits", range(5))
def test_neighbours_in_gray_code_differ_in_one_bit(bits: int) -> None:
    code = gray_code(bits)
    assert sorted(code) == list(range(2**bits))
    if bits:
        assert all((a ^ b).bit_count() == 1 for a, b in zip(code, code[1:] + code[:1], strict=True))


@pytest.mark.parametrize("inputs", range(1, 7))
def test_a_karnaugh_map_holds_every_cell_once_beside_its_neighbours(inputs: int) -> None:
    cells = karnaugh_map(inputs)
    assert sorted(cells.ravel().tolist()) == list(range(2**inputs))
    for axis in (0, 1):
        change = cells ^ np.roll(cells, 1, axis)
        assert all(int(c).bit_count() <= 1 for c in change.ravel())


def test_the_threshold_is_the_most_telling_cut() -> None:
    generator = np.random.default_rng(1)
    strength = np.round(generator.random(60), 2)
    fires = strength + 0.4 * generator.standard_normal(60) > 0.6
    cut, bits = threshold(strength, fires)

    def information(at: float) -> float:
        table = np.array([[((strength > at) == s)[fires == f].sum() for f in (0, 1)] for s in (0, 1)]) / 60
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.nansum(table * np.log2(table / (table.sum(0) * table.sum(1)[:, None]))))

    assert information(cut) == pytest.approx(bits, abs=1e-9)
    best = max(information(v) for v in strength)
    values = np.unique(strength)
    # a likelihood ratio of 3.84 is what chance gives: of such cuts, none in a wider gap
    rivals = [v for v in values[:-1] if 2 * 60 * np.log(2) * (best - information(v)) <= 3.84]
    gaps = {v: values[i + 1] - v for i, v in enumerate(values[:-1])}
    chosen = values[values < cut].max()
    assert chosen in rivals and gaps[chosen] == max(gaps[v] for v in rivals)
    assert threshold(np.ones(5), np.array([1, 0, 1, 0, 1], bool)) == (1.0, 0.0)


def test_decisive_inputs_are_those_that_the_firing_depends_on() -> None:
    bits = np.random.default_rng(2).random((400, 7)) < 0.5
    fires = (bits[:, 4] & ~bits[:, 1]) | bits[:, 6]
    assert sorted(choose_decisive(bits, fires, 6)) == [1, 4, 6]
    assert choose_decisive(bits, np.ones(400, bool), 6) == []


def test_cuts_are_moved_to_where_the_inputs_decide_together() -> None:
    generator = np.random.default_rng(3)
    on = generator.random((500, 3)) < 0.5
    strength = np.where(on, generator.uniform(0.6, 1, on.shape), generator.uniform(0, 0.3, on.shape))
    fires = (on[:, 0] & ~on[:, 1]) | on[:, 2]
    moved = refine_cuts(strength, np.array([0.9, 0.1, 0.45]), fires)
    assert ((strength > moved) == on).all() and moved[2] == 0.45
    settled = np.array([0.4, 0.5, 0.45])
    assert (refine_cuts(strength, settled, fires) == settled).all()
