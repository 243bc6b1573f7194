"""What the pages show, as plain data: made once, then drawn."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from PIL import Image as Picture

from netopsy.report.atlas import atlas_words, passage_pieces
from netopsy.result import Figure, Image, Result, Texts

PAGE, WIDEST = 900, 1300  # pixels of a page's column, and of the widest picture that is shrunk to it
TABLE_ROWS = 100  # a page shows so many rows; the files beside it hold all
CSV_ROWS = 100_000  # longer tables are kept as Parquet only

_SHARES = re.compile(
    r"(top[15]|accuracy|agreement|confidence|sparsity|variance|density|share|\w+_share|share_\w+|zeros|at_a_place)"
    r"(_low|_high)?"
)
_UNIT = re.compile(r"unit (.+):(\d+)")
_POINTS = re.compile(r"drop(_low|_high)?")


def summarise(result: Result) -> dict[str, Any]:
    """One study as plain data for its page."""
    figures = [figure_summary(result.study, name, figure) for name, figure in result.figures.items()]
    images = [image_summary(name, image) for name, image in study_images(result).items()]
    texts = [texts_summary(texts) for texts in result.texts.values()]
    atlases = [atlas_words(result.study, name, atlas) for name, atlas in result.atlases.items()]
    sources = [part["source"] for part in (*figures, *images, *texts, *atlases) if part["source"]]
    return {
        "study": result.study,
        "title": study_title(result),
        "question": result.question,
        "findings": result.findings,
        "alerts": result.alerts,
        "figures": figures,
        "images": images,
        "texts": texts,
        "atlases": atlases,
        "tables": [table_summary(result.study, name, result.tables[name]) for name in _table_order(result)],
        "artifacts": [f"{result.study}/artifacts/{name}" for name in result.artifacts],
        "settings": flatten(result.settings),
        "provenance": flatten(result.provenance),
        "sources": list(dict.fromkeys(sources)),
    }


def study_images(result: Result) -> dict[str, Image]:
    """The pictures on a study's own page: all but those of single units."""
    return {name: image for name, image in result.images.items() if not _UNIT.fullmatch(name)}


def unit_images(results: Sequence[Result]) -> dict[tuple[str, int], tuple[str, Image]]:
    """By node and channel the study and the picture of a unit by itself: those called `unit NODE:CHANNEL`."""
    found: dict[tuple[str, int], tuple[str, Image]] = {}
    for result in results:
        for name, image in result.images.items():
            if match := _UNIT.fullmatch(name):
                found.setdefault((match[1], int(match[2])), (result.study, image))
    return found


def _table_order(result: Result) -> list[str]:
    """The tables as the study has them; of the baseline those of mistakes first."""
    if result.study != "baseline":
        return list(result.tables)
    return sorted(result.tables, key=lambda name: name in ("score", "layers", "alerts"))


def study_title(result: Result) -> str:
    """What the study's page is called."""
    if result.study == "baseline":
        return "mistakes" if "confusion" in result.tables else "score"
    return result.study.replace("_", " ")


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
                    "pieces": passage_pieces(passage),
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
    Picture.fromarray(np.ascontiguousarray(image.pixels)).save(buffer, "PNG")
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


def table_summary(study: str, name: str, frame: pl.DataFrame, rows: int = TABLE_ROWS) -> dict[str, Any]:
    """The first `rows` of a table as text, with the units in the heads; where all of it is kept."""
    units = {column: unit_of(frame, column) for column in frame.columns}
    shown = frame.head(rows)
    scales = [100.0 if units[column] else 1.0 for column in frame.columns]
    return {
        "name": name.replace("_", " "),
        "file": f"{study}/tables/{name}.parquet",
        "csv": f"csv/{study}-{file_stem(name)}.csv" if frame.height <= CSV_ROWS else "",
        "columns": [
            {
                "name": column.replace("_", " ") + (f", {units[column]}" if units[column] else ""),
                "number": kind.is_numeric(),
            }
            for column, kind in frame.schema.items()
        ],
        "rows": [
            [
                cell(scale * value if scale != 1 and value is not None else value)
                for value, scale in zip(row, scales, strict=True)
            ]
            for row in shown.iter_rows()
        ],
        "total": frame.height,
        "shown": shown.height,
    }


def unit_of(frame: pl.DataFrame, column: str) -> str:
    """`%` for a column of shares, `points` for one of differences of shares, else nothing."""
    if not frame.schema[column].is_float():
        return ""
    values = frame[column].drop_nulls().drop_nans()
    if values.len() and not -1.0001 <= float(values.min()) <= float(values.max()) <= 1.0001:  # type: ignore[arg-type]
        return ""
    if _POINTS.fullmatch(column) and {"top1", "agreement_low"} & set(frame.columns):
        return "points"
    return "%" if _SHARES.fullmatch(column) else ""


def csv_text(frame: pl.DataFrame) -> str:
    """A table as CSV; lists become words with blanks between."""
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List | pl.Array)]
    columns = [pl.col(name).cast(pl.List(pl.String)).list.join(" ") for name in lists]
    return frame.with_columns(columns).write_csv()


def number(value: float) -> str:
    """Three significant digits, thousands separated: `0.123`, `12,300`, `1.2e-05`."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    short = float(f"{value:.3g}")
    size = abs(short)
    if size and not 1e-4 <= size < 1e12:
        text = f"{short:.3g}"
    elif size >= 100:
        text = f"{short:,.0f}"
    else:
        text = f"{short:.{max(0, 2 - math.floor(math.log10(size))) if size else 0}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−", 1) if short < 0 else text.removeprefix("-")


def cell(value: Any) -> str:
    """A table's cell as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
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


_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def file_stem(name: str) -> str:
    """A file's name that any system takes, different for different names also where case does not count."""
    safe = re.sub(r"[^a-z0-9._-]", "_", name.lower()).strip(".")[:80]
    if safe == name and not _RESERVED.fullmatch(safe):
        return safe
    return f"{safe or 'name'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
