"""The tables of the study `prescribe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from netopsy.codec.file import sizes
from netopsy.deep_compression.account import ALL, HEADER, OTHER
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.studies.prescribe.allocation.plan import Prescription

CURVE = 60  # points of the predicted path that the table holds besides the measured ones

_LAYERS: dict[str, Any] = {
    "layer": pl.String,
    "weights": pl.Int64,
    "how": pl.String,
    "density": pl.Float64,
    "entries": pl.Int64,
    "bits": pl.Float64,
    "bytes": pl.Int64,
    "share": pl.Float64,
    "noise": pl.Float64,
    "predicted": pl.Float64,
    "sensitivity": pl.Float64,
}


def layer_table(network: Network, layers: Sequence[Layer], found: Prescription, path: Path) -> pl.DataFrame:
    """A row a layer, then the other values, the header and all; `bytes` sum to the size of the file.

    how: as it is, lossless, uniform or kmeans. density: share of weights that are not 0. entries: of the table. bits:
    in the file, positions and codes, a weight. share: bytes of float32. noise: squared error of the layer's outputs
    over their square. predicted: its share of the expected divergence, in nats. sensitivity: divergence a noise.
    """
    allocation = found.path[0] if found.chosen is None else found.chosen.allocation
    taken, stored = found.joint.taken(allocation), sizes(path)
    by_name = {row["name"]: row for row in stored}
    rows = []
    for layer in layers:
        one, row = taken[layer.name], by_name[layer.weight]
        coded = row["positions"] + row["codes"] if row["kind"] == "shared" else row["bytes"]
        loss = found.losses[layer.name][allocation.choice[layer.name]]
        rows.append(
            {
                "layer": layer.name,
                "weights": row["values"],
                "how": one.kind,
                "density": one.density,
                "entries": one.entries or None,
                "bits": 8 * coded / row["values"],
                "bytes": row["bytes"],
                "share": row["bytes"] / (4 * row["values"]),
                "noise": one.noise,
                "predicted": loss,
                "sensitivity": _sensitivity(found, layer.name),
            }
        )
    own = {layer.weight for layer in layers}
    rest = [row for row in stored if row["kind"] != "header" and row["name"] not in own]
    values, size = sum(row["values"] for row in rest), sum(row["bytes"] for row in rest)
    header = sum(row["bytes"] for row in stored if row["kind"] == "header")
    whole = sum(row["values"] for row in stored)
    rows.append({"layer": OTHER, "weights": values, "bytes": size, "share": size / (4 * values) if values else None})
    rows.append({"layer": HEADER, "bytes": header})
    total = path.stat().st_size
    loss = sum(row.get("predicted", 0.0) for row in rows)
    rows.append({"layer": ALL, "weights": whole, "bytes": total, "share": total / (4 * whole), "predicted": loss})
    return pl.DataFrame(rows, schema=_LAYERS)


def sensitivity_table(found: Prescription) -> pl.DataFrame:
    """The map as it was measured, a row a layer and candidate."""
    return found.sensitivity


def path_table(found: Prescription, scores: pl.DataFrame) -> pl.DataFrame:
    """The trade-off: a row a point of the path, from the largest file to the smallest.

    bytes: estimated, with all values. predicted_divergence, predicted: before all layers were rounded together;
    predicted is a drop. divergence, drop, drop_low, drop_high, expected, estimate: measured on the choosing half, null
    where not; evened: the estimate pooled along the path. chosen: the point that became the file.
    """
    measured = {trial.place: trial for trial in found.trials}
    last = len(found.path) - 1
    even = {round(i * last / max(1, CURVE - 1)) for i in range(CURVE)}
    keys = ("divergence", "drop", "drop_low", "drop_high", "expected", "estimate", "images")
    chosen = None if found.chosen is None else found.chosen.place
    rows = []
    for place in sorted(even | set(measured)):
        allocation, trial = found.path[place], measured.get(place)
        row: dict[str, Any] = {
            "bytes": allocation.bytes + found.rest,
            "predicted_divergence": allocation.loss,
            "predicted": found.exchange.drop(allocation.loss),
        }
        row |= {key: None if trial is None else trial.scores[key] for key in keys}
        row |= {"evened": None if trial is None else trial.drop}
        row |= {"chosen": place == chosen}
        rows.append(row)
    floats = {name: pl.Float64 for name in rows[0] if name not in ("images", "chosen")}
    return pl.DataFrame(rows, schema={**floats, "images": pl.Int64, "chosen": pl.Boolean}, orient="row")


def _sensitivity(found: Prescription, name: str) -> float | None:
    """Divergence a noise where the noise is small: of the layer's least noise that was measured."""
    if found.sensitivity.is_empty():
        return None
    rows = found.sensitivity.filter(pl.col("layer") == name).sort("noise")
    return float(rows["divergence"][0] / rows["noise"][0]) if rows.height else None
