"""All runs of one node's features, planned before the first begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from netopsy.errors import SettingsError, TransformError
from netopsy.studies.transfer.alternatives import rival_chains, rival_lines
from netopsy.studies.transfer.bench import Bench, ScoreRow
from netopsy.studies.transfer.budget import Search
from netopsy.studies.transfer.chains import Chain, Stresses, stressed, threads_for
from netopsy.studies.transfer.tables import score_table
from netopsy.transform.fit.quantizer import Quantizer


@dataclass
class BenchPlan:
    """The runs of one bench.

    wanted: the stresses, `none` first. rivals: (budget, recipe) of the codes compared. search: for the best code.
    """

    bench: Bench
    stresses: Stresses
    wanted: Sequence[str]
    rivals: Sequence[tuple[int, Quantizer]]
    search: Search | None
    seed: int

    @property
    def cells(self) -> int:
        """Fits to make, or to take from the workspace."""
        own = sum(chain.cells for stress in self.wanted for chain in self.stresses.chains(stress))
        return own + len(self.rivals) + (len(self.search.recipes) if self.search else 0)

    def run(self, cell: Callable[[], None]) -> BenchOutcome:
        """Make them; `cell` is called at each."""
        features = self.bench.features
        with threads_for((len(features.x_train) + len(features.x_test)) * features.dimensions):
            return self._run(cell)

    def _run(self, cell: Callable[[], None]) -> BenchOutcome:
        scores = score_table(self.bench, stressed(self.stresses, self.wanted, cell))
        unstressed = float(scores["score"][0])
        said: list[str] = []
        chains = rival_chains(self.stresses, self.rivals, self.seed)
        kept = _rows([(budget, recipe) for budget, recipe in self.rivals], chains, cell, said)
        rivals = rival_lines(self.bench, kept, unstressed)
        outcome = BenchOutcome(scores, rivals, [], {}, [], said)
        if self.search:
            tried = _rows([(0, recipe) for recipe in self.search.recipes], self.search.chains(), cell, said)
            self.search.held.free()
            outcome.candidates, outcome.artifact, outcome.told = self.search.finish(tried, unstressed)
        self.stresses.free()
        return outcome


@dataclass
class BenchOutcome:
    """What the runs of one bench gave: tables, the file of a code, sentences first and last."""

    scores: pl.DataFrame
    rivals: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    artifact: dict[str, Any]
    told: list[str]
    said: list[str]


def _rows(
    recipes: Sequence[tuple[int, Quantizer]], chains: Sequence[Chain], cell: Callable[[], None], said: list[str]
) -> list[tuple[int, Quantizer, ScoreRow]]:
    """The codes that could be fitted, with their rows; a sentence in `said` for each that could not."""
    found = []
    for (budget, recipe), chain in zip(recipes, chains, strict=True):
        try:
            found.append((budget, recipe, chain.rows(cell)[0]))
        except (SettingsError, TransformError) as error:
            said.append(f"{recipe.label} was left out: {error}")
            cell()
    return found
