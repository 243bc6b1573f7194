"""The figures of the study `correspondence`: charts, and the matrices of correlations, as arrays and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64, UInt8

from netopsy.charts import curve, heatmap
from netopsy.errors import UnknownLayer, nearest
from netopsy.pictures.mosaic import below, beside, caption, fit_side
from netopsy.result import Figure, Image, Panel
from netopsy.stats.describe import spread_indices
from netopsy.stats.matching import NOBODY, Matching
from netopsy.studies.correspondence.counting import NETWORKS, SHUFFLED, UNTRAINED, Comparison, Names
from netopsy.studies.study import file_for
from netopsy.wording import two

SOURCE = "Li et al., Convergent Learning, ICLR 2016"
WORDS = {NETWORKS: "", SHUFFLED: ", shuffled", UNTRAINED: ", untrained"}
_CURVES = 12  # sorted correlations of at most so many layers


def figures(tables: Mapping[str, pl.DataFrame], comparison: Comparison) -> dict[str, Figure]:
    """By depth: matchings and likeness; the sorted correlations; errors by units used; the map."""
    charts = {}
    layers = tables["layers"].with_columns(layer=pair_name(tables["layers"]))
    if len(comparison.compared) > 1:
        charts["matching"] = _matching(layers)
        charts["likeness"] = _likeness(layers)
    charts["units"] = _sorted_curves(tables["units"].with_columns(layer=pair_name(tables["units"])), comparison)
    charts["regression"] = _regression(tables["regression"].with_columns(layer=pair_name(tables["regression"])))
    if comparison.map is not None:
        charts["map"] = _map(comparison, NETWORKS)
        if comparison.map["cka_untrained"].is_not_null().any():
            charts["map untrained"] = _map(comparison, UNTRAINED)
    return charts


def pair_name(frame: pl.DataFrame) -> pl.Series:
    """`conv1`, or `conv1 - features.0` where the names differ."""
    a, b = frame["layer_a"].to_list(), frame["layer_b"].to_list()
    return pl.Series([x if x == y else f"{x} - {y}" for x, y in zip(a, b, strict=True)], dtype=pl.String)


def _long(layers: pl.DataFrame, names: Mapping[str, str], controls: tuple[str, ...]) -> pl.DataFrame:
    """layer, value, what: one row a figure and layer; the controls only of the names in `controls`."""
    parts = []
    for of, suffix in WORDS.items():
        rows = layers.filter(pl.col("of") == of)
        for column, word in names.items():
            if rows.height and (of == NETWORKS or column in controls):
                parts.append(rows.select("layer", value=pl.col(column), what=pl.lit(word + suffix)))
    return pl.concat(parts).filter(pl.col("value").is_not_null())


def _control_names(names: Mapping[str, str], controls: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(names[column] + suffix for suffix in WORDS.values() if suffix for column in controls)


def _matching(layers: pl.DataFrame) -> Figure:
    names = {"semi_matched": "best partner", "bipartite": "one-to-one partner", "within": "best in its own layer"}
    return curve(
        _long(layers, names, ("semi_matched", "bipartite")),
        "layer",
        "value",
        color="what",
        controls=_control_names(names, ("semi_matched", "bipartite")),
        x_title="layer, in order of execution",
        y_title="mean correlation",
        color_title="of a unit with its",
        zero=True,
        title="How well units find a partner",
        reading="Both partners are of the same units, those with a one-to-one partner. Shuffled: the images of one "
        "network in another order. Untrained: the other network with new weights.",
        source=f"{SOURCE}, Section 3",
    )


def _likeness(layers: pl.DataFrame) -> Figure:
    names = {"cka": "linear CKA", "svcca": "SVCCA", "pwcca": "PWCCA", "procrustes": "Procrustes"}
    return curve(
        _long(layers, names, ("cka", "pwcca")),
        "layer",
        "value",
        color="what",
        controls=_control_names(names, ("cka", "pwcca")),
        x_title="layer, in order of execution",
        y_title="likeness, 0 to 1",
        color_title="index",
        zero=True,
        title="How alike the layers are as a whole",
        reading="1 is the same up to a rotation (CKA, Procrustes) or up to an invertible map (SVCCA, PWCCA).",
        source="Kornblith et al., 2019; Raghu et al., 2017; Morcos et al., 2018; Ding et al., 2021",
    )


_BETWEEN = "the two networks"
_MEANS = (f"all layers{WORDS[SHUFFLED]}", f"all layers{WORDS[UNTRAINED]}")


def _multiples(parts: Mapping[str, pl.DataFrame], controls: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """One small chart a layer, the same controls in each: the parts with the columns `layer` and `of`."""
    return pl.concat(
        frame.with_columns(layer=pl.lit(layer), of=pl.lit(of))
        for layer, part in parts.items()
        for of, frame in ({_BETWEEN: part} | dict(controls)).items()
    )


def _sorted_curves(units: pl.DataFrame, comparison: Comparison) -> Figure:
    names = units["layer"].unique(maintain_order=True).to_list()
    parts = {}
    for name in names[:: max(1, -(-len(names) // _CURVES))]:
        rows = units.filter((pl.col("layer") == name) & ~pl.col("dead") & pl.col("best_correlation").is_not_null())
        parts[name] = _falling(rows["best_correlation"])
    controls = {}
    for of, words in zip((SHUFFLED, UNTRAINED), _MEANS, strict=True):
        correlations = [
            c.semi.correlation[c.semi.matched] for rows in comparison.compared.values() for c in rows if c.of == of
        ]
        if correlations:
            controls[words] = _falling(pl.Series(np.concatenate(correlations)))
    return curve(
        _multiples(parts, controls),
        "share",
        "correlation",
        color="of",
        controls=tuple(controls),
        facet="layer",
        percent_x=True,
        x_title="share of units",
        y_title="correlation",
        title="Units by how well the other network has them",
        reading="Each layer's live units by their correlation with the best partner, the best first. A line that stays "
        "high: most units have a counterpart. One that falls at once: a few do.",
        source=f"{SOURCE}, Figure 4",
    )


_POINTS = 100  # of a falling line


def _falling(correlations: pl.Series) -> pl.DataFrame:
    """The correlations from the highest down, over the share of the units that reach them; at most 100, evenly."""
    ordered = correlations.sort(descending=True)
    share = pl.int_range(1, len(ordered) + 1, eager=True) / max(1, len(ordered))
    return pl.DataFrame({"share": share, "correlation": ordered})[spread_indices(len(ordered), _POINTS)]


def _regression(regression: pl.DataFrame) -> Figure:
    names = regression["layer"].unique(maintain_order=True).to_list()
    used = pl.col("used") > 0
    pairs = regression.filter((pl.col("of") == NETWORKS) & used)
    parts = {
        name: pairs.filter(pl.col("layer") == name).select("used", "error").sort("used")
        for name in names[:: max(1, -(-len(names) // _CURVES))]
    }
    controls = {}
    for of, words in zip((SHUFFLED, UNTRAINED), _MEANS, strict=True):
        means = regression.filter(pl.col("of") == of).group_by("decay", maintain_order=True)
        mean = means.agg(pl.col("used", "error").mean()).filter(used).sort("used")
        if mean.height:
            controls[words] = mean.select("used", "error")
    return curve(
        _multiples(parts, controls),
        "used",
        "error",
        color="of",
        controls=tuple(controls),
        facet="layer",
        log_x=True,
        zero=True,
        x_title="units used, mean",
        y_title="squared error",
        title="How many units it takes to predict one",
        reading="Squared error (the whole, not half of it) of a unit of variance 1, over the units of the other "
        "network used. Right end: least squares with all of them. To the left the L1 penalty grows. 1 is no prediction "
        "at all.",
        source=f"{SOURCE}, Section 4",
    )


def _map(comparison: Comparison, of: str) -> Figure:
    assert comparison.map is not None
    shuffled = float(comparison.map["cka_shuffled"].mean())  # type: ignore[arg-type]
    return heatmap(
        comparison.map,
        "layer_b",
        "layer_a",
        "cka" if of == NETWORKS else "cka_untrained",
        domain=(0.0, 1.0),
        x_title=f"layer of {comparison.networks[1]}{WORDS[of]}",
        y_title=f"layer of {comparison.networks[0]}",
        value_title="linear CKA",
        title=f"Every layer with every other{WORDS[of]}",
        reading="Bright where two layers span the same. A bright diagonal: both networks go the same way. With the "
        f"images shuffled the mean is {shuffled:.2f}.",
        source="Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019",
    )


_TABLED = 2**18  # correlations of a pair of layers that the table lists; the array has any number
_SIDE = 264  # screen pixels of a matrix, about
_LOW, _MIDDLE, _HIGH = ((33, 72, 150), (255, 255, 255), (150, 62, 0))  # of -1, 0 and 1


@dataclass(frozen=True)
class Matrices:
    """Correlations of p units of a layer of A and q units of a layer of B, -1 to 1; 0 where a unit is dead.

    between: of each unit of A with each of B. within_a, within_b: of the units of one layer with one another. order_a,
    order_b: the units with a one-to-one partner first, those of A by number and those of B as their partners, then the
    rest by number. one_to_one, best: the matchings.
    """

    layers: Names
    between: Float64[np.ndarray, "p q"]
    within_a: Float64[np.ndarray, "p p"]
    within_b: Float64[np.ndarray, "q q"]
    order_a: Int64[np.ndarray, " p"]
    order_b: Int64[np.ndarray, " q"]
    one_to_one: Matching
    best: Matching

    @property
    def permuted(self) -> Float64[np.ndarray, "p q"]:
        """`between` in the order of `order_a` and `order_b`: partners on the diagonal (Li et al., Figure 2)."""
        return self.between[np.ix_(self.order_a, self.order_b)]

    @property
    def title(self) -> str:
        """`conv1`, or `conv1 - features.0` where the names differ."""
        a, b = self.layers
        return a if a == b else f"{a} - {b}"


def check_names(names: Sequence[str], pairs: Sequence[Names]) -> None:
    """Raise UnknownLayer for one of `names` that fits none of `pairs` that may be compared."""
    for name in names:
        if not any(_fits(name, pair) for pair in pairs):
            listed = list(dict.fromkeys(a if a == b else f"{a}:{b}" for a, b in pairs))
            raise UnknownLayer(
                f"matrices names '{name}', which is none of the compared layers; nearest: {nearest(name, listed)}."
            )


def _fits(name: str, pair: Names) -> bool:
    return fnmatchcase(pair[0], name) or fnmatchcase(":".join(pair), name)


def choose_matrices(comparison: Comparison, names: Sequence[str]) -> list[Matrices]:
    """The matrices of the compared pairs that `names` asks for; by default of the first pair.

    names: of layers of the first network, of pairs A:B, or patterns of either. UnknownLayer for one that fits none.
    """
    pairs = list(comparison.compared)
    check_names(names, pairs)
    chosen = [pair for name in names for pair in pairs if _fits(name, pair)] or pairs[:1]
    return [_matrices(comparison, pair) for pair in dict.fromkeys(chosen)]


def _matrices(comparison: Comparison, names: Names) -> Matrices:
    compared = comparison.compared[names][0]
    pair, matching = compared.pair, compared.bipartite
    matched, partners = matching.matched, matching.partner[matching.matched]
    order_a, order_b = (
        np.concatenate([first, np.setdiff1d(np.arange(count), first)]).astype(np.int64)
        for first, count in zip((matched, partners), pair.correlation.shape, strict=True)
    )
    within_a, within_b = pair.correlation_aa, pair.correlation_bb
    return Matrices(names, pair.correlation, within_a, within_b, order_a, order_b, matching, compared.semi)


def save_matrices(matrices: Sequence[Matrices]) -> dict[str, Path]:
    """One `.npz` file a pair of layers, by its name; `numpy.load` opens it without pickle."""
    files = {}
    for one in matrices:
        path = file_for("correspondence", f"correlations-{one.title.replace(' - ', '-')}.npz")
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                between=one.between,
                permuted=one.permuted,
                within_a=one.within_a,
                within_b=one.within_b,
                order_a=one.order_a,
                order_b=one.order_b,
                partner=one.one_to_one.partner,
                best_partner=one.best.partner,
            )
        files[path.name] = path
    return files


_SCHEMA: Mapping[str, type[pl.DataType]] = {
    **{"layer_a": pl.String, "layer_b": pl.String, "unit_a": pl.Int64, "unit_b": pl.Int64},
    **{"correlation": pl.Float64, "partner": pl.Boolean, "best_partner": pl.Boolean},
}


def correlation_table(matrices: Sequence[Matrices]) -> pl.DataFrame:
    """A row a unit of A and a unit of B: their correlation, and whether either matching makes them partners."""
    frames = [pl.DataFrame(schema=_SCHEMA)]
    for one in matrices:
        p, q = one.between.shape
        if p * q > _TABLED:
            continue
        a, b = np.divmod(np.arange(p * q), q)
        partners = [(m.partner[a] == b) & (m.partner[a] != NOBODY) for m in (one.one_to_one, one.best)]
        layers = [[name] * (p * q) for name in one.layers]
        columns = dict(zip(_SCHEMA, [*layers, a, b, one.between.ravel(), *partners], strict=True))
        frames.append(pl.DataFrame(columns, schema=_SCHEMA))
    return pl.concat(frames)


def matrix_pictures(matrices: Sequence[Matrices], networks: Names) -> dict[str, Image]:
    """For each pair of layers its matrices: before and after the permutation, and within each network."""
    return {f"matrices {one.title}": _picture(one, networks) for one in matrices}


def _picture(one: Matrices, networks: Names) -> Image:
    p, q = one.between.shape
    a, b = ("A", "B")
    rows = [
        (("between A and B, as they are", one.between), ("between, B in the order of its partners", one.permuted)),
        ((f"within A ({p} units)", one.within_a), (f"within B ({q} units)", one.within_b)),
    ]
    panels = [beside([_square(words, matrix) for words, matrix in row], gap=16) for row in rows]
    pixels = below([*panels, _key()], gap=8)
    matched = one.one_to_one.mean
    rest = np.delete(one.between.ravel(), one.one_to_one.matched * q + one.one_to_one.partner[one.one_to_one.matched])
    others = f" All others correlate by {two(float(rest.mean()))} on average." if len(rest) else ""
    return Image(
        pixels,
        f"Correlations of the units at {one.title}",
        f"Rows are the units of {networks[0]} ({a}), columns those of {networks[1]} ({b}). Left as the networks number "
        f"them; right with each unit of {b} under the number of its one-to-one partner, so that partners lie on the "
        f"diagonal: they correlate by {two(matched)} on average.{others} Below: each layer with itself.",
        "Li et al., Convergent Learning, ICLR 2016, Figure 2",
        alt=f"Four matrices of correlations at {one.title}: between the networks before and after the units are "
        "matched, and within each network.",
        panels=tuple(Panel(words, (colours(matrix),), words) for row in rows for words, matrix in row),
    )


def _square(words: str, matrix: Float64[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "height width 3"]:
    """A matrix in colours under its name; at least a square of the screen a cell, where there are few."""
    cells = colours(matrix)
    zoom = max(1, _SIDE // max(matrix.shape))
    square = cells.repeat(zoom, 0).repeat(zoom, 1) if max(matrix.shape) <= _SIDE else fit_side(cells, _SIDE)
    framed = np.pad(square, ((1, 1), (1, 1), (0, 0)), constant_values=150)
    return below([caption(words, max(framed.shape[1], _SIDE)), framed])


def colours(correlation: Float64[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Blue for -1, white for 0, brown for 1; dark in print at both ends."""
    strength = np.abs(correlation)[..., None]
    ends = np.where((correlation < 0)[..., None], np.array(_LOW), np.array(_HIGH))
    return np.rint(_MIDDLE + (ends - np.array(_MIDDLE)) * strength).astype(np.uint8)


def _key() -> UInt8[np.ndarray, "height width 3"]:
    """The scale of the colours."""
    bar = colours(np.linspace(-1, 1, 181)[None]).repeat(12, 0)
    return beside([caption("-1"), np.pad(bar, ((4, 3), (0, 0), (0, 0)), constant_values=255), caption("1")], gap=2)
