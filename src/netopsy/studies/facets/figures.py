"""The figures of the study `facets`: the stimuli of each facet, and Karnaugh maps."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import UInt8

from netopsy.charts.parts import diverging, inline, make_figure
from netopsy.pictures.mosaic import PAPER, below, beside, caption, resize
from netopsy.result import Figure, Image, Panel
from netopsy.studies.facets.account import VERDICTS, Account, gray_code, karnaugh_map, letters
from netopsy.wording import listing, plural

SQUARE = 96  # screen pixels of a patch, about
_GAP = 3
_MARGIN = 64  # room for the words in front of a row
_SOURCE = "after Zeiler and Fergus (2014), Figure 2, and the wheel-or-face cell of 'Interpreting Deep Networks'"
_UNSEEN = "#8f8f8f"


def sheet(unit: str, rows: Sequence[UInt8[np.ndarray, "n height width 3"]], sizes: Sequence[int]) -> Image:
    """One row per facet: its strongest patches. sizes: how many stimuli each facet has."""
    height, width = rows[0].shape[1:3]
    enlarge = max(1, round(SQUARE / max(height, width)))
    size = (height * enlarge, width * enlarge)
    lines = []
    for k, (row, count) in enumerate(zip(rows, sizes, strict=True), 1):
        words = below([caption(f"facet {k}", _MARGIN), caption(f"of {count}", _MARGIN)])
        words = np.pad(words, ((max(0, size[0] - len(words)) // 2, 0), (0, 0), (0, 0)), constant_values=PAPER)
        lines.append(beside([words, *(resize(patch, size, smooth=False) for patch in row)], _GAP))
    columns = max(len(row) for row in rows)
    several = len(rows) > 1
    title = f"{plural(len(rows), 'facet')} of {unit}"
    reading = (
        "One row per facet, its strongest stimuli from left to right, each cut out at the unit's receptive field; the "
        "number of stimuli in the facet stands in front."
        if several
        else "The unit's strongest stimuli from left to right, each cut out at its receptive field: one pattern only."
    )
    alt_text = f"{title}: rows of {listing([str(s) for s in sizes])} stimuli, {columns} patches shown of each."
    panels = tuple(
        Panel(f"facet {k}", tuple(row), f"facet {k}: {plural(count, 'stimulus', 'stimuli')}", columns=columns)
        for k, (row, count) in enumerate(zip(rows, sizes, strict=True), 1)
    )
    return Image(below(lines, _GAP), title, reading, _SOURCE, alt=alt_text, panels=panels)


def karnaugh(unit: str, account: Account, names: Sequence[str]) -> Figure:
    """The truth table of a unit as a Karnaugh map. names: of its input channels, in the order A, B, C, ..."""
    inputs = account.table.inputs
    signs = letters(inputs)
    down = inputs // 2
    majority, true = account.table.majority, account.expression.cells
    rows = []
    for cells, left in zip(karnaugh_map(inputs), _labels(down), strict=True):
        for cell, top in zip(cells, _labels(inputs - down), strict=True):
            fired, rested = int(account.table.fired[cell]), int(account.table.rested[cell])
            total = fired + rested
            on = [n for sign, n in zip(f"{cell:0{inputs}b}", names, strict=True) if sign == "1"]
            rows.append(
                {
                    "row": left,
                    "column": top,
                    "fires": fired / total if total else None,
                    "text": f"{fired}/{total}" if total else "–",
                    "true": bool(true[cell]),
                    "majority": VERDICTS[int(majority[cell])],
                    "on": ", ".join(on) or "none",
                }
            )
    frame = pl.DataFrame(rows, schema_overrides={"fires": pl.Float64})
    across, along = " ".join(signs[down:]), " ".join(signs[:down])
    base = alt.Chart(inline(frame, list(frame.columns))).encode(
        x=alt.X("column:O", sort=_labels(inputs - down), title=across, axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("row:O", sort=_labels(down), title=along or None, axis=alt.Axis(labels=bool(down), ticks=False)),
        tooltip=[
            alt.Tooltip("text:N", title="fired / images"),
            alt.Tooltip("majority:N"),
            alt.Tooltip("true:N", title="expression"),
            alt.Tooltip("on:N", title="inputs on"),
        ],
    )
    scale = diverging(0.5, 0.5)
    legend = alt.Legend(
        title="share that fired", format=".0%", values=[0, 0.5, 1], orient="bottom", direction="horizontal"
    )  # a map of two rows has no room for one at its side
    seen = base.transform_filter("datum.fires !== null").mark_rect()
    unseen = base.transform_filter("datum.fires === null").mark_rect(color=_UNSEEN)
    ink = alt.condition(
        "datum.fires === null || datum.fires < 0.105 || datum.fires > 0.895", alt.value("white"), alt.value("black")
    )
    cells = seen.encode(color=alt.Color("fires:Q", scale=scale, legend=legend))
    frames = (
        base.transform_filter("datum.true").mark_rect(fillOpacity=0, strokeWidth=3).encode(stroke=alt.value("#009e73"))
    )
    words = base.mark_text(fontSize=12).encode(text="text:N", color=ink)
    key = "; ".join(f"{s} = {n} > {c:.3g}" for s, n, c in zip(signs, names, account.cuts, strict=True))
    sums = f"As a product of sums: {account.sums.text(signs)}. " if account.sums else ""
    return make_figure(
        alt.layer(unseen, cells, frames, words),
        f"Karnaugh map of {unit}: {account.expression.text(signs)}",
        "A cell is a combination of the inputs (1: on), and neighbours differ in one. It counts the training images in "
        "which the unit fired, of those seen; gray cells were never seen: they, and ties, are free. "
        f"Framed: where the expression is true. {sums}{key}.",
        "Interpreting Deep Networks, 'Karnaugh Maps'",
        height=max(2, 2**down) * 34,
    )


def _labels(bits: int) -> list[str]:
    return [f"{n:0{bits}b}" if bits else "" for n in gray_code(bits)]
