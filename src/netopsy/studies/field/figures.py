"""The charts of the study `field`."""

from __future__ import annotations

import polars as pl

from netopsy import charts
from netopsy.result import Figure
from netopsy.studies.field.tree import Grown

_POINTS = 40  # longer lines are drawn without their points


def draw(tables: dict[str, pl.DataFrame], grown: Grown) -> dict[str, Figure]:
    """All charts that there is something to draw in."""
    figures = {}
    theory = tables["fields"]
    if theory.height:
        figures["fields"] = charts.curve(
            theory,
            "node",
            "height",
            zero=True,
            points=theory.height <= _POINTS,
            title="Height of the theoretical field of view, by depth",
            reading="Pixels of the input that a unit can depend on, in order of execution; not cut to the image, but "
            "the image's own height where an operator sees all of it at once.",
            x_title="node",
            y_title="pixels",
        )
    measured = tables["effective"].filter(pl.col("effective_side").is_not_null())
    if measured.height:
        # two probes of one node stand apart
        named = measured.with_columns(
            pl.when(pl.col("channel").is_null())
            .then(pl.col("node"))
            .otherwise(pl.concat_str("node", pl.col("channel").cast(pl.String), "place", separator=":"))
            .alias("unit")
        )
        lines = {"theoretical, cut to the image": "side", "effective": "effective_side"}
        long = pl.concat(
            [
                named.select("unit", pl.col(column).alias("pixels"), pl.lit(name).alias("field"))
                for name, column in lines.items()
            ]
        )
        figures["effective"] = charts.curve(
            long,
            "unit",
            "pixels",
            color="field",
            zero=True,
            title="Theoretical and effective fields, by depth",
            reading="Side of a square as large as the field of the units in the middle; effective: the fewest pixels "
            "that hold most of the squared gradient.",
            source="after Luo et al., 2016",
            x_title="units",
            y_title="side in pixels",
        )
        figures["area_share"] = charts.bars(
            named,
            "unit",
            "area_share",
            percent=True,
            title="How much of the theoretical field is in effect",
            reading="Share of the theoretical field's area that holds most of the squared gradient.",
            source="after Luo et al., 2016",
            category_title="units",
            value_title="share of area",
        )
    if grown.rows:
        figures["tree"] = _tree(tables["tree"], str(grown.unit))
    return figures


def _tree(tree: pl.DataFrame, unit: str) -> Figure:
    columns = {"active": "active_share", "contributing": "contributing_share"}
    long = pl.concat(
        [
            tree.select("node", pl.col(column).alias("share"), pl.lit(name).alias("units"))
            for name, column in columns.items()
        ]
    )
    return charts.curve(
        long,
        "node",
        "share",
        color="units",
        percent=True,
        zero=True,
        points=tree.height <= _POINTS,
        title=f"The activation tree of {unit}",
        reading="Of the units connected to it, the share that is active on the image, and the share that contributes: "
        "on a path of active units and chosen maxima. The gap is what max-pooling and silent units keep out.",
        source="after Palmieri et al., Figure 3",
        x_title="activation",
        y_title="share of the tree's units",
    )
