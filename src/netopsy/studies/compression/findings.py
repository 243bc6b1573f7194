"""The sentences of the study."""

from __future__ import annotations

from typing import Any

import polars as pl

from netopsy.deep_compression.account import ALL, HEADER, OTHER
from netopsy.studies.compression.tables import FILE, FLOAT32, PRUNED, RETRAINED, SHARED
from netopsy.wording import plural, points


def findings(
    tables: dict[str, pl.DataFrame], where: str, other: tuple[str, int], chosen: str | None, left: list[str]
) -> list[str]:
    """Plain sentences, the most important first.

    where: the file, in words. other: the coder not taken and the bytes of its file. chosen: how densities were found.
    left: layers that are kept in float32.
    """
    stages = {row["stage"]: row for row in tables["stages"].iter_rows(named=True)}
    layers = tables["layers"]
    whole = layers.filter(pl.col("layer") == ALL).row(0, named=True)
    found = [
        _size(whole, where),
        _error(stages[FLOAT32], stages[FILE]),
        _steps(stages),
        _kept(layers),
        _largest(layers, whole),
        _coder(other, whole["bytes"]),
    ]
    if chosen:
        found.append(chosen)
    if left:
        found.append(f"{plural(len(left), 'layer')} given no bits stay in float32: {', '.join(left[:5])}.")
    return [sentence for sentence in found if sentence]


def _size(whole: dict[str, Any], where: str) -> str:
    return (
        f"The file takes {whole['bytes']:,} bytes, 1/{whole['ratio']:.1f} of the {whole['float32']:,} bytes that the "
        f"state dict's {whole['weights']:,} values take at 4 bytes each. It is {where}."
    )


def _error(before: dict[str, Any], after: dict[str, Any]) -> str:
    drop = after["drop"]
    change = "unchanged" if drop == 0 else f"{points(abs(drop))} {'more' if drop > 0 else 'less'}"
    low, high = (100 * after[key] + 0.0 for key in ("drop_low", "drop_high"))
    return (
        f"Top-1 error goes from {1 - before['top1']:.2%} to {1 - after['top1']:.2%} on {after['images']:,} images: "
        f"{change} (95 % interval of the loss {low:.2f} to {high:.2f} points), measured on the file's weights."
    )


def _steps(stages: dict[str, dict[str, Any]]) -> str:
    said = {PRUNED: "pruned", SHARED: "shared", RETRAINED: "with retrained tables"}
    parts = [
        f"{words} 1/{stages[stage]['ratio']:.1f} at {1 - stages[stage]['top1']:.2%} error"
        for stage, words in said.items()
        if stage in stages
    ]
    return f"On the way there, before entropy coding: {', '.join(parts)}."


def _kept(layers: pl.DataFrame) -> str:
    own = layers.filter(pl.col("bits_before").is_not_null() & (pl.col("layer") != ALL))
    if own.is_empty():
        return ""
    total, kept = int(own["weights"].sum()), int(own["kept"].sum())
    least, most = (own.sort("kept_share").row(at, named=True) for at in (0, -1))
    before, after = (float((own[key] * own["kept"]).sum()) / max(1, kept) for key in ("bits_before", "bits_after"))
    text = f"Of {total:,} weights {kept:,} are left ({kept / total:.1%})"
    if own.height > 1:
        text += f", from {least['kept_share']:.1%} in {least['layer']} to {most['kept_share']:.1%} in {most['layer']}"
    return f"{text}; each takes {before:.1f} bits of code and position before entropy coding, {after:.1f} after."


def _largest(layers: pl.DataFrame, whole: dict[str, Any]) -> str:
    rows = layers.filter(~pl.col("layer").is_in([ALL])).sort("bytes", descending=True)
    row = rows.row(0, named=True)
    words = {OTHER: "the values that are not shared (biases, norms)", HEADER: "the header"}
    name = words.get(row["layer"], row["layer"])
    return f"The largest part of the file is {name}: {row['bytes']:,} bytes, {row['bytes'] / whole['bytes']:.0%}."


def _coder(other: tuple[str, int], size: int) -> str:
    name, bytes_ = other
    named = "Huffman codes, as in the paper," if name == "huffman" else "the default coder (ANS)"
    change = bytes_ / size - 1
    how = "as large" if abs(change) < 5e-4 else f"{abs(change):.1%} {'larger' if change > 0 else 'smaller'}"
    return f"With {named} the file would take {bytes_:,} bytes, {how}."
