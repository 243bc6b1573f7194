"""The shortest sum of products (`A AND NOT B OR C`), and product of sums, that equal a truth table.

They equal it wherever it says anything: it is counted, from what a unit did in each combination of its inputs. Prime
implicants are found as by Quine and McCluskey ("Minimization of Boolean functions", Bell System Technical Journal 35,
1956); which of them to take is a set cover, solved exactly as an integer programme, whose bound proves that no shorter
one exists. (`sympy.SOPform` only removes dominated implicants, and keeps all of a cycle of which every second one would
do.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from scipy.optimize import Bounds, LinearConstraint, milp

from netopsy.errors import SettingsError


@dataclass(frozen=True, order=True)
class ProductTerm:
    """An AND of inputs and negated inputs. Bit i from the left (of `inputs` bits) stands for input i.

    mask: the inputs that take part. value: their states; 0 where they do not take part.
    """

    mask: int
    value: int

    @property
    def literals(self) -> int:
        """How many inputs take part."""
        return self.mask.bit_count()

    def holds(self, cell: int) -> bool:
        """Whether the product is true in the cell."""
        return cell & self.mask == self.value


@dataclass(frozen=True)
class Expression:
    """An OR of products over `inputs` inputs. No products: never true. A product of no literals: always true."""

    inputs: int
    products: tuple[ProductTerm, ...]

    @property
    def literals(self) -> int:
        """The length of the expression: inputs named, as often as they are."""
        return sum(p.literals for p in self.products)

    @property
    def cells(self) -> Bool[np.ndarray, " cells"]:
        """Its value in every cell of a truth table."""
        cells = np.arange(2**self.inputs)
        true = np.zeros(len(cells), bool)
        for p in self.products:
            true |= cells & p.mask == p.value
        return true

    @property
    def named(self) -> tuple[int, ...]:
        """The inputs that appear in it."""
        mask = 0
        for p in self.products:
            mask |= p.mask
        return tuple(i for i in range(self.inputs) if mask >> (self.inputs - 1 - i) & 1)

    def text(self, names: Sequence[str]) -> str:
        """`(A AND NOT B) OR C`; `ALWAYS` and `NEVER` where it depends on nothing."""
        if not self.products:
            return "NEVER"
        if any(not p.mask for p in self.products):
            return "ALWAYS"
        parts = [" AND ".join(self.named_literals(p, names)) for p in self.products]
        several = len(parts) > 1
        return " OR ".join(
            f"({part})" if several and p.literals > 1 else part for part, p in zip(parts, self.products, strict=True)
        )

    def named_literals(self, product: ProductTerm, names: Sequence[str]) -> list[str]:
        """`A`, `NOT B`, ... of one product."""
        literals = []
        for i in range(self.inputs):
            bit = 1 << (self.inputs - 1 - i)
            if product.mask & bit:
                literals.append(names[i] if product.value & bit else f"NOT {names[i]}")
        return literals


@dataclass(frozen=True)
class ProductOfSums:
    """An AND of ORs: what is left where the sum of products `complement` is false (De Morgan)."""

    complement: Expression

    @property
    def inputs(self) -> int:
        """Of the truth table."""
        return self.complement.inputs

    @property
    def literals(self) -> int:
        """The length of the expression: inputs named, as often as they are."""
        return self.complement.literals

    @property
    def terms(self) -> int:
        """How many sums it has."""
        return len(self.complement.products)

    @property
    def cells(self) -> Bool[np.ndarray, " cells"]:
        """Its value in every cell of a truth table."""
        return ~self.complement.cells

    def text(self, names: Sequence[str]) -> str:
        """`(A OR C) AND NOT B`; `ALWAYS` and `NEVER` where it depends on nothing."""
        if not self.complement.products:
            return "ALWAYS"
        if any(not p.mask for p in self.complement.products):
            return "NEVER"
        swapped = sorted((ProductTerm(p.mask, p.mask & ~p.value) for p in self.complement.products), key=_readable)
        parts = [" OR ".join(self.complement.named_literals(p, names)) for p in swapped]
        several = len(parts) > 1
        return " AND ".join(
            f"({part})" if several and p.literals > 1 else part for part, p in zip(parts, swapped, strict=True)
        )


def _readable(term: ProductTerm) -> tuple[int, int, int, int]:
    """The order in which terms are easiest to read: the short ones first, then the least negated."""
    return term.literals, (term.mask & ~term.value).bit_count(), -term.mask, -term.value


FIRES, RESTS, FREE = 1, 0, -1


@dataclass(frozen=True)
class TruthTable:
    """How often a unit fired in each cell. The cell of inputs (a, b, c) is the binary number abc: a counts most.

    fired, rested: int64 (2 ** inputs,), the images of each cell in which the unit fired and did not.
    """

    inputs: int
    fired: Int64[np.ndarray, " cells"]
    rested: Int64[np.ndarray, " cells"]

    @property
    def majority(self) -> Int64[np.ndarray, " cells"]:
        """1 where the unit mostly fired, 0 where it mostly did not, -1 where nothing or a tie was seen (don't care)."""
        return np.where(self.fired > self.rested, FIRES, np.where(self.rested > self.fired, RESTS, FREE))


def truth_table(bits: Bool[np.ndarray, "n inputs"], fires: Bool[np.ndarray, " n"]) -> TruthTable:
    """Count n images. bits: which inputs were on. fires: whether the unit fired."""
    inputs = bits.shape[1]
    cells = cells_of(bits)
    fired, rested = (np.bincount(cells[fires == state], minlength=2**inputs) for state in (True, False))
    return TruthTable(inputs, fired, rested)


def cells_of(bits: Bool[np.ndarray, "n inputs"]) -> Int64[np.ndarray, " n"]:
    """The number of each row's cell."""
    inputs = bits.shape[1]
    return bits.astype(np.int64) @ (1 << np.arange(inputs)[::-1])


LARGEST = 10  # inputs: 3 ** 10 = 59,049 products


def minimise(table: Int64[np.ndarray, " cells"]) -> Expression:
    """The expression with the fewest products, among those the one with the fewest literals; proven, not only tried.

    table: for each cell 1 (true), 0 (false) or -1 (don't care); cell numbers as in `TruthTable`.
    Raises SettingsError for a table that is not 2 ** n cells long, or of more than 10 inputs.
    """
    inputs = len(table).bit_length() - 1
    if len(table) != 2**inputs or inputs > LARGEST:
        raise SettingsError(f"a truth table of {len(table)} cells; give 2, 4, 8, ... up to {2**LARGEST} cells.")
    firing = np.flatnonzero(table == FIRES)
    if not len(firing):
        return Expression(inputs, ())
    primes = prime_implicants(table)
    covers = np.array([[p.holds(int(cell)) for p in primes] for cell in firing], float)
    literal = 1 / (inputs * len(firing) + 1)  # one product more outweighs all literals that it could save
    cost = np.array([1 + literal * p.literals for p in primes])
    solved = milp(
        cost,
        constraints=LinearConstraint(covers, lb=1),
        integrality=np.ones(len(primes)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    taken = solved.x > 0.5
    # that it is a cover is counted, and the solver's bound leaves no room for one that is cheaper by a literal
    if not covers[:, taken].any(1).all() or solved.mip_dual_bound < cost[taken].sum() - literal / 2:
        raise SettingsError(f"no expression of {inputs} inputs was proven to be the shortest; give fewer inputs.")
    terms = [p for p, x in zip(primes, taken, strict=True) if x]
    return Expression(inputs, tuple(sorted(terms, key=_readable)))


def minimise_sums(table: Int64[np.ndarray, " cells"]) -> ProductOfSums:
    """The product of sums with the fewest sums, among those the one with the fewest literals: `minimise` of NOT."""
    return ProductOfSums(minimise(np.select([table == FIRES, table == RESTS], [RESTS, FIRES], FREE)))


def prime_implicants(table: Int64[np.ndarray, " cells"]) -> list[ProductTerm]:
    """The products that are true in no cell marked 0, and of which no literal can be left out; each true in some 1."""
    inputs = len(table).bit_length() - 1
    everything = 2**inputs - 1
    false, true = np.flatnonzero(table == RESTS), np.flatnonzero(table == FIRES)
    allowed: dict[int, set[int]] = {}  # mask -> values whose products are true in no cell marked 0
    for mask in range(everything + 1):
        forbidden = set((false & mask).tolist())
        allowed[mask] = {int(value) for value in np.unique(true & mask)} - forbidden
    return [
        ProductTerm(mask, value)
        for mask, values in allowed.items()
        for value in values
        if not any(value & ~bit in allowed[mask & ~bit] for bit in _bits(mask))
    ]


def _bits(mask: int) -> list[int]:
    return [1 << i for i in range(mask.bit_length()) if mask >> i & 1]
