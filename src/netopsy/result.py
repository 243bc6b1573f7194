"""What a study returns: tables, figures, images, files, findings, and where they came from. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Figure:
    """A chart as a Vega-Lite specification with its data inside.

    `reading` says in one line how to read it, `source` which figure of which paper it is.
    """

    spec: dict[str, Any]
    title: str
    reading: str
    source: str = ""


@dataclass(frozen=True)
class Image:
    """A picture: `pixels` uint8 (height, width) or (height, width, 3), drawn at `zoom` screen pixels a pixel."""

    pixels: np.ndarray
    title: str
    reading: str
    source: str = ""
    alt: str = ""
    zoom: int = 1


@dataclass
class Result:
    """What one study found on one network.

    `tables` maps names to polars frames, `figures` to `Figure`, `images` to `Image`, `artifacts` to files.
    `findings` are plain sentences with their numbers, the most important first.
    `provenance` holds network, samples, versions, seed, digests and time (see `netopsy.provenance`).
    """

    study: str
    settings: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        from netopsy.report.notebook import result_html

        return result_html(self)
