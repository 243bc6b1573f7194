"""What a new network could begin with: the laws of this one's weights, its filter basis, and the widths it asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import polars as pl

from netopsy import charts
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.pictures.mosaic import grid, normalise_maps
from netopsy.result import Figure, Finding, Image, Result
from netopsy.samples.samples import Samples
from netopsy.settings import Interval
from netopsy.studies.study import Study, file_for, stem_of, whereabouts
from netopsy.weight_priors.laws import Basis
from netopsy.weight_priors.priors import Priors, priors
from netopsy.wording import alike, listing, number, percent, plural

_HEAVY = 0.5  # excess kurtosis from which tails count as heavier than normal
_LAYER = pl.col("parameter").str.replace(r"[._]weight$", "")


@dataclass(frozen=True)
class WeightPriors(Study):
    """What this network says of the weights of a new one (Lorieul et al., Section I: "a priori knowledge").

    For each role (convolutions by kernel size, linear layers, embeddings, biases, norms) and third of the depth: the
    law that fits its weights best, their standard deviation over that of He's and Glorot's initialisation, how it
    follows the fan-in, the principal directions of the filters, the share of weights that can be pruned, a codebook,
    and how many filters the spectra ask for. The file is read by `netopsy.Priors.load`, which draws new networks.

    share: of the variance of the filters, in whole per cent, that the widths are to hold.
    levels: values of each codebook.

    Tables: `parameters`, `laws`, `scales`, `spectra`, `widths`, `codebooks`.
    """

    name: ClassVar[str] = "priors"

    share: Annotated[float, Interval(ge=0.01, le=0.99)] = 0.9
    levels: Annotated[int, Interval(ge=2, le=4096)] = 32

    def check(self) -> None:
        """Raise SettingsError for a share that is no whole number of per cent."""
        if abs(100 * self.share - round(100 * self.share)) > 1e-9:
            raise SettingsError(f"share {self.share} must be from 0.01 to 0.99 in whole per cent, as 0.9.")

    def run(self, network: Network, samples: Samples | None) -> Result:
        """Take the priors of `network`; needs no images."""
        if not network.layers:
            return self.result(findings=[Finding(f"{network.name} has no layer that a prior could be of.", 0.0)])
        known = priors(network)
        tables = known.tables() | {"widths": known.width_plan(share=self.share), "codebooks": self._codebooks(known)}
        path = known.save(file_for(self.name, f"{stem_of(network)}-priors.safetensors"))
        return self.result(
            tables=tables,
            figures=_figures(tables, self.share),
            images={} if not known.bases else {"basis": _picture(max(known.bases.values(), key=_importance))},
            artifacts={"priors": path},
            findings=[
                *_scales(tables),
                *_families(tables["laws"]),
                *_widths(tables["widths"], self.share),
                *_directions(known),
                *_prunable(tables["parameters"]),
                Finding(
                    f"The priors are in {whereabouts(self.name, path)}; `netopsy.Priors.load` reads them, and its "
                    "`initialise` draws the weights of a new network.",
                    0.5,
                ),
            ],
        )

    def _codebooks(self, known: Priors) -> pl.DataFrame:
        rows = [
            (law.role, law.stage, i, float(value))
            for law in known.laws
            for i, value in enumerate(known.codebook(law.role, self.levels, _MIDDLE[law.stage]))
        ]
        columns = {"role": pl.String, "stage": pl.String, "level": pl.Int64, "value": pl.Float64}
        return pl.DataFrame(rows, schema=columns, orient="row")


_MIDDLE = {"early": 1 / 6, "middle": 1 / 2, "late": 5 / 6}


def _importance(basis: Basis) -> tuple[int, int]:
    return basis.layers, len(basis.variances)


def _weights(parameters: pl.DataFrame) -> pl.DataFrame:
    """The rows of weights that vary, with the layer's name."""
    return parameters.drop_nulls("he").with_columns(layer=_LAYER)


def _figures(tables: dict[str, pl.DataFrame], share: float) -> dict[str, Figure]:
    weights = _weights(tables["parameters"])
    figures = {}
    if weights.height > 1:
        figures["scale"] = charts.curve(
            weights,
            "layer",
            "he",
            title="Standard deviation of the weights over that of He's initialisation",
            zero=True,
            reference=1.0,
            reference_label="He's initialisation",
            reading="One point per layer, in order of execution: above the line its weights are larger than He et al. "
            "(2015) draw them.",
            source="after Lorieul et al., Section II.A",
            y_title="over He's",
        )
    if tables["widths"].height:
        asked = tables["widths"].with_columns(layer=_LAYER, share=pl.col("asked") / pl.col("width"))
        figures["widths"] = charts.bars(
            asked,
            "layer",
            "share",
            percent=True,
            title="Filters that the spectra ask for",
            reading=f"One bar per layer: how many components hold {percent(share)} of the variance of its filters, "
            "over the number that random filters need.",
            source="after Lorieul et al., Figure 2",
            value_title="share of the filters",
        )
    if tables["spectra"].height:
        figures["spectra"] = charts.curve(
            tables["spectra"].with_columns(place=pl.col("direction") / pl.col("direction").max().over("kernel")),
            "place",
            "variance",
            color="kernel",
            percent=True,
            percent_x=True,
            title="Variance of the filters along their principal directions",
            reading="Left: the directions that filters share. A flat line means that they share none.",
            source="after Lorieul et al., Figure 2",
            x_title="directions, the one of most variance first",
            y_title="share of variance",
        )
    return figures


def _picture(basis: Basis) -> Image:
    """The principal directions as small squares, those of a colour image in colour."""
    extent, _, depth = basis.kernel.partition(" of ")
    sides = [int(side) for side in extent.split("x")]
    height, width = (1, sides[0]) if len(sides) == 1 else (math.prod(sides[:-1]), sides[-1])
    maps = normalise_maps(basis.directions.T.reshape(len(basis.directions), int(depth or 1), height, width))
    colour = maps.shape[1] == 3
    sheet = grid(maps.transpose(0, 2, 3, 1) if colour else maps[:, 0] if maps.shape[1] == 1 else maps.mean(1))
    title = f"The {plural(len(maps), 'principal direction')} of the {basis.kernel} filters"
    reading = "The direction of most variance first; mid-gray is 0, and each is scaled to its own largest weight."
    zoom = max(1, min(24, 480 // max(sheet.shape[:2])))
    return Image(sheet, title, reading, "after Lorieul et al., Section II.B", alt=title, zoom=zoom)


def _scales(tables: dict[str, pl.DataFrame]) -> list[Finding]:
    """How far the standard deviations are from what initialisations draw, and how they follow the fan-in."""
    weights = _weights(tables["parameters"]).filter(pl.col("role") != "embedding").sort("he", maintain_order=True)
    findings = []
    if weights.height:
        low, high = weights.row(0, named=True), weights.row(-1, named=True)
        middle, glorot = (float(np.median(weights[name].to_numpy())) for name in ("he", "glorot"))
        text = f"The weights' standard deviation is {number(middle)} times that of He's initialisation"
        if weights.height > 1:
            text += (
                f" in the median layer, {number(low['he'])} ({low['layer']}) to {number(high['he'])} ({high['layer']})"
            )
        findings.append(
            Finding(f"{text}; {number(glorot)} times Glorot's.", min(5.0, abs(math.log2(max(middle, 1e-6)))))
        )
    for row in tables["scales"].drop_nulls("low").iter_rows(named=True):
        if row["high"] - row["low"] > 0.5:
            continue
        apart = row["low"] > -0.5 or row["high"] < -0.5
        text = (
            f"The standard deviation of {row['role']} weights goes with the fan-in to the power "
            f"{number((row['low'] + row['high']) / 2)} (95 % interval {number(row['low'])} to {number(row['high'])}); "
            f"initialisations take -0.5."
        )
        findings.append(Finding(text, 1.5 if apart else 0.5))
    return findings[:3]


def _families(laws: pl.DataFrame) -> list[Finding]:
    """Which laws have tails that a normal initialisation lacks."""
    weights = laws.filter(~pl.col("role").str.starts_with("norm") & (pl.col("role") != "bias"))
    if weights.is_empty():
        return []
    rows = weights.sort("kurtosis", descending=True, nulls_last=True, maintain_order=True)
    heavy, top = rows.filter(pl.col("kurtosis") > _HEAVY).height, rows.row(0, named=True)
    if not heavy:
        text = (
            f"No weights have heavier tails than a normal law (excess kurtosis up to {number(top['kurtosis'] or 0)})."
        )
        return [Finding(text, 0.5)]
    where = f"the {top['stage']} {top['role']} weights" if rows.height > 1 else "the weights"
    many = f" {heavy} of {rows.height} laws have heavy tails." if rows.height > 1 else ""
    text = (
        f"Tails are heavier than normal, most in {where} (excess kurtosis {number(top['kurtosis'])}, best fit "
        f"{top['family']}).{many} Normal initialisations start without them."
    )
    return [Finding(text, min(5.0, float(top["kurtosis"])))]


def _widths(widths: pl.DataFrame, share: float) -> list[Finding]:
    """Where the spectra ask for fewer filters than there are."""
    if widths.is_empty():
        return []
    rows = widths.with_columns(layer=_LAYER, part=pl.col("asked") / pl.col("width"))
    narrow = rows.filter(pl.col("part") < 0.9).sort("part", maintain_order=True)
    if narrow.is_empty():
        text = (
            f"No layer is clearly too wide by its spectrum: {percent(share)} of the variance needs nearly as many "
            "components as in random filters."
        )
        return [Finding(text, 0.5)]
    top = narrow.row(0, named=True)
    names = alike(narrow["layer"].to_list(), (-narrow["part"]).to_list())
    text = (
        f"The spectra ask for fewer filters in {narrow.height} of {plural(rows.height, 'layer')}, least in "
        f"{listing(names, 3)}: {top['asked']} random filters would have as many components as its {top['width']}. "
        "Train a network of these widths to see whether accuracy stays."
    )
    return [Finding(text, min(5.0, 1 / max(0.1, float(top["part"])) - 0.1))]


def _directions(known: Priors) -> list[Finding]:
    """How much filters of one size share."""
    some = [basis for kernel, basis in known.bases.items() if " of " not in kernel]
    if not some:
        return []
    basis = max(some, key=_importance)
    size, first = len(basis.variances), float(basis.variances[0]) / len(basis.variances)
    text = (
        f"The first of {size} principal directions of the {basis.kernel} filters holds {percent(first)} of their "
        f"variance ({percent(1 / size)} if no direction was preferred)."
    )
    return [Finding(text, min(5.0, first * size - 1))]


def _prunable(parameters: pl.DataFrame) -> list[Finding]:
    """Sparsity targets."""
    weights = _weights(parameters).sort("prunable", descending=True, maintain_order=True)
    if weights.is_empty():
        return []
    pruned = weights.filter(pl.col("zeros") > 0.01)
    if pruned.height:
        zeros = float(np.median(pruned["zeros"].to_numpy()))
        text = (
            f"{plural(pruned.height, 'layer')} came pruned (median {percent(zeros)} zeros): targets for a new network."
        )
        return [Finding(text, 2.0)]
    middle, names = (
        float(np.median(weights["prunable"].to_numpy())),
        alike(weights["layer"].to_list(), weights["prunable"].to_list()),
    )
    text = (
        f"The smallest {percent(middle)} of a median layer's weights hold 1 % of its sum of squares, most in "
        f"{listing(names, 3)} ({percent(float(weights['prunable'][0]))}): a first target for pruning."
    )
    return [Finding(text, 0.5)]
