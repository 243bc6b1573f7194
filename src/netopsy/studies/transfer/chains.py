"""The runs of a stress as chains, over the workers there are: fits that follow from one another, kept together.

A chain depends on nothing but its features and its settings, so that one taken up again gives the same rows. Dimensions
are kept step by step (Carvalho et al., Section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from netopsy._version import __version__
from netopsy.engine.trials.pool import current_workers
from netopsy.engine.trials.run import run_shards
from netopsy.engine.trials.trial import Outcome
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.stats.svm.fit import fit_nested, fit_svm
from netopsy.stats.svm.model import Svm
from netopsy.studies.transfer.bench import Bench, ScoreRow
from netopsy.transform.fit.levels import erase_bits
from netopsy.transform.fit.training import Ranges, TrainingSet, fit_ranges, quantize
from netopsy.wording import plural


def run_chains(stresses: Stresses, names: Sequence[str], cell: Callable[[], None]) -> dict[str, list[list[ScoreRow]]]:
    """The rows of every chain of the stresses named; `cell` is called once a row.

    A chain is a trial. What several chains share is fitted once in each worker.
    """
    chains = {stress: stresses.chains(stress) for stress in names}
    missing = [
        (s, at) for s, stress_chains in chains.items() for at, chain in enumerate(stress_chains) if not chain.finished
    ]
    if missing and not current_workers().here:
        specs = [{"stress": stress, "at": at} for stress, at in missing]
        spec = {"chains": [chains[stress][at].spec for stress, at in missing]}
        with run_shards(_chain, stresses, specs, spec, "transfer") as outcomes:
            for (stress, at), outcome in zip(missing, outcomes, strict=True):
                chains[stress][at].keep([ScoreRow(*row) for row in outcome.tensors["rows"].tolist()])
    return {stress: [chain.rows(cell) for chain in stress_chains] for stress, stress_chains in chains.items()}


def _chain(stresses: Stresses, spec: dict[str, Any]) -> Outcome:
    """The trial of one chain."""
    rows = stresses.chains(spec["stress"])[spec["at"]].rows(lambda: None)
    return Outcome({}, {"rows": torch.tensor(rows, dtype=torch.float64)})


def dimension_steps(n: int, steps: int = 20) -> list[int]:
    """Dimensions kept at each of the 20 steps, descending: p_i = floor(n (21 - i) / 20), i = 1..20, from n itself.

    With fewer dimensions than steps some sizes are 0 or equal: those are left out, so the list is shorter.
    The sums are of integers. The authors' tables have 2047 of 4096 dimensions where the formula gives 2048: their code
    took the floor of a rounded product.
    """
    if n < 1 or steps < 1:
        raise SettingsError(
            f"{plural(n, 'dimension')} in {plural(steps, 'step')}; give at least one dimension and one step."
        )
    sizes = (n * (steps + 1 - i) // steps for i in range(1, steps + 1))
    return sorted({size for size in sizes if size}, reverse=True)


def drop_order(n: int, seed: int) -> Int64[Tensor, " n"]:
    """A random order of n dimensions, those that stay longest first (DR-1).

    `x[:, drop_order(n, seed)][:, :size]` for falling sizes drops dimensions one after the other: each set holds the
    next one, within one seed.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


WORD = 32  # bits of a number that comes out of a network


@dataclass(frozen=True)
class Chain:
    """Fits that follow from one another.

    stress: which. part: what tells this chain from others of the stress (a repeat, a number of levels).
    cells: how many rows it gives. run: makes them. kept: those made already.
    """

    bench: Bench
    stress: str
    part: int
    cells: int
    run: Callable[[], Iterator[ScoreRow]]
    settings: tuple[Any, ...] = ()
    kept: list[ScoreRow] = field(default_factory=list)

    @property
    def spec(self) -> dict[str, Any]:
        """All that the rows depend on."""
        bench = self.bench
        return {
            "versions": [__version__, torch.__version__, str(bench.device)],
            "features": [bench.digest, bench.measure, bench.renormalise, bench.solver],
            **({"normalise": "after"} if bench.normalise == "after" else {}),
            "chain": [self.stress, self.part, self.cells, self.settings],
        }

    @property
    def finished(self) -> bool:
        """Whether the rows are in the workspace, or kept."""
        return bool(self.kept) or self._checkpoint().load()[0] == self.cells

    def keep(self, rows: list[ScoreRow]) -> None:
        """Take up the rows that another process has made."""
        self.kept[:] = rows
        self._checkpoint().save(len(rows), lambda: {"rows": torch.tensor(rows, dtype=torch.float64)}, final=True)

    def rows(self, cell: Callable[[], None]) -> list[ScoreRow]:
        """The rows, from the workspace where the chain is finished; `cell` is called once a row."""
        if not self.kept:
            done, state = self._checkpoint().load()
            if done != self.cells:
                rows: list[ScoreRow] = []
                for row in self.run():
                    rows.append(row)
                    cell()
                self.keep(rows)
                return rows
            self.kept[:] = [ScoreRow(*row) for row in state["rows"].tolist()]
        for _ in self.kept:
            cell()
        return list(self.kept)

    def _checkpoint(self) -> Checkpoint:
        return current_workspace().checkpoint("transfer", self.spec)


class Stresses:
    """The chains of every stress of the features on one bench.

    steps: of the dimension drops. levels: of the quantizations. repeats: of the random drops. seed: of their orders.
    What several chains share (the projection, the ranges) is fitted once, when first needed, on the training rows.
    """

    def __init__(self, bench: Bench, *, steps: int, levels: Sequence[int], repeats: int, seed: int) -> None:
        self.bench, self.repeats, self.seed = bench, repeats, seed
        self.levels = sorted(set(levels))
        self.sizes = sorted({size for size in dimension_steps(bench.dimensions, steps) if size})

    def chains(self, stress: str) -> list[Chain]:
        """The chains of `stress`: none, dr1, dr2, q1, q2, fc or qb."""
        make: dict[str, Callable[[], list[Chain]]] = {
            "none": lambda: [self._chain("none", 0, 1, self._unstressed)],
            "dr1": self._dr1,
            "dr2": lambda: [self._chain("dr2", 0, len(self.sizes), self._dr2, self.sizes)],
            "q1": lambda: [self._chain("q1", 0, len(self.levels), lambda: self._levels(False), self.levels)],
            "q2": lambda: [self._chain("q2", 0, len(self.levels), lambda: self._levels(True), self.levels)],
            "fc": self._fc,
            "qb": lambda: [self._chain("qb", 0, WORD + 1, self._qb)],
        }
        return make[stress]()

    def free(self) -> None:
        """Let go of everything fitted and of the bench's tensors."""
        for name in ("training", "_projected", "_projected_ranges"):
            self.__dict__.pop(name, None)
        self.bench.free()

    def _chain(
        self, stress: str, part: int, cells: int, run: Callable[[], Iterator[ScoreRow]], *settings: Any
    ) -> Chain:
        return Chain(self.bench, stress, part, cells, run, settings)

    def _unstressed(self) -> Iterator[ScoreRow]:
        yield self.bench.fit(self.bench.train, self.bench.test)[1]

    def _dr1(self) -> list[Chain]:
        """One chain a repeat, without the step that keeps all dimensions: that is the unstressed fit."""
        sizes = [size for size in self.sizes if size < self.bench.dimensions]

        def run(repeat: int) -> Iterator[ScoreRow]:
            order = drop_order(self.bench.dimensions, 1000 * self.seed + repeat)[: max(sizes)]
            order = order.to(self.bench.device)
            return self._nested(self.bench.train[:, order], self.bench.test[:, order], sizes)

        return [
            self._chain("dr1", repeat, len(sizes), lambda repeat=repeat: run(repeat), sizes, self.seed)  # type: ignore[misc]
            for repeat in range(self.repeats if sizes else 0)
        ]

    @cached_property
    def training(self) -> TrainingSet:
        """The training rows, with their principal directions, for the codes too."""
        normalised = self.bench.normalise == "before"
        return TrainingSet(self.bench.train, normalised=normalised, source=self.bench.features.name)

    @cached_property
    def _projected(self) -> tuple[Float32[Tensor, "n r"], Float32[Tensor, "m r"]]:
        return self.training.coordinates, self.training.pca.apply(self.bench.test)

    @cached_property
    def _projected_ranges(self) -> Ranges:
        return fit_ranges(self._projected[0], True)

    def _dr2(self) -> Iterator[ScoreRow]:
        return self._nested(*self._projected, self.sizes)

    def _fc(self) -> list[Chain]:
        """One chain a number of levels: one quantization of all projected columns serves every size."""

        def run(levels: int) -> Iterator[ScoreRow]:
            train, test = (quantize(x, self._projected_ranges, levels) for x in self._projected)
            return (row._replace(levels=levels) for row in self._nested(train, test, self.sizes))

        return [
            self._chain("fc", levels, len(self.sizes), lambda levels=levels: run(levels), self.sizes)  # type: ignore[misc]
            for levels in self.levels
        ]

    def _nested(
        self, train: Float32[Tensor, "n q"], test: Float32[Tensor, "m q"], sizes: Sequence[int]
    ) -> Iterator[ScoreRow]:
        """The leading columns; sizes beyond the last column (zero on the training rows) share its fit."""
        bench, width = self.bench, train.shape[1]
        fitted = sorted({min(size, width) for size in sizes})
        for size, columns, svm in self._fits(train, fitted):
            row = bench.row(svm, columns, bench.after(test[:, :size]))
            for requested in sizes:
                if min(requested, width) == size:
                    yield row._replace(dimensions=requested)

    def _fits(
        self, train: Float32[Tensor, "n q"], sizes: Sequence[int]
    ) -> Iterator[tuple[int, Float32[Tensor, "n size"], Svm]]:
        bench = self.bench
        if not bench.unit_after:
            for size, svm in fit_nested(train, bench.targets, sizes, **bench.solver):
                yield size, train[:, :size], svm
            return
        for size in sizes:  # rows of another length at each size: nothing to share
            columns = bench.after(train[:, :size])
            yield size, columns, fit_svm(columns, bench.targets, **bench.solver)

    def _levels(self, per_dimension: bool) -> Iterator[ScoreRow]:
        """From fine to coarse, each fit from the one before."""
        bench = self.bench
        ranges = fit_ranges(bench.train, per_dimension)
        svm = None
        for levels in reversed(self.levels):
            train, test = (quantize(x, ranges, levels) for x in (bench.train, bench.test))
            svm, row = bench.fit(train, test, svm)
            yield row._replace(levels=levels)

    def _qb(self) -> Iterator[ScoreRow]:
        """Bits erased from the right, one after the other; where that changes no number the fit before stands."""
        bench = self.bench
        svm, row, before = None, None, None
        for removed in range(WORD + 1):
            train, test = erase_bits(bench.train, removed), erase_bits(bench.test, removed)
            if row is None or before is None or not (torch.equal(train, before[0]) and torch.equal(test, before[1])):
                svm, row = bench.fit(train, test, svm)
            before = train, test
            yield row._replace(removed_bits=removed)
