"""The tables, figures and sentences of the study `compression`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from netopsy import charts
from netopsy.codec.shared import SharedTensor
from netopsy.deep_compression.save import ALL, HEADER, OTHER, bits_before, gap_cost, layer_name, others
from netopsy.engine.sweep.edits import Replace, replacement
from netopsy.engine.sweep.sweep import sweep_edits
from netopsy.network.network import Network
from netopsy.result import Figure, Finding
from netopsy.samples.samples import Samples
from netopsy.studies.draws import half_width
from netopsy.studies.study import layer_measures
from netopsy.studies.sweep_report import IMAGES, Measure
from netopsy.wording import listing, number, percent, plural

RETRAINING = "with retraining"  # how the weights were pruned
FLOAT32, PRUNED, SHARED, RETRAINED, FILE = "float32", "pruned", "shared", "shared, retrained", "file"


def stages(
    network: Network, samples: Samples, versions: Sequence[tuple[str, Mapping[str, Tensor]]], sizes: Mapping[str, float]
) -> pl.DataFrame:
    """The scores of `network` and of its versions on the same images, with their bytes and the ratio to float32.

    versions: (stage, tensors by name), in order. sizes: bytes, by stage.
    """
    edits: list[tuple[dict[str, Any], Replace | None]] = [({"stage": FLOAT32}, None)]
    edits += [({"stage": stage}, replacement(network, tensors)) for stage, tensors in versions]
    scores = sweep_edits(network, samples, edits).drop("changed")
    full_size = sizes[FLOAT32]
    return scores.with_columns(
        bytes=pl.Series([float(sizes[stage]) for stage in scores["stage"]]),
        ratio=pl.Series([full_size / sizes[stage] for stage in scores["stage"]]),
    ).select("stage", "bytes", "ratio", pl.exclude("stage", "bytes", "ratio"))


def stage_bytes(network: Network, shared: Mapping[str, SharedTensor], path: Path) -> dict[str, float]:
    """Bytes of each stage: of float32 4 a value; computed for the stages in between; on disk for the file.

    Pruned: each kept weight as 32 bits and a relative index. Shared: as a code of whole bits and a relative index, with
    a float32 table a layer. All other values take 4 bytes.
    """
    rest = 4 * sum(value.size for value in others(network, shared).values())
    full_size = rest + 4 * sum(len(tensor.codes) for tensor in shared.values())
    pruned = rest + sum(_sparse(tensor) for tensor in shared.values())
    coded = rest + sum(sum(bits_before(tensor)) * tensor.kept / 8 + 4 * len(tensor.table) for tensor in shared.values())
    return {FLOAT32: full_size, PRUNED: pruned, SHARED: coded, RETRAINED: coded, FILE: path.stat().st_size}


def _sparse(shared: SharedTensor) -> float:
    """Bytes of float32 weights and relative indices; the whole tensor where that is less."""
    code, gap = gap_cost(shared, 32)
    return min((code + gap) * shared.kept / 8, 4.0 * len(shared.codes))


def code_counts(shared: Mapping[str, SharedTensor]) -> pl.DataFrame:
    """How often each shared value occurs: layer, entry (by rising value, from 0), value, weights."""
    rows = [
        {"layer": layer_name(name), "entry": entry, "value": float(value), "weights": int(count)}
        for name, tensor in shared.items()
        for entry, (value, count) in enumerate(
            zip(tensor.table, np.bincount(tensor.codes, minlength=len(tensor.table)), strict=True)
        )
    ]
    return pl.DataFrame(rows, schema={"layer": pl.String, "entry": pl.Int64, "value": pl.Float64, "weights": pl.Int64})


def value_shifts(before: Mapping[str, SharedTensor], after: Mapping[str, SharedTensor]) -> pl.DataFrame:
    """Where retraining has moved the shared values: layer, before, after, weights; the pruned ones stay at 0."""
    rows = []
    for name, tensor in before.items():
        used, first, counts = np.unique(tensor.codes, return_index=True, return_counts=True)
        values = after[name].decode().reshape(-1)[first]
        rows += [
            {
                "layer": layer_name(name),
                "before": float(tensor.table[code]),
                "after": float(value),
                "weights": int(count),
            }
            for code, value, count in zip(used, values, counts, strict=True)
        ]
    schema = {"layer": pl.String, "before": pl.Float64, "after": pl.Float64, "weights": pl.Int64}
    return pl.DataFrame(rows, schema=schema)


_SOURCE = "Han et al., ICLR 2016"
_FACETS = 12  # layers whose codes are drawn, the largest


def figures(tables: dict[str, pl.DataFrame], measure: Measure = IMAGES) -> dict[str, Figure]:
    """Sizes and scores by stage, bytes by layer, codes by layer, values before and after retraining."""
    stages = tables["stages"]
    charts_by_name = {
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
            measure.column,
            low=measure.band[0],
            high=measure.band[1],
            percent=measure.share,
            reference=float(stages[measure.column][0]),
            y_title=measure.unit,
            title="Accuracy after each stage" if measure.column == "top1" else "Score after each stage",
            reading="The dashed line is the network as it was; the band is the 95 % interval.",
            source=_SOURCE,
        ),
        "layers": _layers(tables["layers"]),
    }
    codes = tables["codes"].filter(pl.col("value") != 0)
    if codes.height:
        charts_by_name["codes"] = _codes(codes)
    values = tables["values"].filter(pl.col("before") != 0)
    if values.height and (values["before"] != values["after"]).any():
        charts_by_name["values"] = charts.scatter(
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
    return charts_by_name


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
    largest = sizes.sort("weights", descending=True, maintain_order=True).head(_FACETS)["layer"].to_list()
    frame = pl.concat(
        [_bin_codes(codes.filter(pl.col("layer") == layer)) for layer in sizes["layer"] if layer in largest]
    )
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


def _bin_codes(codes: pl.DataFrame) -> pl.DataFrame:
    """The codes of a layer as bars at their values, each as wide as the way to the nearest other value."""
    value = pl.col("value")
    way = pl.min_horizontal(value - value.shift(1), value.shift(-1) - value).fill_null(value.abs() / 10) / 2
    return codes.with_columns((value - way).alias("from"), (value + way).alias("to"))


def findings(
    tables: dict[str, pl.DataFrame],
    where: str,
    other: tuple[str, int],
    chosen: str | None,
    left: list[str],
    measure: Measure = IMAGES,
) -> list[Finding]:
    """Plain sentences, the most important first.

    where: the file, in words. other: the coder not taken and the bytes of its file. chosen: how densities were found.
    left: layers that are kept in float32.
    """
    stages = {row["stage"]: row for row in tables["stages"].iter_rows(named=True)}
    layers = tables["layers"]
    total = layers.filter(pl.col("layer") == ALL).row(0, named=True)
    sentences = [
        _size(total, where),
        _cost(stages[FLOAT32], stages[FILE], measure),
        *_kept(layers),
        _steps(stages, measure),
        _largest(layers, total),
        _coder(other, total["bytes"]),
    ]
    if chosen:
        sentences.append(Finding(chosen, 0.5))
    if left:
        text = f"{plural(len(left), 'layer')} stay in float32, with no bits given for them: {listing(left)}."
        sentences.append(Finding(text.replace("1 layer stay", "1 layer stays"), 0.0))
    return sentences


USUAL = 4.0  # times that float32 is larger than what needs no thought: int8


def _size(total: dict[str, Any], where: str) -> Finding:
    text = (
        f"The compressed file takes {total['bytes']:,} bytes, 1/{total['ratio']:.1f} of the {total['float32']:,} bytes "
        f"of {plural(total['weights'], 'value')} in float32. It is saved as {where}."
    )
    return Finding(text, min(5.0, total["ratio"] / USUAL))


def _cost(before: dict[str, Any], after: dict[str, Any], measure: Measure) -> Finding:
    """What the file loses, and the error or score before and after."""
    errors = measure.column == "top1"
    old, new = (measure.score(1 - row["top1"] if errors else row[measure.column]) for row in (before, after))
    weight, change = abs(after["drop"]) / half_width(after), after
    how = "No measurable loss: the file costs" if weight < 1 else "The file costs"
    if weight >= 1 and after["drop"] < 0:
        how, change = "The file gains", {"drop": -after["drop"], "drop_low": -after["drop_high"]}
        change["drop_high"] = -after["drop_low"]
    text = f"{how} {measure.loss(change)} of {measure.unit} on {measure.samples(after['images'])}"
    text += f"; {'the error' if errors else 'the score'} "
    text += f"stays at {new}" if old == new else f"goes from {old} to {new}"
    if measure.tokens:
        text += f", the loss from {number(before['loss'])} to {number(after['loss'])} nats"
    return Finding(f"{text}.", min(5.0, weight))


def _steps(stages: dict[str, dict[str, Any]], measure: Measure) -> Finding:
    words_of = {PRUNED: "pruned", SHARED: "weights shared", RETRAINED: "shared values retrained"}
    parts = [
        f"{words} 1/{stages[stage]['ratio']:.1f} at {_error_of(stages[stage], measure)}"
        for stage, words in words_of.items()
        if stage in stages
    ]
    return Finding(f"Size after each stage, before entropy coding: {listing(parts)}.", 0.5)


def _error_of(stage: dict[str, Any], measure: Measure) -> str:
    if measure.column == "top1":
        return f"{percent(1 - stage['top1'])} error"
    return f"{measure.score(stage[measure.column])} {measure.unit}"


def _coded(layers: pl.DataFrame) -> pl.DataFrame:
    """The rows of the layers whose weights are shared."""
    return layers.filter(pl.col("bits_before").is_not_null() & (pl.col("layer") != ALL))


def prunable(layers: pl.DataFrame) -> pl.DataFrame:
    """The measure of each layer whose weights are shared: the share of them that are zero in the file."""
    return layer_measures(
        "prunable",
        [
            (layer, 1 - kept, None, None, RETRAINING)
            for layer, kept in _coded(layers).select("layer", "kept_share").iter_rows()
        ],
    )


def _kept(layers: pl.DataFrame) -> list[Finding]:
    coded = _coded(layers)
    if coded.is_empty():
        return []
    total, kept_weights = int(coded["weights"].sum()), int(coded["kept"].sum())
    least, most = (coded.sort("kept_share").row(at, named=True) for at in (0, -1))
    before, after = (
        float((coded[key] * coded["kept"]).sum()) / max(1, kept_weights) for key in ("bits_before", "bits_after")
    )
    share = kept_weights / total
    text = f"Pruning keeps {percent(share)} of the weights ({kept_weights:,} of {total:,})"
    few, many = percent(least["kept_share"]), percent(most["kept_share"])
    if few != many:
        text += f", from {few} in {least['layer']} to {many} in {most['layer']}"
    text += f". With its position each takes {before:.1f} bits before entropy coding and {after:.1f} after."
    return [Finding(text, min(5.0, 5 * (1 - share)))]


def _largest(layers: pl.DataFrame, total: dict[str, Any]) -> Finding:
    rows = layers.filter(~pl.col("layer").is_in([ALL])).sort("bytes", descending=True, maintain_order=True)
    most = rows.filter(pl.col("bytes") == rows["bytes"][0])
    words = {OTHER: "the values that are not shared (biases, norms)", HEADER: "the header"}
    names = listing([words.get(name, name) for name in most["layer"]])
    each = f"{most['bytes'][0]:,} bytes, {percent(most['bytes'][0] / total['bytes'])}"
    part, of = ("part", each) if most.height == 1 else ("parts", f"{each} each")
    return Finding(f"The largest {part} of the file: {names} ({of}).", 0.5)


def _coder(other: tuple[str, int], size: int) -> Finding:
    name, bytes_ = other
    named = "Huffman coding" if name == "huffman" else "the default coder (ANS)"
    change = bytes_ / size - 1
    how = "no difference" if abs(change) < 5e-4 else f"{percent(abs(change))} {'more' if change > 0 else 'less'}"
    return Finding(f"With {named} the file would take {bytes_:,} bytes ({how}).", 0.3)
