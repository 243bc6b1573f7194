"""The charts and sentences of the study `field`."""

from __future__ import annotations

import math

import polars as pl
from scipy import stats

from netopsy import charts
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.result import Figure
from netopsy.studies.field.tree import ActivationTree
from netopsy.wording import listing, plural

_POINTS = 40  # longer lines are drawn without their points


def draw_figures(tables: dict[str, pl.DataFrame], unit_tree: ActivationTree) -> dict[str, Figure]:
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
    if unit_tree.rows:
        figures["tree"] = _tree_figure(tables["tree"], str(unit_tree.unit))
    return figures


def _tree_figure(tree: pl.DataFrame, unit: str) -> Figure:
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


def findings(
    network: Network,
    tables: dict[str, pl.DataFrame],
    unit_tree: ActivationTree,
    image: int,
    energy: float,
    images: int,
) -> list[str]:
    """Plain sentences, the most important first."""
    sentences = [
        *_tree_finding(network, tables["tree"], unit_tree, image),
        *_effective(tables["effective"], energy, images),
    ]
    return [*sentences, *_theory(tables["fields"])]


def _tree_finding(network: Network, tree: pl.DataFrame, unit_tree: ActivationTree, image: int) -> list[str]:
    if unit_tree.unit is not None and not unit_tree.rows and activations(network, mixing=False):
        why = (
            "nothing lies before the input"
            if unit_tree.unit.node == "input"
            else "an operator before it has no derivative"
        )
        return [f"No tree could be followed from {unit_tree.unit}: {why}."]
    if unit_tree.unit is None or tree.is_empty():
        return ["The network applies no activation function that Netopsy knows, so no unit has an activation tree."]
    unit = str(unit_tree.unit)
    below = tree.filter(pl.col("node") != unit_tree.unit.node)
    if below.is_empty():
        return [f"No activation lies between the image and {unit}: its tree is its weights."]
    total, active, helpers = (int(below[column].sum()) for column in ("in_tree", "active", "contributing"))
    if not helpers:
        return [f"{unit} is silent on image {image} or reached by no active unit: nothing contributes to it there."]
    text = (
        f"{plural(total, 'unit')} in {plural(below.height, 'activation')} are connected to {unit}; on image "
        f"{image}, where it "
        f"is {unit_tree.value:.3g}, {active:,} of them ({active / total:.0%}) are active and {helpers:,} "
        f"({helpers / total:.0%}) contribute: {helpers / max(1, active):.0%} of the active ones."
    )
    sentences = [text]
    lost = below.filter(pl.col("of_active") < 0.99).sort("of_active", maintain_order=True)
    if lost.height:
        parts = [f"{node} ({share:.0%})" for node, share in lost.select("node", "of_active").iter_rows()]
        sentences.append(
            "Active units that do not contribute lost to another in a max-pooling window, or reach only silent units; "
            f"the share that contributes is below 99% in {listing(parts)}."
        )
    return sentences


def _effective(effective: pl.DataFrame, energy: float, images: int) -> list[str]:
    finite = effective.filter(pl.col("area_share").is_not_null())
    units, spread = finite.filter(pl.col("channel").is_not_null()), finite.filter(pl.col("channel").is_null())
    sentences = []
    for rows in (units, spread[[0, -1]] if spread.height > 1 else spread):
        if rows.height:
            parts = [
                f"{row['area_share']:.0%} of the field of {_name(row)} ({row['side']:.0f} pixels square, in effect "
                f"{row['effective_side']:.0f})"
                for row in rows.iter_rows(named=True)
            ]
            where = f"{energy:.0%} of the squared gradient lies in {listing(parts, len(parts))}"
            sentences.append(f"Over {plural(images, 'image')}, {where}.")
    sentences += _shrinking(spread.filter(~pl.col("cut")))
    silent = effective.filter(pl.col("area_share").is_null())
    if silent.height:
        names = [_name(row) for row in silent.iter_rows(named=True)]
        sentences.append(f"No finite gradient other than zero reaches the image from {listing(names)}.")
    return sentences


def _shrinking(uncut: pl.DataFrame) -> list[str]:
    """Whether the effective part of the field falls with depth, among fields that the image does not cut."""
    if uncut.height < 3:
        return []
    shares = uncut["area_share"].to_numpy()
    rank = float(stats.spearmanr(range(len(shares)), shares).statistic)
    if math.isnan(rank):
        return []
    word = "shrinks" if rank < -0.3 else "grows" if rank > 0.3 else "neither grows nor shrinks"
    return [
        "Luo et al. find that the effective part of the field shrinks with depth; among the "
        f"{plural(uncut.height, 'node')} "
        f"whose fields fit into the image it {word}, from {shares[0]:.0%} to {shares[-1]:.0%} "
        f"(rank correlation {rank:+.2f})."
    ]


def _theory(fields: pl.DataFrame) -> list[str]:
    if fields.is_empty():
        return []
    first, last = fields.row(0, named=True), fields.row(-1, named=True)
    text = f"A unit of {first['node']} can depend on {first['height']:g} x {first['width']:g} pixels"
    if fields.height > 1:
        text += f", one of {last['node']} on {last['height']:g} x {last['width']:g}"
    covering = fields.filter(pl.col("covers") >= 1)
    if covering.height:
        text += f"; the first whose middle units see the whole image is {covering['node'][0]}"
    sentences = [f"{text}."]
    loose = fields.filter(~pl.col("exact"))
    if loose.height:
        names = listing(loose["node"].to_list(), 3)
        sentences.append(
            f"The fields of {plural(loose.height, 'node')} ({names}) are upper bounds: {loose['because'][0]} mixes "
            "positions in a way that is not followed."
        )
    return sentences


def _name(row: dict[str, object]) -> str:
    return str(row["node"]) if row["channel"] is None else f"{row['node']}:{row['channel']}:{row['place']}".rstrip(":")


def far(away: pl.DataFrame, noun: str) -> list[str]:
    """How far units look along a text or a recording. away: the table `distances`."""
    if away.is_empty():
        return ["No gradient reaches the input from the units that lie along it, so how far they look is unknown."]
    first, last = away.row(0, named=True), away.row(-1, named=True)
    lines = [
        f"A unit of {row['node']} looks {row['mean']:.1f} places far on average (90 % of its squared gradient within "
        f"{row['radius']:.0f}), over {plural(row['samples'], noun)}; {row['itself']:.0%} of it lies at its own place."
        for row in ([first, last] if away.height > 1 else [first])
    ]
    ahead = away.filter(pl.col("after") > 0)
    if ahead.is_empty():
        lines.append("No unit looks ahead: nothing after its place has any gradient (a causal network).")
    elif (away["before"] == 0).all():
        lines.append("No unit looks back.")
    return lines
