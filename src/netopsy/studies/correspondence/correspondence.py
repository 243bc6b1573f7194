"""Did two networks learn the same units? (Li, Yosinski, Clune, Lipson, Hopcroft, "Convergent Learning", ICLR 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netopsy.checks import check_int, check_real
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.result import Result
from netopsy.samples.samples import Samples
from netopsy.studies.correspondence.counting import compare_networks
from netopsy.studies.correspondence.figures import figures
from netopsy.studies.correspondence.findings import findings
from netopsy.studies.correspondence.pictures import picture
from netopsy.studies.correspondence.regression import EXPONENTS
from netopsy.studies.correspondence.tables import tables
from netopsy.studies.study import REQUIRED, Allowance, Study


@dataclass(frozen=True)
class Correspondence(Study):
    """Whether two networks learned the same units: matchings, regressions, likeness of layers (Li et al., 2016).

    One pass over the samples runs both networks and counts how each unit of the first goes with each of the other.
    Beside every figure stand two controls: the same with the images of one network in another order, and with
    the other network untrained.

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
    untrained: whether to run the control with the other network's weights drawn anew.
    seed: of the order of the images, of the untrained weights, and of the co-clustering.

    Tables: `layers` (a row a pair of layers, and its controls), `regression` (by decay), `units` (every unit of the
    first network), `chosen` (units of the other that many choose, or none), `map` (every layer with every other),
    `clusters`.
    """

    name: ClassVar[str] = "correspondence"
    allows: ClassVar[tuple[Allowance, ...]] = ("any classes",)

    other: Network = REQUIRED
    layers: tuple[str, ...] = ()
    decays: tuple[float, ...] = EXPONENTS
    share: float = 0.99
    clusters: int | None = None
    images: int = 1000
    bins: int = 16
    top: int = 9
    drawn: int = 3
    untrained: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_real(self, "share", 0, 1, open_low=True)
        for name, least in (("images", 2), ("bins", 2), ("top", 0), ("drawn", 1), ("seed", 0)):
            check_int(self, name, least)
        if self.clusters is not None:
            check_int(self, "clusters", 1)
        if self.bins > 256:
            raise SettingsError(f"bins {self.bins} is out of range; give a whole number from 2 to 256.")
        if not self.decays or any(not -20 <= decay <= 6 for decay in self.decays):
            raise SettingsError(
                f"decays {self.decays} must be exponents of ten from -20 to 6, for instance -4,-3,-2.6."
            )

    def run(self, network: Network, samples: Samples) -> Result:
        """Compare the units of `network` with those of `other` on `samples`."""
        if len(samples) < 2:
            raise SettingsError("one image says nothing about correlations; give at least 2, better some thousands.")
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
            untrained=self.untrained,
            seed=self.seed,
        )
        frames = tables(comparison)
        image = picture(comparison, network, self.other, samples, self.top, self.drawn) if self.top else None
        return self.result(
            tables=frames,
            figures=figures(frames, comparison),
            images={} if image is None else {"pairs": image},
            findings=findings(frames, comparison),
        )
