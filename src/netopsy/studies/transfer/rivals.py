"""Other codes of as many bits: products of codebooks, binary codes, truncation, whitening (beyond the paper)."""

from __future__ import annotations

from typing import Any

import polars as pl

RIVALS: dict[str, Any] = {
    "node": pl.String,
    "budget": pl.Int64,
    "family": pl.String,
    "label": pl.String,
    "bits": pl.Int64,
    "compression": pl.Float64,
    "score": pl.Float64,
    "relative": pl.Float64,
    "accuracy": pl.Float64,
    "map": pl.Float64,
    "map11": pl.Float64,
    "train_score": pl.Float64,
    "recall_1": pl.Float64,
    "recall_10": pl.Float64,
    "same_class": pl.Float64,
    "gap": pl.Float64,
    "cold": pl.Int64,
}
