"""How far transferred features can be squeezed (Carvalho et al., "Deep Neural Networks Under Stress")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, get_args

import polars as pl
import torch

from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.features.features import Features
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.result import Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.settings import Interval, Length, PositiveFloat, Seed, Unique
from netopsy.studies.study import Allowance, Study
from netopsy.studies.transfer import tables
from netopsy.studies.transfer.alternatives import ALTERNATIVES, codes_to_compare
from netopsy.studies.transfer.bench import (
    Bench,
    Untreatable,
    bag_features,
    measure_of,
    network_features,
    training_and_test,
    unranked_sentences,
)
from netopsy.studies.transfer.budget import CANDIDATES, BenchPlan, search
from netopsy.studies.transfer.chains import Stresses
from netopsy.studies.transfer.figures import BAG, MEASURES, figures, figures_of_sets
from netopsy.studies.transfer.findings import dimensions_of_sets, findings, levels_of_sets
from netopsy.transform.fit.training import Quantizer, parse_size

Stress = Literal["dr1", "dr2", "q1", "q2", "fc", "qb", "alternatives"]
STRESSES: tuple[Stress, ...] = get_args(Stress)


@dataclass(frozen=True)
class Transfer(Study):
    """How far features that a network gives for other images can be squeezed before a linear classifier on them
    fails: fewer dimensions, fewer levels of each number, both, fewer bits, and other codes of as many bits (Carvalho
    et al., Figures 2 to 5, Tables 2 and 3).

    nodes: nodes whose features are taken, each on its own; by default what the last weight-bearing layer reads.
    train: images to train on; without them the samples are split.
    test_share: share of the samples that is tested on where they are split.
    pool: how values over places become features: `none` takes all, as the paper does; `mean` or `max` pools channels,
        `first` or `last` takes one place, `places` makes each place a vector. `auto` is `mean` where samples differ in
        length, else `none`. Padding counts nowhere.
    dtype: in which type features are kept.
    stresses: of dr1 (random drops), dr2 (PCA), q1 (levels over one range), q2 (levels over a range a dimension), fc
        (dr2 and q2 at once), qb (bits erased) and alternatives (other codes of as many bits).
    repeats: random drops with another order.
    steps: numbers of dimensions, evenly from all down.
    levels: numbers of levels.
    c: C of the linear support vector machines, one against the rest.
    loss: squared_hinge or hinge.
    measure: accuracy, map (mean average precision), map11 (over 11 recalls, as in VOC 2007); auto is accuracy, or map
        where an image may have several labels.
    normalise: whether vectors are brought to unit length `before` a stress, as the authors' code does, or `after` it,
        as the paper's text says. Codes are fitted to vectors of unit length in either order.
    renormalise: whether vectors normalised before a stress get unit length again after it.
    tolerance: relative gap to the optimum that each fit is certified to.
    baseline: whether a bag of visual words of the same images is compared.
    words: visual words of the baseline; by default one for four training images, 16 to 1000.
    word_pooling: how words are pooled over the image: average or max.
    budget: bytes a vector may take, such as 64B; the best code within it is found and written as a file.
    seed: of the parts, the random drops and the codes.

    Tables: `scores` (a row a cell), `unstressed`, `minimum` (the least that loses at most 1 to 5 %),
    `minimum_as_printed` (the same in the layout of the paper's Table 3), `pareto`, `alternatives`, `candidates`.
    """

    name: ClassVar[str] = "transfer"
    group: ClassVar[Group] = "size"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers", "any classes")

    nodes: tuple[str, ...] = ()
    train: Samples | None = None
    test_share: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    pool: Literal["auto", "none", "mean", "max", "first", "last", "places"] = "auto"
    dtype: Literal["float32", "float16"] = "float32"
    stresses: Annotated[tuple[Stress, ...], Unique()] = STRESSES
    repeats: Annotated[int, Interval(ge=1, le=1000)] = 10
    steps: Annotated[int, Interval(ge=1, le=1000)] = 20
    levels: Annotated[tuple[int, ...], Interval(ge=1, le=65536), Length(1), Unique()] = tuple(range(1, 31))
    c: PositiveFloat = 1.0
    loss: Literal["squared_hinge", "hinge"] = "squared_hinge"
    measure: Literal["auto", "accuracy", "map", "map11"] = "auto"
    normalise: Literal["before", "after"] = "before"
    renormalise: bool = False
    tolerance: Annotated[float, Interval(ge=1e-10, le=0.1)] = 1e-4
    baseline: bool = True
    words: Annotated[int | None, Interval(ge=1, le=100_000)] = None
    word_pooling: Literal["average", "max"] = "average"
    budget: str | None = None
    seed: Seed = 0

    def check(self) -> None:
        if self.budget is not None:
            parse_size(self.budget)
        if self.normalise == "after" and self.renormalise:
            raise SettingsError(
                "normalise after brings vectors to unit length once, after the stress; drop renormalise."
            )

    def check_on(self, network: Network) -> None:
        for name in self.nodes:
            network.node(name)

    def run(self, network: Network | Features, samples: Samples | None) -> Result:
        """Stress the features of `network` on `samples`, or the features given in its place."""
        try:
            benches, notes = self._benches(network, samples)
        except Untreatable as why:
            return self.result(tables=tables.empty_tables(), findings=[Finding(str(why), 0.0)])
        notes += dict.fromkeys(s for bench in benches for s in unranked_sentences(bench.features, bench.measure))
        several = sum(not bench.node.startswith(BAG) for bench in benches) > 1
        plans = [self._plan(bench, several, notes) for bench in benches]
        progress = CellProgress(sum(plan.cells for plan in plans))
        outcomes = [plan.run(progress.cell) for plan in plans]
        scores = pl.concat([outcome.scores for outcome in outcomes])
        alternatives = pl.DataFrame(
            [line for outcome in outcomes for line in outcome.alternatives], schema=ALTERNATIVES
        )
        tried = pl.DataFrame([line for outcome in outcomes for line in outcome.candidates], schema=CANDIDATES)
        frames = {
            "scores": scores,
            "unstressed": tables.unstressed_table(benches, scores),
            "minimum": (minimum := tables.minimum_table(scores)),
            "minimum_as_printed": tables.printed_minimum(minimum, scores),
            "pareto": tables.pareto_table(scores),
            **({"alternatives": alternatives} if alternatives.height else {}),
            **({"candidates": tried} if tried.height else {}),
        }
        sentences = findings(frames["unstressed"], scores, frames["minimum"], frames["pareto"], alternatives)
        notes = [*notes, *(sentence for outcome in outcomes for sentence in outcome.notes)]
        return self.result(
            tables=frames,
            figures=figures(
                scores, frames["pareto"], alternatives, tried, {bench.node: bench.measure for bench in benches}
            ),
            artifacts={name: path for outcome in outcomes for name, path in outcome.artifact.items()},
            findings=[
                *sentences,
                *(Finding(text, 2.0) for outcome in outcomes for text in outcome.sentences),
                *(Finding(note, 0.0) for note in dict.fromkeys(notes)),
            ],
        )

    @classmethod
    def combine(cls, results: Mapping[str, Result]) -> Result:
        """One result over several data sets, by their names (the paper's Figure 3)."""
        return combine(results)

    def _plan(self, bench: Bench, several: bool, notes: list[str]) -> BenchPlan:
        """The runs of one bench; a sentence in `notes` for what is left out."""
        classical = bench.node.startswith(BAG)
        stress_names = [
            stress for stress in self.stresses if stress != "alternatives" and (stress == "dr1" or not classical)
        ]
        stresses = Stresses(bench, steps=self.steps, levels=self.levels, repeats=self.repeats, seed=self.seed)
        codes = stresses
        if self.normalise == "after":
            of_unit_length = replace(bench, normalise="before")
            codes = Stresses(of_unit_length, steps=self.steps, levels=self.levels, repeats=self.repeats, seed=self.seed)
        alternatives: list[tuple[int, Quantizer]] = []
        code_search = None
        if not classical and "alternatives" in self.stresses:
            alternatives, why = codes_to_compare(bench)
            notes += why
        if not classical and self.budget is not None:
            name = f"transform-{bench.node}.safetensors" if several else "transform.safetensors"
            code_search, why = search(codes.bench, parse_size(self.budget), self.seed, name)
            notes += why
        return BenchPlan(bench, stresses, ["none", *stress_names], codes, alternatives, code_search, self.seed)

    def _benches(self, network: Network | Features, samples: Samples | None) -> tuple[list[Bench], list[str]]:
        """The benches, and sentences for what was left out."""
        if isinstance(network, Features):
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            return [self._bench(network.name, network, device)], []
        assert samples is not None
        train, test, notes = training_and_test(samples, self.train, self.test_share, self.seed)
        pool = self.pool if self.pool != "auto" else "none" if network.signature.length is None else "mean"
        by_node = network_features(network, train, test, self.nodes, pool, self.dtype)
        pictures = isinstance(network.preprocessing, Preprocessing)
        if self.baseline and not pictures:
            notes.append(
                f"A bag of visual words is of pictures, and {samples.name} has none: there is no such baseline."
            )
        if self.baseline and pictures:
            options = {"words": self.words, "pooling": self.word_pooling, "seed": self.seed}
            by_node[BAG] = bag_features(train, test, network.device, **options)
        return [self._bench(node, features, network.device) for node, features in by_node.items()], notes

    def _bench(self, node: str, features: Features, device: torch.device) -> Bench:
        measure = measure_of(self.measure, features)
        return Bench(
            node, features, measure, self.c, self.loss, self.tolerance, self.renormalise, device, self.normalise
        )


class CellProgress:
    """Cells done, of all."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total

    def cell(self) -> None:
        self.done += 1
        current_workspace().report("transfer", self.done, self.total)


KEPT = ("scores", "unstressed", "minimum", "minimum_as_printed", "pareto")


def combine(results: Mapping[str, Result]) -> Result:
    """One result over the sets that gave scores; of each the last node named has its curves."""
    scored = {name: result for name, result in results.items() if result.tables["scores"].height}
    left = [Finding(f"{name}: {results[name].findings[0]}", 0.0) for name in results if name not in scored]
    if not scored:
        return Result("transfer", findings=[*left])
    frames = {
        table: pl.concat(
            [result.tables[table].select(pl.lit(name).alias("set"), pl.all()) for name, result in scored.items()]
        )
        for table in KEPT
        if all(table in result.tables for result in scored.values())
    }
    # one node a set: that whose charts stand on the set's own page
    nodes = frames["unstressed"].filter(pl.col("node") != BAG).unique("set", keep="last", maintain_order=True)
    scores = frames["scores"].join(nodes.select("set", "node"), on=["set", "node"], how="semi", maintain_order="left")
    measures = nodes["measure"].unique().to_list()
    score = MEASURES[measures[0]] if len(measures) == 1 else "score"
    return Result(
        "transfer",
        tables=frames,
        figures=figures_of_sets(scores, nodes, score),
        findings=[*dimensions_of_sets(scores, nodes), *levels_of_sets(frames["minimum"], nodes), *left],
    )
