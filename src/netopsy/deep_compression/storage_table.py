"""Where the bytes of a compressed network are: Tables 2 to 5 of Deep Compression (Han et al., ICLR 2016)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from netopsy.codec.file import read_compressed, sizes
from netopsy.codec.huffman import WIDTHS, relative
from netopsy.codec.shared import SharedTensor

OTHER, HEADER, ALL = "kept as they are", "header", "all"

COLUMNS: dict[str, Any] = {
    "layer": pl.String,
    "weights": pl.Int64,
    "kept": pl.Int64,
    "kept_share": pl.Float64,
    "entries": pl.Int64,
    "code_bits": pl.Float64,
    "gap_bits": pl.Float64,
    "bits_before": pl.Float64,
    "code_bits_after": pl.Float64,
    "gap_bits_after": pl.Float64,
    "bits_after": pl.Float64,
    "float32": pl.Int64,
    "bytes": pl.Int64,
    "share": pl.Float64,
    "ratio": pl.Float64,
}


def storage_table(path: str | Path) -> pl.DataFrame:
    """One row a layer in the order of the file, then `kept as they are`, `header` and `all`.

    weights, kept, kept_share: values, and those that are not zero. entries: of the table, 0.0 included.
    code_bits, gap_bits: before entropy coding, of each kept weight: log2 of the entries that are not 0.0, rounded up,
    and the relative index of the `WIDTHS` that is cheapest with its filler entries; bits_before: their sum.
    code_bits_after, gap_bits_after, bits_after: in the file, of each kept weight.
    float32: bytes at 4 a value. bytes: in the file, table included; they sum to the file's size, in the row `all`.
    share: bytes of float32. ratio: its inverse. A tensor that a state dict holds under several names counts once.
    """
    shared = read_compressed(path).shared
    rows, other, header = [], [], 0
    for row in sizes(path):
        if row["kind"] == "shared":
            rows.append(_layer(row, shared[row["name"]]))
        elif row["kind"] == "kept":
            other.append(row)
        else:
            header += row["bytes"]
    values, stored = (sum(row[key] for row in other) for key in ("values", "bytes"))
    weights, kept = (sum(row[key] for row in rows) for key in ("weights", "kept"))
    total = {"layer": ALL, "weights": weights + values, "kept": kept + sum(row["kept"] for row in other)}
    total |= _cost(4 * (weights + values), sum(row["bytes"] for row in rows) + stored + header)
    total["kept_share"] = total["kept"] / max(1, total["weights"])
    for key in ("code_bits", "gap_bits", "bits_before", "code_bits_after", "gap_bits_after", "bits_after"):
        total[key] = sum(row[key] * row["kept"] for row in rows) / max(1, kept)
    rows.append({"layer": OTHER, "weights": values, **_cost(4 * values, stored)})
    rows.append({"layer": HEADER, **_cost(0, header)})
    return pl.DataFrame([*rows, total], schema=COLUMNS)


def layer_name(weight: str) -> str:
    """The name of the layer that a weight belongs to, as `Layer.name` has it."""
    for ending in (".weight", "_weight"):
        if weight.endswith(ending):
            return weight.removesuffix(ending)
    return weight


def _layer(row: dict[str, Any], shared: SharedTensor) -> dict[str, Any]:
    kept = max(1, shared.kept)
    codes, gaps = bits_before(shared)
    return {
        "layer": layer_name(row["name"]),
        "weights": len(shared.codes),
        "kept": shared.kept,
        "kept_share": shared.kept / max(1, len(shared.codes)),
        "entries": len(shared.table),
        "code_bits": codes,
        "gap_bits": gaps,
        "bits_before": codes + gaps,
        "code_bits_after": 8 * row["codes"] / kept,
        "gap_bits_after": 8 * row["positions"] / kept,
        "bits_after": 8 * (row["codes"] + row["positions"]) / kept,
        **_cost(4 * len(shared.codes), row["bytes"]),
    }


def bits_before(shared: SharedTensor) -> tuple[float, float]:
    """Bits of code and of relative index for each kept weight, before entropy coding: `gap_cost` of whole bits."""
    used = len(shared.table) - (shared.zero is not None)
    return gap_cost(shared, math.ceil(math.log2(used)) if used > 1 else 0)


def gap_cost(shared: SharedTensor, width: int) -> tuple[float, float]:
    """Bits of value and of relative index for each kept weight, with a value of `width` bits and the best of `WIDTHS`.

    A gap of n bits reaches 2 ** n positions on; a longer one takes a filler, an entry with a value and a gap of its own
    (Han et al., Figure 2). A tensor without zeros needs no gaps.
    """
    if shared.zero is None or not shared.kept:
        return float(width), 0.0
    entries = {bits: len(relative(shared, bits)[0]) for bits in WIDTHS}
    best = min(WIDTHS, key=lambda bits: entries[bits] * (width + bits))
    return width * entries[best] / shared.kept, best * entries[best] / shared.kept


def _cost(before: int, after: int) -> dict[str, Any]:
    has_values = before > 0
    ratio = before / after if has_values and after else None
    return {"float32": before, "bytes": after, "share": after / before if has_values else None, "ratio": ratio}
