"""The best code for a number of bits: found on a held-out part of the training set, fitted on the whole of it.

And all runs of one node's features, planned before the first begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from netopsy.errors import SettingsError, TransformError
from netopsy.features.extract import split_rows
from netopsy.features.features import Features, occurring
from netopsy.studies.study import file_for, whereabouts
from netopsy.studies.transfer.alternatives import alternative_chains, alternative_lines, quantizers_for, retrieval
from netopsy.studies.transfer.bench import Bench, ScoreRow, threads_for
from netopsy.studies.transfer.chains import Chain, Stresses, run_chains
from netopsy.studies.transfer.figures import MEASURES
from netopsy.studies.transfer.tables import code_line, score_table
from netopsy.transform.chain import load_transform
from netopsy.transform.fit.training import Quantizer, TrainingSet
from netopsy.wording import percent, plural

HELD_OUT = 0.2
CANDIDATES: dict[str, Any] = {
    "node": pl.String,
    "method": pl.String,
    "recipe": pl.String,
    "bits": pl.Int64,
    "compression": pl.Float64,
    "score": pl.Float64,
    "gap": pl.Float64,
    "chosen": pl.Boolean,
    "test_score": pl.Float64,
    "relative": pl.Float64,
    "recall_1": pl.Float64,
    "recall_10": pl.Float64,
    "same_class": pl.Float64,
}


@dataclass(frozen=True)
class Search:
    """The search for the best code of one node's features within `bits`.

    held_out: the bench of four fifths of the training vectors, tested on the rest. quantizers: the candidates. name: of
        file.
    """

    bench: Bench
    held_out: Bench
    bits: int
    quantizers: Sequence[Quantizer]
    seed: int
    name: str

    def chains(self) -> list[Chain]:
        """One chain a candidate."""
        training: list[TrainingSet] = []

        def run(quantizer: Quantizer) -> Iterator[ScoreRow]:
            if not training:
                training.append(TrainingSet(self.held_out.train))
            yield self.held_out.fit(*self.held_out.code_vectors(quantizer.fit(training[0], seed=self.seed)))[1]

        return [
            Chain(self.held_out, "budget", self.bits, 1, partial(run, quantizer), (repr(quantizer), self.seed))
            for quantizer in self.quantizers
        ]

    def finish(
        self, rows: Sequence[tuple[int, Quantizer, ScoreRow]], unstressed: float
    ) -> tuple[list[dict[str, Any]], dict[str, Path], list[str]]:
        """Lines of the table `candidates`, the file of the best code, and sentences.

        The best has the highest score on the held-out part; of equal ones it takes the fewest bits, or comes first.
        The test scores are those of the file as it was written, read again.
        """
        bench = self.bench
        if not rows:
            return [], {}, [f"No code of {self.bits:,} bits could be fitted to {bench.node}."]
        best = min(rows, key=lambda tried: (-tried[2].score, tried[1].bits))[1]
        path = file_for("transfer", self.name)
        best.fit(TrainingSet(bench.train, source=bench.features.name), seed=self.seed).save(path)
        transform = load_transform(path)
        train, test = bench.code_vectors(transform)
        tested = bench.fit(train, test)[1]._replace(**retrieval(bench, train, test, {}, self.seed))
        lines = []
        for _, quantizer, row in rows:
            line = code_line(bench, quantizer, row, unstressed) | {"chosen": quantizer is best}
            line |= {key: None for key in ("relative", "recall_1", "recall_10", "same_class")}
            if quantizer is best:
                test_line = code_line(bench, quantizer, tested, unstressed)
                line |= {key: test_line[key] for key in ("relative", "recall_1", "recall_10", "same_class")}
                line["test_score"] = tested.score
            lines.append({key: line.get(key) for key in CANDIDATES})
        return lines, {path.name: path}, self._sentences(best, tested, unstressed, transform.bytes, path)

    def _sentences(self, best: Quantizer, tested: ScoreRow, unstressed: float, size: int, path: Path) -> list[str]:
        share_text = f" ({percent(tested.score / unstressed)} of the unstressed score)" if unstressed > 0 else ""
        recall_text = (
            ""
            if np.isnan(tested.recall_10)
            else f", and finds {percent(tested.recall_10)} of the ten nearest neighbours"
        )
        where = whereabouts("transfer", path)
        return [
            f"{best.label} is the best of {plural(len(self.quantizers), 'code')} within {self.bits:,} bits for "
            f"{self.bench.node} ({plural(size, 'byte')} per vector): {percent(tested.score)} "
            f"{MEASURES[self.bench.measure]} on the test vectors{share_text}{recall_text}.",
            f"The code is in {where}: netopsy.load_transform(path).encode(x) turns features x into codes with numpy "
            "alone, .decode(codes) gives vectors back.",
        ]


def search(bench: Bench, bits: int, seed: int, name: str) -> tuple[Search | None, list[str]]:
    """The search for these features, and what was left out; None where the training set cannot be split."""
    features = bench.features
    rows = np.arange(len(features.y_train))
    if not features.multilabel:  # a class of one vector cannot be fitted and held out
        counts = np.bincount(features.y_train)
        rows = np.flatnonzero(counts[features.y_train] > 1)
    if len(np.unique(features.y_train[rows], axis=0)) < 2:
        return None, [f"No code was sought for {bench.node}: its training set is too small to hold a part of it out."]
    fitted, left_out = (
        rows[part] for part in split_rows(features.y_train[rows], HELD_OUT, seed, features.name, features.classes)
    )
    y_fitted, y_held, classes = occurring(features.y_train[fitted], features.y_train[left_out], features.classes)
    part = Features(
        f"{features.name}, training part",
        np.asarray(features.x_train[fitted]),
        y_fitted,
        np.asarray(features.x_train[left_out]),
        y_held,
        classes,
    )
    quantizers, notes = quantizers_for(bench.dimensions, len(fitted), bits)
    return Search(bench, replace(bench, features=part), bits, quantizers, seed, name), notes


@dataclass
class BenchPlan:
    """The runs of one bench.

    names: of the stresses, `none` first. codes: the stresses of the vectors that codes are fitted to, which have unit
    length. alternatives: (budget, quantizer) of the codes compared. search: for the best code.
    """

    bench: Bench
    stresses: Stresses
    names: Sequence[str]
    codes: Stresses
    alternatives: Sequence[tuple[int, Quantizer]]
    search: Search | None
    seed: int

    @property
    def cells(self) -> int:
        """Fits to make, or to take from the workspace."""
        stress_cells = sum(chain.cells for stress in self.names for chain in self.stresses.chains(stress))
        return stress_cells + len(self.alternatives) + (len(self.search.quantizers) if self.search else 0)

    def run(self, cell: Callable[[], None]) -> BenchOutcome:
        """Make them; `cell` is called at each."""
        features = self.bench.features
        with threads_for((len(features.x_train) + len(features.x_test)) * features.dimensions):
            return self._run(cell)

    def _run(self, cell: Callable[[], None]) -> BenchOutcome:
        scores = score_table(self.bench, run_chains(self.stresses, self.names, cell))
        unstressed = float(scores["score"][0])
        notes: list[str] = []
        chains = alternative_chains(self.codes, self.alternatives, self.seed)
        fitted = _rows([(budget, quantizer) for budget, quantizer in self.alternatives], chains, cell, notes)
        alternatives = alternative_lines(self.bench, fitted, unstressed)
        outcome = BenchOutcome(scores, alternatives, [], {}, [], notes)
        if self.search:
            tried = _rows([(0, quantizer) for quantizer in self.search.quantizers], self.search.chains(), cell, notes)
            self.search.held_out.free()
            outcome.candidates, outcome.artifact, outcome.sentences = self.search.finish(tried, unstressed)
        for stresses in (self.stresses, self.codes):
            stresses.free()
        return outcome


@dataclass
class BenchOutcome:
    """What the runs of one bench gave: tables, the file of a code, sentences first and last."""

    scores: pl.DataFrame
    alternatives: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    artifact: dict[str, Any]
    sentences: list[str]
    notes: list[str]


def _rows(
    quantizers: Sequence[tuple[int, Quantizer]], chains: Sequence[Chain], cell: Callable[[], None], notes: list[str]
) -> list[tuple[int, Quantizer, ScoreRow]]:
    """The codes that could be fitted, with their rows; a sentence in `notes` for each that could not."""
    rows = []
    for (budget, quantizer), chain in zip(quantizers, chains, strict=True):
        try:
            rows.append((budget, quantizer, chain.rows(cell)[0]))
        except (SettingsError, TransformError) as error:
            notes.append(f"{quantizer.label} was left out: {error}")
            cell()
    return rows
