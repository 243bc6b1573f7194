"""The figures of the study."""

from __future__ import annotations

import polars as pl

from netopsy import charts
from netopsy.result import Figure

_SOURCE = "Han et al., ICLR 2016"
_FACETS = 12  # layers whose codes are drawn, the largest


def figures(tables: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Sizes and scores by stage, bytes by layer, codes by layer, values before and after retraining."""
    stages = tables["stages"]
    drawn = {
        "sizes": charts.bars(
            stages.with_columns(kB=pl.col("bytes") / 1000),
            "stage",
            "kB",
            value_title="kB (1,000 bytes)",
            title="Bytes after each stage",
            reading="Computed for the stages between, without entropy coding; the last bar is the file on disk.",
            source=f"{_SOURCE}, Figure 1",
        ),
        "accuracy": charts.curve(
            stages,
            "stage",
            "top1",
            low="top1_low",
            high="top1_high",
            percent=True,
            reference=float(stages["top1"][0]),
            y_title="top-1 accuracy",
            title="Accuracy after each stage",
            reading="The dashed line is the network as it was; the band is the 95 % interval.",
            source=_SOURCE,
        ),
        "layers": _layers(tables["layers"]),
    }
    codes = tables["codes"].filter(pl.col("value") != 0)
    if codes.height:
        drawn["codes"] = _codes(codes)
    values = tables["values"].filter(pl.col("before") != 0)
    if values.height and (values["before"] != values["after"]).any():
        drawn["values"] = charts.scatter(
            values,
            "before",
            "after",
            color="layer",
            tips=("weights",),
            x_title="value after k-means",
            y_title="value after retraining",
            title="Shared values before and after retraining",
            reading="A point a shared value; off the diagonal it was moved by the gradient of all its weights.",
            source=f"{_SOURCE}, Figure 3",
        )
    return drawn


def _layers(layers: pl.DataFrame) -> Figure:
    parts = []
    for row in layers.filter(pl.col("layer").is_in(["header", "all"]).not_()).iter_rows(named=True):
        before = row["bytes"] if row["bits_before"] is None else row["bits_before"] * row["kept"] / 8
        if row["bits_before"] is not None:
            before += 4 * row["entries"]
        parts += [
            {"layer": row["layer"], "coding": "before", "kB": float(before) / 1000},
            {"layer": row["layer"], "coding": "after", "kB": row["bytes"] / 1000},
        ]
    return charts.bars(
        pl.DataFrame(parts),
        "layer",
        "kB",
        value_title="kB (1,000 bytes)",
        color="coding",
        color_title="entropy coding",
        title="Bytes of each layer before and after entropy coding",
        reading="Before: codes and relative indices of whole bits, and the table. After: in the file.",
        source=f"{_SOURCE}, Tables 2 to 5",
    )


def _codes(codes: pl.DataFrame) -> Figure:
    sizes = codes.group_by("layer", maintain_order=True).agg(pl.col("weights").sum())
    shown = sizes.sort("weights", descending=True, maintain_order=True).head(_FACETS)["layer"].to_list()
    frame = pl.concat([_binned(codes.filter(pl.col("layer") == layer)) for layer in sizes["layer"] if layer in shown])
    return charts.histogram(
        frame,
        "from",
        "to",
        "weights",
        facet="layer",
        x_title="shared value",
        y_title="weights",
        title="How often each shared value occurs",
        reading="A bar a value, pruned weights left out; the more uneven the bars, the more entropy coding saves.",
        source=f"{_SOURCE}, Figure 5",
    )


def _binned(codes: pl.DataFrame) -> pl.DataFrame:
    """The codes of a layer as bars at their values, each as wide as the way to the nearest other value."""
    value = pl.col("value")
    way = pl.min_horizontal(value - value.shift(1), value.shift(-1) - value).fill_null(value.abs() / 10) / 2
    return codes.with_columns((value - way).alias("from"), (value + way).alias("to"))
