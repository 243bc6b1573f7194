"""How k-means finds the shared weights of a layer: where its starts lie, and where they end (Han et al., Figure 6)."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float

from netopsy.charts.parts import color_channel, inline, legend_channel, make_figure
from netopsy.codec.shared import SharedTensor
from netopsy.deep_compression.save import layer_name
from netopsy.network.network import Network
from netopsy.result import Figure, Finding
from netopsy.stats.describe import histogram, spread_indices
from netopsy.stats.kmeans1d.kmeans1d import SortedValues, Start
from netopsy.wording import listing, two

STARTS: tuple[Start, ...] = ("linear", "density", "random")
"""Those of the paper, which calls the last Forgy; `dp` needs none."""

START, END, TRAINED = "start", "after k-means", "after retraining"
DRAWS = 10  # random starts
_BINS, _LINE = 80, 200
_SCHEMA = {
    "layer": pl.String,
    "start": pl.String,
    "draw": pl.Int64,
    "stage": pl.String,
    "entry": pl.Int64,
    "value": pl.Float64,
    "error": pl.Float64,
}


def largest_layer(shared: Mapping[str, SharedTensor]) -> str:
    """The weight that keeps the most values."""
    return max(shared, key=lambda name: shared[name].kept)


def weights_of(network: Network, name: str) -> Float[np.ndarray, " kept"]:
    """The values of a weight that are not zero, ascending."""
    values = network.tensors[name].detach().float().cpu().numpy().reshape(-1)
    return np.sort(values[values != 0])


def centroid_table(
    values: Float[np.ndarray, " kept"], name: str, before: SharedTensor, after: SharedTensor, start: Start, seed: int
) -> pl.DataFrame:
    """A row a shared value: of each start before and after k-means, of the best solution, and after retraining.

    values: the weights that are shared. before, after: retraining, found from `start`. error: mean squared difference
    of the weights and their shared values; null before k-means and after retraining. Random starts are drawn 10 times.
    """
    sorted_values, count = SortedValues(values), len(before.table) - (before.zero is not None)
    layer, frames = layer_name(name), []

    def add(how: Start, draw: int, stage: str, centroids: Float[np.ndarray, " k"], error: float | None) -> None:
        rows = [(layer, how, draw, stage, entry, float(v), error) for entry, v in enumerate(centroids)]
        frames.append(pl.DataFrame(rows, schema=_SCHEMA, orient="row"))

    for how in (*STARTS, "dp"):
        for draw in range(DRAWS if how == "random" else 1):
            if how != "dp":
                add(how, draw, START, sorted_values.starting_centroids(count, how, seed + draw), None)
            ended = sorted_values.kmeans(count, start=how, seed=seed + draw)
            add(how, draw, END, ended.centroids, ended.distortion)
    if not np.array_equal(before.table, after.table):
        add(start, 0, TRAINED, after.table[after.table != 0], None)
    return pl.concat(frames)


_STEP = 0.11  # between two rows of marks, in the units of the curve above them
_HEIGHT = 170  # pixels of the curve


def centroid_figure(values: Float[np.ndarray, " kept"], centroids: pl.DataFrame) -> Figure:
    """The weights' histogram and cumulative distribution, and under them the shared values of every start and end."""
    layer = centroids["layer"][0]
    edges, counts = histogram(values, float(values.mean()), 5 * float(values.std()), _BINS)
    bins = pl.DataFrame({"from": edges[:-1], "to": edges[1:], "share": counts / counts.max(), "weights": counts})
    at = spread_indices(len(values), _LINE)
    line = pl.DataFrame({"value": values[at].astype(float), "share": (np.array(at) + 1) / len(values)})
    marks = centroids.filter(pl.col("draw") == 0).with_columns(row=pl.concat_str("start", pl.lit(": "), "stage"))
    names = marks["row"].unique(maintain_order=True).to_list()
    row = pl.col("row").replace_strict({name: i for i, name in enumerate(names)}, return_dtype=pl.Float64)
    marks = marks.with_columns(share=-_STEP * (row + 1))
    low, high = -_STEP * (len(names) + 0.7), 1.02
    label = f"datum.value >= 0 ? format(datum.value, '.0%') : {names!r}[round(-datum.value / {_STEP}) - 1]"
    ticks = [0, 0.5, 1, *(-_STEP * (i + 1) for i in range(len(names)))]
    share = alt.Y(
        "share:Q",
        title=None,
        scale=alt.Scale(domain=[low, high], nice=False),
        axis=alt.Axis(values=ticks, labelExpr=label, grid=False, labelLimit=190, labelOverlap=False),
    )
    weight = alt.X("value:Q", title=f"weight of {layer}", scale=alt.Scale(zero=False, nice=False))
    bars = alt.Chart(inline(bins, bins.columns)).mark_bar(opacity=0.45, binSpacing=0)
    stage = marks.select("stage").unique(maintain_order=True)
    chart = alt.layer(
        bars.encode(
            x=alt.X("from:Q", title=f"weight of {layer}", scale=alt.Scale(zero=False, nice=False)),
            x2="to:Q",
            y=share,
            y2=alt.datum(0),
            tooltip=["from:Q", "to:Q", "weights:Q"],
        ),
        alt.Chart(inline(line, line.columns)).mark_line(strokeWidth=1.5, color="#8a8f94").encode(x=weight, y=share),
        alt.Chart(inline(marks, ["value", "share", "stage", "row", "entry"]))
        .mark_point(filled=True, size=26, opacity=0.85)
        .encode(
            x=weight,
            y=share,
            color=color_channel(stage, "stage", None),
            shape=alt.Shape(**legend_channel(stage, "stage", None)),
            tooltip=["row:N", "entry:Q", "value:Q"],
        ),
    )
    return make_figure(
        chart,
        "Where the shared weights start and where k-means takes them",
        f"Above the kept weights of {layer}, the layer with the most: bars are their histogram (the highest is 100 %), "
        "the line is the share of weights up to a value. Below, a mark a shared value: linear starts in equal steps, "
        "density with equally many weights each, random at weights that are drawn; dp is the least error possible.",
        "Han et al., ICLR 2016, Figure 6",
        height=round(_HEIGHT * (high - low)),
    )


def starts_finding(centroids: pl.DataFrame) -> list[Finding]:
    """Does the start matter? Errors after k-means over the least possible one."""
    ends = centroids.filter((pl.col("stage") == END) & (pl.col("entry") == 0))
    least = ends.filter(pl.col("start") == "dp")["error"][0]
    if not least > 0:
        return []
    parts, worst = [], 1.0
    for how, words in zip(STARTS, ("the linear start", "the density start", f"{DRAWS} random starts"), strict=True):
        ratios = (ends.filter(pl.col("start") == how)["error"] / least).to_numpy()
        low, high = two(ratios.min()), two(ratios.max())
        parts.append(f"{low if low == high else f'{low} to {high}'} times from {words}")
        worst = max(worst, float(ratios.max()))
    first = parts.pop(0).replace(" times", " times the least possible squared error", 1)
    text = f"At {centroids['layer'][0]} k-means ends at {listing([first, *parts])}."
    return [Finding(text, min(2.0, (worst - 1) / 0.5))]
