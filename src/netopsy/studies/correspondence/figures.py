"""The figures of the study `correspondence`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from netopsy.charts import curve, heatmap
from netopsy.result import Figure
from netopsy.studies.correspondence.counting import NETWORKS, SHUFFLED, UNTRAINED, Comparison

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


def _matching(layers: pl.DataFrame) -> Figure:
    names = {"semi": "best partner", "bipartite": "one-to-one partner", "within": "best in its own layer"}
    return curve(
        _long(layers, names, ("semi", "bipartite")),
        "layer",
        "value",
        color="what",
        x_title="layer, in order of execution",
        y_title="mean correlation",
        color_title="of a unit with its",
        zero=True,
        title="How well units find a partner",
        reading="Shuffled: the images of one network in another order. Untrained: the other network with new weights.",
        source=f"{SOURCE}, Section 3",
    )


def _likeness(layers: pl.DataFrame) -> Figure:
    names = {"cka": "linear CKA", "svcca": "SVCCA", "pwcca": "PWCCA", "procrustes": "Procrustes"}
    return curve(
        _long(layers, names, ("cka", "pwcca")),
        "layer",
        "value",
        color="what",
        x_title="layer, in order of execution",
        y_title="likeness, 0 to 1",
        color_title="index",
        zero=True,
        title="How alike the layers are as a whole",
        reading="1 is the same up to a rotation (CKA, Procrustes) or up to an invertible map (SVCCA, PWCCA).",
        source="Kornblith et al., 2019; Raghu et al., 2017; Morcos et al., 2018; Ding et al., 2021",
    )


def _sorted_curves(units: pl.DataFrame, comparison: Comparison) -> Figure:
    names = units["layer"].unique(maintain_order=True).to_list()
    step = max(1, -(-len(names) // _CURVES))
    parts = []
    for name in names[::step]:
        rows = units.filter((pl.col("layer") == name) & ~pl.col("dead") & pl.col("best_correlation").is_not_null())
        parts.append(_falling(name, rows["best_correlation"]))
    for of in (SHUFFLED, UNTRAINED):
        correlations = [
            c.semi.correlation[c.semi.matched] for rows in comparison.compared.values() for c in rows if c.of == of
        ]
        if correlations:
            parts.append(_falling(f"all layers{WORDS[of]}", pl.Series(np.concatenate(correlations))))
    empty = pl.DataFrame(schema={"layer": pl.String, "share": pl.Float64, "correlation": pl.Float64})
    return curve(
        pl.concat([empty, *parts]),
        "share",
        "correlation",
        color="layer",
        percent_x=True,
        x_title="share of the layer's units",
        y_title="correlation with the best partner",
        points=False,
        title="Units by how well the other network has them",
        reading="Each layer's live units from the best matched to the worst. A line that stays high: most units have a "
        "counterpart. One that falls at once: a few do. The controls are of the units of all layers together.",
        source=f"{SOURCE}, Figure 4",
    )


def _falling(name: str, correlations: pl.Series) -> pl.DataFrame:
    """The correlations from the highest down, over the share of the units that reach them."""
    ordered = correlations.sort(descending=True)
    share = pl.int_range(1, len(ordered) + 1, eager=True) / max(1, len(ordered))
    return pl.DataFrame({"layer": [name] * len(ordered), "share": share, "correlation": ordered})


def _regression(regression: pl.DataFrame) -> Figure:
    names = regression["layer"].unique(maintain_order=True).to_list()
    step = max(1, -(-len(names) // _CURVES))
    pairs = regression.filter((pl.col("of") == NETWORKS) & (pl.col("used") > 0))
    curves = [
        pairs.filter(pl.col("layer") == name).select("layer", "used", "error").sort("used") for name in names[::step]
    ]
    for of in (SHUFFLED, UNTRAINED):
        means = regression.filter(pl.col("of") == of).group_by("decay", maintain_order=True)
        mean = means.agg(pl.col("used", "error").mean()).filter(pl.col("used") > 0).sort("used")
        curves.append(mean.select(pl.lit(f"mean of all{WORDS[of]}").alias("layer"), "used", "error"))
    return curve(
        pl.concat(curves),
        "used",
        "error",
        color="layer",
        log_x=True,
        zero=True,
        x_title="units of the other network used, mean",
        y_title="squared error of a unit of variance 1",
        title="How many units it takes to predict one",
        reading="Right end: least squares with all units. To the left the L1 penalty grows. 1 is no prediction at all. "
        "The controls are means over all layers.",
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
