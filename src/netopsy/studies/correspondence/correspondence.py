"""Did two networks learn the same units? (Li, Yosinski, Clune, Lipson, Hopcroft, "Convergent Learning", ICLR 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from netopsy.charts.passages import reads_passages
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.result import Result
from netopsy.samples.samples import Samples
from netopsy.settings import Interval, Length, NonNegativeInt, PositiveInt, Seed, Unique
from netopsy.studies.correspondence.comoments.pair import pairs_of
from netopsy.studies.correspondence.counting import compare_networks, parse_pairs
from netopsy.studies.correspondence.figures import (
    check_names,
    choose_matrices,
    correlation_table,
    figures,
    matrix_pictures,
    save_matrices,
)
from netopsy.studies.correspondence.findings import findings
from netopsy.studies.correspondence.regression import EXPONENTS
from netopsy.studies.correspondence.shown import filter_pictures, pair_pictures, pair_texts
from netopsy.studies.correspondence.tables import tables
from netopsy.studies.study import REQUIRED, Allowance, Study


@dataclass(frozen=True)
class Correspondence(Study):
    """Whether two networks learned the same units: matchings, regressions, likeness of layers (Li et al., 2016).

    One pass over the samples runs both networks and counts how each unit of the first goes with each of the other.
    Next to every figure stand two controls: the same with the images of one network in another order, and with
    the other network untrained. On texts a row is a token: the same one where both networks have one tokenizer, else
    a token of the first and the one of the other that covers its last character.

    other: the network to compare with.
    layers: pairs of layers or nodes, A:B, or one name for both; by default those of equal name, or of equal position
        where the networks have as many, or else for each layer of the first the one most like it (by linear CKA).
    decays: exponents of ten of the L1 penalties, as the authors count them: the penalty of each unit is the number of
        units of its layer times ten to that power.
    share: of the variance that SVCCA keeps.
    clusters: groups of the co-clustering; by default by the widest gap in the singular values.
    images: on which the mutual information of the matched units is counted.
    bins: of each unit's values, for that.
    top: strongest images of each unit in the picture of the best and worst pairs; 0 draws none.
    drawn: best pairs drawn for a layer, and as many of the worst.
    matrices: compared layers whose matrices of correlations are kept and drawn, by name or pattern (`*` for all); by
        default the first.
    untrained: whether to run the control with the other network's weights drawn anew.
    untrained_draws: how often they are drawn; the control is the mean over the draws, with their spread.
    seed: of the order of the images, of the untrained weights, and of the co-clustering.

    Tables: `layers` (a row a pair of layers, and its controls), `regression` (by decay), `units` (every unit of the
    first network), `chosen` (units of the other that many choose, or none), `map` (every layer with every other),
    `clusters`, `draws` (the untrained control, draw by draw), `correlations` (of the layers of `matrices`, every unit
    with every other; as arrays in the artifacts).
    """

    name: ClassVar[str] = "correspondence"
    allows: ClassVar[tuple[Allowance, ...]] = ("any classes",)

    other: Network = REQUIRED
    layers: tuple[str, ...] = ()
    decays: Annotated[tuple[float, ...], Interval(ge=-20, le=6), Length(1), Unique()] = EXPONENTS
    share: Annotated[float, Interval(gt=0, le=1)] = 0.99
    clusters: PositiveInt | None = None
    images: Annotated[int, Interval(ge=2)] = 1000
    bins: Annotated[int, Interval(ge=2, le=256)] = 16
    top: NonNegativeInt = 9
    drawn: PositiveInt = 3
    matrices: tuple[str, ...] = ()
    untrained: bool = True
    untrained_draws: PositiveInt = 3
    seed: Seed = 0

    def check_on(self, network: Network) -> None:
        for one, two in parse_pairs(self.layers) or ():
            network.node(one)
            self.other.node(two)

    def run(self, network: Network, samples: Samples) -> Result:
        """Compare the units of `network` with those of `other` on `samples`."""
        if len(samples) < 2:
            raise SettingsError(
                f"one {samples.noun} says nothing about correlations; give at least 2, better some thousands."
            )
        every = pairs_of(network, self.other, parse_pairs(self.layers), pairs="all")
        check_names(self.matrices, every)  # before the pass
        comparison = compare_networks(
            network,
            self.other,
            samples,
            layers=self.layers,
            decays=self.decays,
            share=self.share,
            clusters=self.clusters,
            images=self.images,
            bins=self.bins,
            draws=self.untrained_draws if self.untrained else 0,
            seed=self.seed,
        )
        kept = choose_matrices(comparison, self.matrices)
        frames = tables(comparison) | {"correlations": correlation_table(kept)}
        images = matrix_pictures(kept, comparison.networks)
        images |= filter_pictures(comparison, network, self.other, self.drawn)
        pairs = comparison, network, self.other, samples, self.top, self.drawn
        read = reads_passages(network)
        return self.result(
            tables=frames,
            figures=figures(frames, comparison),
            images=images if read or not self.top else images | pair_pictures(*pairs),
            texts=pair_texts(*pairs) if self.top and read else {},
            artifacts=save_matrices(kept),
            findings=[*findings(frames, comparison)],
        )
