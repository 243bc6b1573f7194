"""The tables of the study: stages, codes, and the values before and after retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from netopsy.codec.shared import SharedTensor
from netopsy.deep_compression.account import bits_before, gap_cost, layer_name
from netopsy.deep_compression.measure import others
from netopsy.engine.sweep.edits import Replace, replacement
from netopsy.engine.sweep.scopes import sweep_edits
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

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
    whole = sizes[FLOAT32]
    return scores.with_columns(
        bytes=pl.Series([float(sizes[stage]) for stage in scores["stage"]]),
        ratio=pl.Series([whole / sizes[stage] for stage in scores["stage"]]),
    ).select("stage", "bytes", "ratio", pl.exclude("stage", "bytes", "ratio"))


def stage_bytes(network: Network, shared: Mapping[str, SharedTensor], path: Path) -> dict[str, float]:
    """Bytes of each stage: of float32 4 a value; computed for the stages in between; on disk for the file.

    Pruned: each kept weight as 32 bits and a relative index. Shared: as a code of whole bits and a relative index, with
    a float32 table a layer. All other values take 4 bytes.
    """
    rest = 4 * sum(value.size for value in others(network, shared).values())
    whole = rest + 4 * sum(len(one.codes) for one in shared.values())
    pruned = rest + sum(_sparse(one) for one in shared.values())
    coded = rest + sum(sum(bits_before(one)) * one.kept / 8 + 4 * len(one.table) for one in shared.values())
    return {FLOAT32: whole, PRUNED: pruned, SHARED: coded, RETRAINED: coded, FILE: path.stat().st_size}


def _sparse(shared: SharedTensor) -> float:
    """Bytes of float32 weights and relative indices; the whole tensor where that is less."""
    code, gap = gap_cost(shared, 32)
    return min((code + gap) * shared.kept / 8, 4.0 * len(shared.codes))


def code_counts(shared: Mapping[str, SharedTensor]) -> pl.DataFrame:
    """How often each shared value occurs: layer, entry (by rising value, from 0), value, weights."""
    rows = [
        {"layer": layer_name(name), "entry": entry, "value": float(value), "weights": int(count)}
        for name, one in shared.items()
        for entry, (value, count) in enumerate(
            zip(one.table, np.bincount(one.codes, minlength=len(one.table)), strict=True)
        )
    ]
    return pl.DataFrame(rows, schema={"layer": pl.String, "entry": pl.Int64, "value": pl.Float64, "weights": pl.Int64})


def moved(before: Mapping[str, SharedTensor], after: Mapping[str, SharedTensor]) -> pl.DataFrame:
    """Where retraining has moved the shared values: layer, before, after, weights; the pruned ones stay at 0."""
    rows = []
    for name, one in before.items():
        used, first, counts = np.unique(one.codes, return_index=True, return_counts=True)
        values = after[name].decode().reshape(-1)[first]
        rows += [
            {"layer": layer_name(name), "before": float(one.table[code]), "after": float(value), "weights": int(count)}
            for code, value, count in zip(used, values, counts, strict=True)
        ]
    schema = {"layer": pl.String, "before": pl.Float64, "after": pl.Float64, "weights": pl.Int64}
    return pl.DataFrame(rows, schema=schema)
