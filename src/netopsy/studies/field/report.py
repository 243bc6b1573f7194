"""The charts and sentences of the study `field`."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from scipy import stats

from netopsy import charts
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.result import Figure, Finding
from netopsy.studies.field.tree import ActivationTree
from netopsy.wording import between, chance, listing, number, percent, plural

_WHOLE, _PLACE = "of the whole image", "of one place"

_POINTS = 40  # longer lines are drawn without their points


def draw_figures(tables: dict[str, pl.DataFrame], unit_tree: ActivationTree) -> dict[str, Figure]:
    """All charts that there is something to draw in."""
    figures = {}
    theory = tables["fields"]
    if theory.height:
        at_once = pl.when((pl.col("rows") == 1) & (pl.col("columns") == 1))
        figures["fields"] = charts.curve(
            theory.with_columns(at_once.then(pl.lit(_WHOLE)).otherwise(pl.lit(_PLACE)).alias("units")),
            "node",
            "height",
            color="units",
            zero=True,
            points=theory.height <= _POINTS,
            title="Height of the theoretical field of view, by depth",
            reading="Pixels of the input that a unit can depend on, in order of execution, not cut to the image; a "
            "unit of the whole image depends on all of it at once, and its field is the image.",
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
) -> list[Finding]:
    """Plain sentences, the most important first."""
    return [
        *_effective(tables["effective"], energy, images),
        *_theory(tables["fields"]),
        *_tree_finding(network, tables["tree"], unit_tree, image),
    ]


def _tree_finding(network: Network, tree: pl.DataFrame, unit_tree: ActivationTree, image: int) -> list[Finding]:
    if unit_tree.unit is not None and not unit_tree.rows and activations(network, mixing=False):
        why = (
            "nothing lies before the input"
            if unit_tree.unit.node == "input"
            else "an operator before it has no derivative"
        )
        return [Finding(f"No tree could be followed from {unit_tree.unit}: {why}.", 0.0)]
    if unit_tree.unit is None or tree.is_empty():
        text = "The network applies no activation function that Netopsy knows, so no unit has an activation tree."
        return [Finding(text, 0.0)]
    unit = str(unit_tree.unit)
    below = tree.filter(pl.col("node") != unit_tree.unit.node)
    if below.is_empty():
        return [Finding(f"No activation lies between the image and {unit}: its tree is its weights.", 0.0)]
    total, active, helpers = (int(below[column].sum()) for column in ("in_tree", "active", "contributing"))
    if not helpers:
        text = f"{unit} is silent on image {image} or no active unit reaches it: nothing contributes to it there."
        return [Finding(text, 0.0)]
    where = plural(below.height, "activation layer")
    text = (
        f"On image {image}, {helpers:,} of the {plural(total, 'unit')} in {where} before {unit} contribute to it "
        f"({percent(helpers / total)}), of {active:,} that are active."
    )
    sentences = [Finding(text, 1.0)]
    lost = below.filter(pl.col("of_active") < 0.99).sort("of_active", maintain_order=True)
    if lost.height:
        node, share = lost.select("node", "of_active").row(0)
        text = (
            "Some active units contribute nothing: max-pooling discards them, or only silent units follow; of those in "
            f"{node} {percent(share)} contribute."
        )
        sentences.append(Finding(text, 1.0))
    return sentences


def _effective(effective: pl.DataFrame, energy: float, images: int) -> list[Finding]:
    finite = effective.filter(pl.col("area_share").is_not_null())
    units, spread = finite.filter(pl.col("channel").is_not_null()), finite.filter(pl.col("channel").is_null())
    sentences = []
    for row in [*units.iter_rows(named=True), *spread[-1:].iter_rows(named=True)]:
        text = (
            f"{_name(row)} effectively sees {percent(row['area_share'])} of its receptive field: a square of "
            f"{number(row['effective_side'])} pixels, of {number(row['side'])}, holds {percent(energy)} of the squared "
            f"gradient on {plural(images, 'image')}."
        )
        sentences.append(Finding(text, min(5.0, 0.5 / max(0.1, row["area_share"]))))
    sentences = sentences[-_MOST:] + _shrinking(spread.filter(~pl.col("cut")))
    silent = effective.filter(pl.col("area_share").is_null())
    if silent.height:
        names = [_name(row) for row in silent.iter_rows(named=True)]
        sentences.append(Finding(f"No finite gradient reaches the image from {listing(names)}.", 2.0))
    return sentences


_MOST = 3  # sentences about single fields


def _shrinking(uncut: pl.DataFrame) -> list[Finding]:
    """Whether the effective part of the field changes with depth, among fields that the image does not cut."""
    if uncut.height < 4:
        return []
    shares = uncut["area_share"].to_numpy()
    test = stats.spearmanr(range(len(shares)), shares)
    rank, p = float(test.statistic), float(test.pvalue)
    if not p < 0.05:
        return []
    text = (
        f"The effective part of the field {'grows' if rank > 0 else 'shrinks'} with depth, from "
        f"{percent(shares[0])} to {percent(shares[-1])} over the {plural(uncut.height, 'node')} whose "
        f"fields fit into the image (rank correlation {rank:+.2f}, {chance(p)})."
    )
    return [Finding(text, abs(rank) * (uncut.height - 1) ** 0.5 / 1.96)]


def _theory(fields: pl.DataFrame) -> list[Finding]:
    if fields.is_empty():
        return []
    first, last = fields.row(0, named=True), fields.row(-1, named=True)
    covering = fields.filter(pl.col("covers") >= 1)
    if covering.height:
        text = f"The first layer whose middle units can see the whole image is {covering['node'][0]}; units of "
        text += f"{first['node']} see {number(first['height'])} x {number(first['width'])} pixels."
    else:
        text = (
            f"No unit sees the whole image: the deepest, of {last['node']}, can depend on {number(last['height'])} x "
            f"{number(last['width'])} pixels."
        )
    sentences = [Finding(text, 1.0)]
    loose = fields.filter(~pl.col("exact"))
    if loose.height:
        names = listing(loose["node"].to_list(), 3)
        text = (
            f"The fields of {plural(loose.height, 'node')} ({names}) are upper bounds, because {loose['because'][0]} "
            "mixes positions in a way that Netopsy does not follow."
        )
        sentences.append(Finding(text, 0.0))
    return sentences


def _name(row: dict[str, object]) -> str:
    return str(row["node"]) if row["channel"] is None else f"{row['node']}:{row['channel']}:{row['place']}".rstrip(":")


def far(away: pl.DataFrame, noun: str, apart: Sequence[str] = ()) -> list[Finding]:
    """How far units look along a text or a recording. away: the table `distances`. apart: nodes that lie along another
    sequence than what they are traced back to.
    """
    lines = []
    if apart:
        lie, are = ("lie", "they are") if len(apart) > 1 else ("lies", "it is")
        text = f"Left out: {listing(apart, 2)} {lie} along another sequence than the input that {are} traced back to."
        lines.append(Finding(text, 0.0))
    if away.is_empty():
        text = "No gradient reaches the input from the units that lie along it, so how far they look is unknown."
        return [*lines, Finding(text, 1.0)]
    for row in away[[0, -1]].iter_rows(named=True) if away.height > 1 else away.iter_rows(named=True):
        span = between(number(row["mean_low"]), number(row["mean_high"]))
        text = (
            f"Units of {row['node']} look {number(row['mean'])} places away on average ({span}) over "
            f"{plural(row['samples'], noun)}; {percent(row['itself'])} of their squared gradient lies at their own."
        )
        lines.append(Finding(text, min(5.0, max(0.5, 2 * row["mean"] / max(1e-6, row["mean_high"] - row["mean_low"])))))
    ahead = away.filter(pl.col("after") > 0)
    if ahead.is_empty():
        lines.append(Finding("No unit looks ahead: the network is causal.", 1.0))
    elif (away["before"] == 0).all():
        lines.append(Finding("No unit looks back.", 1.0))
    return lines
