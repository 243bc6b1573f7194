"""Pictures in print: laid out anew for a width, each at a whole number of dots a pixel, with its words as text."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from html import escape
from typing import Protocol

import numpy as np
from PIL import Image as Picture

from netopsy.report.paper import INKS, LARGE, PRINT_FONT, SMALL, text_width

_TILE = (40.0, 90.0)  # points of a picture's side: about, and at most where there are several
_NOTE = 45.0  # points that a picture with words below it has at least
_GAP, _APART = 3.0, 12.0  # between pictures, and between panels side by side
_ABREAST = 230.0  # points of each panel where many stand side by side: about a column of a journal
_MANY = 4  # panels that stand under one another
_LEADING = 1.2  # of lines
_LINES = 4  # of a note at most
_MARK = "#d55e00"  # of frames, seen on black and on white


class Plate(Protocol):
    """What `plate_svg` draws: see `netopsy.result.Panel`."""

    @property
    def pictures(self) -> Sequence[np.ndarray]: ...
    @property
    def caption(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def frames(self) -> tuple[tuple[int, int, int, int] | None, ...]: ...
    @property
    def columns(self) -> int: ...


def plate_svg(panels: Sequence[Plate], width: float, theme: str = "light", dpi: float = 300) -> str:
    """Panels under one another as an SVG, `width` points wide: each a caption, and its pictures row by row.

    A picture's pixel takes a whole number of dots at `dpi`, without smoothing; only pictures that have more pixels than
    the width has dots are shrunk. Text is 7 to 8 points and is wrapped.
    """
    ink, ground = INKS[theme]
    panels = [panel for panel in panels if len(panel.pictures)]
    most = max((len(panel.pictures) for panel in panels), default=0)
    across = max(1, int((width + _APART) / (_ABREAST + _APART))) if len(panels) > _MANY else 1
    room = (width - (across - 1) * _APART) / across
    parts: list[str] = []
    height = 0.0
    for first in range(0, len(panels), across):
        top = height + (6.0 if first else 0.0)
        for place, panel in enumerate(panels[first : first + across]):
            x = _snap(place * (room + _APART), dpi)
            columns, side = _columns(panel, most, len(panels), room)
            height = max(height, _panel(parts, panel, (x, top), room, columns, side, dpi))
    height = max(height, 1.0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width:.4f}" '
        f'height="{height:.3f}" viewBox="0 0 {width:.4f} {height:.3f}"><rect width="{width:.4f}" '
        f'height="{height:.3f}" fill="{ground}"/><g font-family="{PRINT_FONT}" fill="{ink}">{"".join(parts)}</g></svg>'
    )


def _panel(
    parts: list[str], panel: Plate, corner: tuple[float, float], room: float, columns: int, side: float, dpi: float
) -> float:
    """Draw a panel from its upper left `corner`, `room` points wide; returns where it ends."""
    left, y = corner
    for line in _lines(panel.caption, room, LARGE):
        y += LARGE * _LEADING
        parts.append(_text(line, left, y - 0.2 * LARGE, LARGE))
    y += 2.5 if panel.caption else 0.0
    for first in range(0, len(panel.pictures), columns):
        top, bottom = _snap(y, dpi), 0.0
        for place, pixels in enumerate(panel.pictures[first : first + columns]):
            x = _snap(left + place * (side + _GAP), dpi)
            dots = _dots(pixels.shape[1], side, dpi)
            scale = dots * 72 / dpi if dots else side / pixels.shape[1]  # points a pixel
            parts.append(_picture(pixels, max(1, dots), x, top, scale))
            box = panel.frames[first + place] if panel.frames else None
            if box is not None and box != (0, 0, *pixels.shape[:2]):
                parts.append(_frame(box, x, top, scale))
            bottom = max(bottom, pixels.shape[0] * scale)
        y = top + bottom
        notes = [_lines(note, side, SMALL)[:_LINES] for note in panel.notes[first : first + columns]]
        for place, lines in enumerate(notes):
            for row, line in enumerate(lines, 1):
                parts.append(_text(line, left + place * (side + _GAP), y + row * SMALL * _LEADING, SMALL))
        y += max((len(lines) for lines in notes), default=0) * SMALL * _LEADING + (4.0 if notes else _GAP)
    return y


def _columns(panel: Plate, most: int, panels: int, width: float) -> tuple[int, float]:
    """How many pictures stand side by side, and how wide each is, in points."""
    tall, wide = np.max([picture.shape[:2] for picture in panel.pictures], axis=0)
    if most == 1 and (panels == 1 or wide > 3 * tall):
        return 1, width
    if panel.columns:
        columns, at_most = min(panel.columns, most), _TILE[1]
    else:
        least = max(_TILE[0] * max(1.0, wide / tall), _NOTE if any(panel.notes) else 0.0)
        columns, at_most = max(1, min(most, int((width + _GAP) / (least + _GAP)))), max(_TILE[1], least)
    return columns, min((width - (columns - 1) * _GAP) / columns, at_most)


def _dots(pixels: int, side: float, dpi: float) -> int:
    """Whole dots a pixel, so that a picture takes at most `side` points; 0 where it has more pixels than dots."""
    return int(side / 72 * dpi / pixels + 1e-6)


def _snap(value: float, dpi: float) -> float:
    """The nearest place, in points, on the grid of dots: a picture off it would be smoothed."""
    return round(value / 72 * dpi) * 72 / dpi


def _lines(text: str, room: float, size: float) -> list[str]:
    """Text in lines that fit; what has no blank to break at is broken where it must."""
    return textwrap.wrap(text, max(4, int(room / text_width("x", size)))) if text else []


def _text(line: str, x: float, y: float, size: float) -> str:
    return f'<text x="{x:.3f}" y="{y:.3f}" font-size="{size:g}">{escape(line)}</text>'


def _frame(box: tuple[int, int, int, int], x: float, y: float, scale: float) -> str:
    top, left, bottom, right = (scale * edge for edge in box)
    return (
        f'<rect x="{x + left:.3f}" y="{y + top:.3f}" width="{right - left:.3f}" height="{bottom - top:.3f}" '
        f'fill="none" stroke="{_MARK}" stroke-width="0.8"/>'
    )


def _picture(pixels: np.ndarray, dots: int, x: float, y: float, scale: float) -> str:
    """One picture, already enlarged: viewers of PDF smooth what they enlarge themselves."""
    buffer = io.BytesIO()
    Picture.fromarray(pixels.repeat(dots, 0).repeat(dots, 1)).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = (side * scale for side in pixels.shape[:2])
    return (
        f'<image x="{x:.4f}" y="{y:.4f}" width="{width:.4f}" height="{height:.4f}" preserveAspectRatio="none" '
        f'style="image-rendering:optimizeSpeed" xlink:href="data:image/png;base64,{data}"/>'
    )
