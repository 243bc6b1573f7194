"""The shortest sum of products that equals a truth table wherever the table says anything.

Prime implicants as by Quine and McCluskey ("Minimization of Boolean functions", Bell System Technical Journal 35,
1956); which of them to take is a set cover, solved exactly as an integer programme. (`sympy.SOPform` only removes
dominated implicants, and keeps all of a cycle of which every second one would do.)
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from scipy.optimize import Bounds, LinearConstraint, milp

from netopsy.errors import SettingsError
from netopsy.studies.facets.boolean.expression import Expression, Product
from netopsy.studies.facets.boolean.table import FIRES, RESTS

LARGEST = 10  # inputs: 3 ** 10 = 59,049 products


def minimise(table: Int64[np.ndarray, " cells"]) -> Expression:
    """The expression with the fewest products, among those the one with the fewest literals.

    table: for each cell 1 (true), 0 (false) or -1 (don't care); cell numbers as in `TruthTable`.
    Raises SettingsError for a table that is not 2 ** n cells long, or of more than 10 inputs.
    """
    inputs = len(table).bit_length() - 1
    if len(table) != 2**inputs or inputs > LARGEST:
        raise SettingsError(f"a truth table of {len(table)} cells; give 2, 4, 8, ... up to {2**LARGEST} cells.")
    wanted = np.flatnonzero(table == FIRES)
    if not len(wanted):
        return Expression(inputs, ())
    primes = prime_implicants(table)
    covers = np.array([[p.holds(int(cell)) for p in primes] for cell in wanted], float)
    # one product more outweighs all literals that it could save
    cost = np.array([1 + p.literals / (inputs * len(wanted) + 1) for p in primes])
    solved = milp(
        cost,
        constraints=LinearConstraint(covers, lb=1),
        integrality=np.ones(len(primes)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    taken = [p for p, x in zip(primes, solved.x, strict=True) if x > 0.5]
    # least negated first: the readable order
    order = sorted(taken, key=lambda p: (p.literals, (p.mask & ~p.value).bit_count(), -p.mask, -p.value))
    return Expression(inputs, tuple(order))


def prime_implicants(table: Int64[np.ndarray, " cells"]) -> list[Product]:
    """The products that are true in no cell marked 0, and of which no literal can be left out; each true in some 1."""
    inputs = len(table).bit_length() - 1
    everything = 2**inputs - 1
    false, true = np.flatnonzero(table == RESTS), np.flatnonzero(table == FIRES)
    allowed: dict[int, set[int]] = {}  # mask -> values whose products are true in no cell marked 0
    for mask in range(everything + 1):
        forbidden = set((false & mask).tolist())
        allowed[mask] = {int(value) for value in np.unique(true & mask)} - forbidden
    return [
        Product(mask, value)
        for mask, values in allowed.items()
        for value in values
        if not any(value & ~bit in allowed[mask & ~bit] for bit in _bits(mask))
    ]


def _bits(mask: int) -> list[int]:
    return [1 << i for i in range(mask.bit_length()) if mask >> i & 1]
