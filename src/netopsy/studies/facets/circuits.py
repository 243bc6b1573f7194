"""How many circuits would do as well as the shortest one.

"The set of locally minimal models (circuits) could be vast (exponential) without damaging performance" ('Interpreting
Deep Networks'). Here a circuit is a sum of prime implicants that equals the truth table wherever it says anything; it
is locally minimal where no product and no literal can be left out. These are the minimal covers of the firing cells by
primes: few are listed one by one (Murakami and Uno, "Efficient algorithms for dualizing large-scale hypergraphs",
Discrete Applied Mathematics 170, 2014), many are estimated by random descents of the same search (Knuth, "Estimating
the efficiency of backtrack programs", Mathematics of Computation 29, 1975), which also bound their number from below
(Gomes, Hoffmann, Sabharwal, Selman, "From sampling to model counting", IJCAI 2007).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Bool, Int64

from netopsy.studies.facets.minimise import FIRES, TruthTable, cells_of, minimise, prime_implicants

LISTED = 5_000  # circuits that are listed one by one
STEPS = 40_000  # of the search, at most
DESCENTS, BATCHES, MARGIN = 60, 7, 2.0  # a mean of 60 descents is twice the truth or more in half of the cases at most
CONFIDENCE = 1 - MARGIN**-BATCHES
"""Of a lower bound: all 7 means would have to be twice the truth (Markov's inequality, each 1 in 2)."""


@dataclass(frozen=True)
class Counted:
    """A number of circuits. exact: all were listed. Else there are at least so many, with `CONFIDENCE`."""

    number: int
    exact: bool


@dataclass(frozen=True)
class Circuits:
    """The circuits that equal a truth table.

    shortest: as few products, and of these as few literals, as possible. minimal: nothing can be left out. as_good: of
    the minimal ones, those whose F1 on the held-out images is no lower than that of the circuit given. lowest,
    highest: F1 on held-out images over the minimal ones that were looked at.
    """

    shortest: Counted
    minimal: Counted
    as_good: Counted
    lowest: float
    highest: float


def count_circuits(table: Int64[np.ndarray, " cells"], held_out: TruthTable, *, seed: int = 0) -> Circuits:
    """Count the sums of products that equal `table`, and those that are as good as `minimise(table)` on other images.

    table: 1, 0 or -1 (don't care) for each cell. held_out: what the unit did on the other images.
    """
    given = minimise(table)
    covers = Covers(table)
    quality = f1_of(held_out)
    least = quality(given.cells)
    if not covers.edges:
        return Circuits(Counted(1, True), Counted(1, True), Counted(1, True), least, least)
    shortest, all_listed = covers.collect(products=len(given.products), literals=given.literals)
    found, complete = covers.collect()
    scores: dict[bytes, float] = {}

    def score(cover: int) -> float:
        cells = covers.cells(cover)
        key = np.packbits(cells).tobytes()
        if key not in scores:
            scores[key] = quality(cells)
        return scores[key]

    good = sum(score(cover) >= least - 1e-12 for cover in found)
    minimal = len(found)
    if not complete:
        sampled = [covers.descend(np.random.default_rng([seed, k])) for k in range(DESCENTS * BATCHES)]
        minimal = max(minimal, _bound([weight for weight, _ in sampled]))
        fits = [weight * (score(cover) >= least - 1e-12) if weight else 0.0 for weight, cover in sampled]
        good = max(good, _bound(fits))
    return Circuits(
        Counted(max(1, len(shortest)), all_listed),
        Counted(max(1, minimal), complete),
        Counted(max(1, good), complete),
        min(scores.values(), default=least),
        max(scores.values(), default=least),
    )


def _bound(estimates: Sequence[float]) -> int:
    """A number that the truth is below with a chance of 1 in 128 at most; estimates: unbiased, 0 or more."""
    means = [float(np.mean(estimates[k::BATCHES])) for k in range(BATCHES)]
    return int(min(means) / MARGIN)


def f1_of(held_out: TruthTable) -> Callable[[Bool[np.ndarray, " cells"]], float]:
    """The F1 of a circuit, given by the cells in which it is true, on the images counted in `held_out`."""
    fires = int(held_out.fired.sum())

    def f1(cells: Bool[np.ndarray, " cells"]) -> float:
        hits = int(held_out.fired[cells].sum())
        return 2 * hits / max(1, fires + hits + int(held_out.rested[cells].sum()))

    return f1


class Covers:
    """The covers of a table's firing cells by prime implicants, as bits: of a cover one a prime, of a prime one a cell.

    edges: for each cell that asks for most, the primes that are true in it; a cell asks for nothing where another's
    primes are among its own. hits: for each prime, which of these cells it is true in.
    """

    def __init__(self, table: Int64[np.ndarray, " cells"]) -> None:
        self.primes = prime_implicants(table)
        asked = {
            sum(1 << k for k, prime in enumerate(self.primes) if prime.holds(int(cell)))
            for cell in np.flatnonzero(table == FIRES)
        }
        self.edges = sorted(a for a in asked if not any(b != a and b & a == b for b in asked))
        self.hits = [sum(1 << e for e, edge in enumerate(self.edges) if edge >> k & 1) for k in range(len(self.primes))]
        numbers = np.arange(len(table))
        self._true = np.array([numbers & p.mask == p.value for p in self.primes]).reshape(-1, len(table))

    def cells(self, cover: int) -> Bool[np.ndarray, " cells"]:
        """The cells in which the circuit is true."""
        return np.logical_or.reduce(self._true[list(_bits(cover))], 0)

    def collect(self, products: int | None = None, literals: int | None = None) -> tuple[list[int], bool]:
        """The minimal covers, up to `LISTED`, and whether these are all; with so many products and literals at most."""
        budget = (len(self.edges) if products is None else products, literals)
        steps = itertools.count()
        search = self._search((1 << len(self.edges)) - 1, (1 << len(self.primes)) - 1, (), budget, steps)
        found = list(itertools.islice(search, LISTED + 1))
        return found[:LISTED], len(found) <= LISTED and next(steps) < STEPS

    def descend(self, random: np.random.Generator) -> tuple[float, int]:
        """One random way down the search: an unbiased estimate of the number of covers, and the cover at its end.

        The estimate is the product of the number of branches on the way; 0 where it ends without a cover.
        """
        open_edges, free = (1 << len(self.edges)) - 1, (1 << len(self.primes)) - 1
        chosen: tuple[tuple[int, int], ...] = ()
        weight = 1.0
        while open_edges:
            branches = list(self._branches(open_edges, free, chosen))
            if not branches:
                return 0.0, 0
            weight *= len(branches)
            open_edges, free, chosen = branches[int(random.integers(len(branches)))]
        return weight, sum(1 << prime for prime, _ in chosen)

    def _search(
        self,
        open_edges: int,
        free: int,
        chosen: tuple[tuple[int, int], ...],
        budget: tuple[int, int | None],
        steps: Iterator[int],
    ) -> Iterator[int]:
        """Every minimal cover once. chosen: each prime with the cells that it alone covers."""
        if not open_edges:
            yield sum(1 << prime for prime, _ in chosen)
            return
        if next(steps) >= STEPS or len(chosen) + self._apart(open_edges, free) > budget[0]:
            return
        for more, left, taken in self._branches(open_edges, free, chosen):
            if budget[1] is None or sum(self.primes[k].literals for k, _ in taken) <= budget[1]:
                yield from self._search(more, left, taken, budget, steps)

    def _branches(
        self, open_edges: int, free: int, chosen: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[int, int, tuple[tuple[int, int], ...]]]:
        """The ways to cover the cell that has the fewest: what is left open, the primes still free, those chosen."""
        edge = min((self.edges[e] & free for e in _bits(open_edges)), key=int.bit_count)
        left = free & ~edge
        for prime in _bits(edge):
            hit = self.hits[prime]
            alone = tuple((k, cells & ~hit) for k, cells in chosen)
            if all(cells for _, cells in alone):
                yield open_edges & ~hit, left, (*alone, (prime, open_edges & hit))
                left |= 1 << prime

    def _apart(self, open_edges: int, free: int) -> int:
        """Primes that are still needed at least: cells of which no two share one."""
        count, used = 0, 0
        for edge in sorted((self.edges[e] & free for e in _bits(open_edges)), key=int.bit_count):
            if not edge & used:
                count, used = count + 1, used | edge
        return count


def _bits(number: int) -> Iterator[int]:
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


TRIED = 1000  # sets of inputs


@dataclass(frozen=True)
class InputSets:
    """Circuits over other inputs. sets: of as many inputs, there are. tried: of them, all or drawn at random. as_good:
    of those tried, with an F1 on held-out images no lower than that of the inputs taken.
    """

    sets: int
    tried: int
    as_good: int


def other_inputs(
    bits: Bool[np.ndarray, "n candidates"],
    fires: Bool[np.ndarray, " n"],
    held_out: Bool[np.ndarray, "m candidates"],
    held_out_fires: Bool[np.ndarray, " m"],
    chosen: Sequence[int],
    f1: float,
    seed: int,
) -> InputSets:
    """Try as many inputs as were `chosen`, but others: each set's majorities on the training images, by their F1.

    Each input is cut where it alone says most, and a combination that was never seen counts as not firing.
    """
    candidates, size = bits.shape[1], len(chosen)
    total = comb(candidates, size) - 1
    if total <= TRIED:
        sets = [s for s in itertools.combinations(range(candidates), size) if set(s) != set(chosen)]
    else:
        random = np.random.default_rng(seed)
        drawn = (tuple(sorted(random.permutation(candidates)[:size].tolist())) for _ in range(TRIED))
        sets = [s for s in drawn if set(s) != set(chosen)]
    good = 0
    for some in sets:
        columns = list(some)
        cells = cells_of(bits[:, columns])
        fired, rested = (np.bincount(cells[fires == state], minlength=2**size) for state in (True, False))
        there = cells_of(held_out[:, columns])
        counts = [np.bincount(there[held_out_fires == state], minlength=2**size) for state in (True, False)]
        good += f1_of(TruthTable(size, *counts))(fired > rested) >= f1 - 1e-12
    return InputSets(total, len(sets), int(good))
