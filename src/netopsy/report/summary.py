"""What the pages show, as plain data: made once, then drawn."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import polars as pl
from PIL import Image as Picture

from netopsy.report.atlas import atlas_words, shade_style
from netopsy.result import Figure, Image, Result, Texts

PAGE, WIDEST = 900, 1300  # pixels of a page's column, and of the widest picture that is shrunk to it
TABLE_ROWS = 100  # a page shows so many rows; the Parquet file beside it holds all


def summarise(result: Result) -> dict[str, Any]:
    """One study as plain data for its page."""
    return {
        "study": result.study,
        "title": result.study.replace("_", " "),
        "findings": result.findings,
        "figures": [figure_summary(result.study, name, figure) for name, figure in result.figures.items()],
        "images": [image_summary(name, image) for name, image in result.images.items()],
        "texts": [texts_summary(texts) for texts in result.texts.values()],
        "atlases": [atlas_words(result.study, name, atlas) for name, atlas in result.atlases.items()],
        "tables": [table_summary(result.study, name, frame) for name, frame in result.tables.items()],
        "artifacts": [f"{result.study}/artifacts/{name}" for name in result.artifacts],
        "settings": flatten(result.settings),
        "provenance": flatten(result.provenance),
    }


def figure_summary(study: str, name: str, figure: Figure) -> dict[str, Any]:
    """A chart: its specification and its words."""
    return {
        "id": f"{study}-{name}",
        "spec": figure.spec,
        "title": figure.title,
        "reading": figure.reading,
        "source": figure.source,
    }


def texts_summary(texts: Texts) -> dict[str, Any]:
    """Passages with their shades as the names of styles: `w1` to `w9` above zero, `c1` to `c9` below, empty for 0."""
    groups = [
        {
            "name": name,
            "passages": [
                {
                    "note": passage.note,
                    "pieces": [
                        {"text": text, "style": shade_style(shade), "mark": number == passage.mark}
                        for number, (text, shade) in enumerate(zip(passage.pieces, passage.shades, strict=True))
                    ],
                }
                for passage in passages
            ],
        }
        for name, passages in texts.groups.items()
    ]
    return {"title": texts.title, "reading": texts.reading, "source": texts.source, "groups": groups}


def image_summary(name: str, image: Image) -> dict[str, Any]:
    """A picture as a PNG inside the page."""
    buffer = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(image.pixels)).save(buffer, "PNG", optimize=True)
    height, width = image.pixels.shape[:2]
    return {
        "name": name,
        "url": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "width": width * image.zoom,
        "height": height * image.zoom,
        "wide": PAGE < width * image.zoom <= WIDEST,
        "title": image.title,
        "reading": image.reading,
        "source": image.source,
        "alt": image.alt or image.title,
    }


def table_summary(study: str, name: str, frame: pl.DataFrame) -> dict[str, Any]:
    """The first rows of a table as text."""
    return {
        "name": name.replace("_", " "),
        "file": f"{study}/tables/{name}.parquet",
        "columns": [{"name": c.replace("_", " "), "number": t.is_numeric()} for c, t in frame.schema.items()],
        "rows": [[cell(value) for value in row] for row in frame.head(TABLE_ROWS).iter_rows()],
        "total": frame.height,
        "shown": min(frame.height, TABLE_ROWS),
    }


def cell(value: Any) -> str:
    """A table's cell as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        tiny_or_huge = value != 0 and not 1e-3 <= abs(value) < 1e6
        return f"{value:.3g}" if tiny_or_huge else f"{value:.4f}".rstrip("0").rstrip(".")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value))
    return str(value)


def setting_text(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(setting_text, value)) or "–"
    return "–" if value is None else str(value)


def flatten(data: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as (path, text) pairs."""
    if isinstance(data, dict):
        return [pair for key, value in data.items() for pair in flatten(value, f"{prefix} {key}".strip())]
    return [(prefix, setting_text(data))]
