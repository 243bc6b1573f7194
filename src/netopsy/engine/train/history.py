"""What a training gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from netopsy.codec.shared import SharedTensor
from netopsy.network.network import Network

COLUMNS: dict[str, Any] = {
    "epoch": pl.Int64,
    "rate": pl.Float64,
    "loss": pl.Float64,
    "top1": pl.Float64,
    "validation_loss": pl.Float64,
    "validation_top1": pl.Float64,
    "seconds": pl.Float64,
}


@dataclass(frozen=True)
class History:
    """A trained copy of a network, and how it came about.

    table: a row an epoch: epoch (from 1), rate (at its last step), loss and top1 (means over the epoch's images as they
        were trained on: augmented, while the weights moved), validation_loss and validation_top1 (afterwards, in
        evaluation mode and float32; null without validation images), seconds.
    network: the trained copy.
    shared: the moved tables of shared weights, by parameter name; decoded they are the weights of `network`.
    """

    table: pl.DataFrame
    network: Network
    shared: dict[str, SharedTensor]


def frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """The rows of a history as its table."""
    return pl.DataFrame(list(rows), schema=COLUMNS)
