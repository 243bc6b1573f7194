"""What a study returns: tables, figures, images, files, findings, and where they came from. Imports no torch."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from netopsy.errors import SettingsError, nearest

Group = Literal["contents", "vision", "losses", "size"]
"""What a study asks: what is in the network, what does it see, what can it lose, how small does it get."""

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""From the worst. error: the figures of the report do not mean what they seem to. warning: they may not, or something
is wrong with the network. note: good to know."""


@dataclass(frozen=True)
class Figure:
    """A chart as a Vega-Lite specification with its data inside.

    `reading` says in one line how to read it, `source` which figure of which paper it is.
    """

    spec: dict[str, Any]
    title: str
    reading: str
    source: str = ""

    def save(
        self, path: str | Path, *, width: str = "170mm", theme: str = "light", dpi: float = 300, format: str = ""
    ) -> Path:
        """Write the chart for print as SVG, PDF or PNG, by the ending of `path` or by `format`; returns the path.

        The chart is laid out anew for its width, text at 7 to 8 points and names whole. width: as `85mm`, `3.3in` or
        `1000px` (pixels of a PNG at `dpi`). theme: light or dark. Errors: SettingsError.
        """
        from netopsy.report import paper

        path, format = Path(path), format or Path(path).suffix[1:].lower()
        paper.check_print(format, theme, dpi)
        points = paper.points(width, dpi)
        points = paper.whole_dots(points, dpi) if format == "png" else points
        paper.write_svg(paper.chart_svg(self.spec, points, theme), path, format, dpi)
        return path


@dataclass(frozen=True)
class Panel:
    """Pictures as they are, without frame, text or enlargement, and what is drawn around them.

    name: in files. pictures: each uint8 (height, width) or (height, width, 3). caption: what they show. notes: a few
    words on each, or none. frames: of each the box (top, left, bottom, right) in pixels that is framed, or None; or
    none. columns: of them side by side; 0 for as many as fit.
    """

    name: str
    pictures: Sequence[np.ndarray]
    caption: str = ""
    notes: tuple[str, ...] = ()
    frames: tuple[tuple[int, int, int, int] | None, ...] = ()
    columns: int = 0

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The pictures as one array (n, height, width[, 3]) under the panel's name; of unequal sizes one each, under
        `NAME 0`, `NAME 1`, ...
        """
        if len({picture.shape for picture in self.pictures}) <= 1:
            return {self.name: np.stack(self.pictures)}
        return {f"{self.name} {k}": picture for k, picture in enumerate(self.pictures)}


@dataclass(frozen=True)
class Image:
    """A picture: `pixels` uint8 (height, width) or (height, width, 3), drawn at `zoom` screen pixels a pixel.

    panels: what it is put together from; none where `pixels` is a picture as it is.
    """

    pixels: np.ndarray
    title: str
    reading: str
    source: str = ""
    alt: str = ""
    zoom: int = 1
    panels: tuple[Panel, ...] = ()

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The pictures without frame or text, by the names of the panels: see `Panel.arrays`."""
        panels = self.panels or (Panel("picture", (self.pixels,)),)
        return {name: array for panel in panels for name, array in panel.arrays.items()}

    def save(
        self, path: str | Path, *, width: str = "170mm", theme: str = "light", dpi: float = 300, format: str = ""
    ) -> Path:
        """Write the picture for print as SVG, PDF or PNG, or its `arrays` as npz; as `Figure.save`.

        A pixel takes a whole number of dots at `dpi`, without smoothing; words stand beside it as text.
        """
        from netopsy.report import paper, plates

        path, format = Path(path), format or Path(path).suffix[1:].lower()
        if format == "npz":
            paper.write_arrays(self.arrays, path)
            return path
        paper.check_print(format, theme, dpi, "npz")
        panels = self.panels or (Panel("picture", (self.pixels,)),)
        points = paper.points(width, dpi)
        points = paper.whole_dots(points, dpi) if format == "png" else points
        paper.write_svg(plates.plate_svg(panels, points, theme, dpi), path, format, dpi)
        return path


@dataclass(frozen=True)
class Sheet:
    """Small pictures of one size, side by side in one WebP picture, row by row.

    data: the WebP file. tile: (height, width) of each. columns: of them in a row. count: how many there are.
    """

    data: bytes
    tile: tuple[int, int]
    columns: int
    count: int

    @classmethod
    def of(cls, tiles: np.ndarray, *, quality: int = 35) -> Sheet:
        """The sheet of `tiles`, uint8 (n, height, width, 3); small ones lose nothing, larger ones as in a JPEG."""
        from PIL import Image as Picture

        n, height, width, _ = tiles.shape
        columns = max(1, math.ceil(math.sqrt(n * height / width)))
        pixels = np.full((max(1, math.ceil(n / columns)) * height, columns * width, 3), 128, np.uint8)
        for i, tile in enumerate(tiles):
            top, left = i // columns * height, i % columns * width
            pixels[top : top + height, left : left + width] = tile
        buffer = io.BytesIO()
        lossless = max(height, width) < 16  # the codec's blocks
        Picture.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=6, lossless=lossless)
        return cls(buffer.getvalue(), (height, width), columns, n)

    @property
    def tiles(self) -> np.ndarray:
        """The pictures by themselves, uint8 (count, height, width, 3)."""
        from PIL import Image as Picture

        pixels = np.asarray(Picture.open(io.BytesIO(self.data)).convert("RGB"))
        (height, width), rows = self.tile, pixels.shape[0] // self.tile[0]
        cut = pixels.reshape(rows, height, self.columns, width, 3).swapaxes(1, 2)
        return cut.reshape(-1, height, width, 3)[: self.count]


@dataclass(frozen=True)
class Passage:
    """A stretch of text in pieces, as tokens, each with a shade.

    shades: -1..1, one a piece; 0 has none. mark: the number of the piece that is meant, -1 for none.
    note: the words that stand before it.
    """

    pieces: tuple[str, ...]
    shades: tuple[float, ...]
    mark: int = -1
    note: str = ""


@dataclass(frozen=True)
class Texts:
    """Passages in groups, each under its name, as lines of shaded text. The texts may hold anything."""

    groups: dict[str, tuple[Passage, ...]]
    title: str
    reading: str
    source: str = ""


@dataclass(frozen=True)
class Atlas:
    """Units of many layers, each with what excites it, as a page to look things up in.

    units: one row a unit, a layer's units together: `node`, `layer`, `channel`, `class` (its commonest, or null), then
        figures to sort by. stimuli: one row a picture: `node`, `channel`, `rank`, `value`, `image`, `class`.
    sheets: by node; its units' pictures in the order of `units`: for each unit `top` patches, then as many
        reconstructions if `rules` names a rule for the node; each sheet holds whole units.
    texts: by node in the place of sheets, for each of its units its stimuli as passages. noun: what a sample is called.
    """

    units: pl.DataFrame
    stimuli: pl.DataFrame
    sheets: dict[str, tuple[Sheet, ...]]
    top: int
    rules: dict[str, str]
    title: str
    reading: str
    source: str = ""
    texts: dict[str, tuple[tuple[Passage, ...], ...]] = field(default_factory=dict)
    noun: str = "image"

    def pictures(self, node: str) -> np.ndarray:
        """A node's pictures in the order of `units`, uint8 (unit, picture, height, width, 3): `top` patches, then as
        many reconstructions if there are any. Those of 16 pixels and more are compressed as in a JPEG.
        """
        if node not in self.sheets:
            raise SettingsError(f"the atlas has no pictures of '{node}'; nearest: {nearest(node, self.sheets)}.")
        tiles = np.concatenate([sheet.tiles for sheet in self.sheets[node]])
        return tiles.reshape(-1, self.top * (2 if self.rules.get(node) else 1), *tiles.shape[1:])


@dataclass(frozen=True)
class Alert:
    """What a reader must know before believing the rest.

    name: of its kind, as `random-weights`. message: what is wrong, with its number. advice: what to do.
    layer: where, if at one. figures: the numbers behind it, plain data.
    """

    name: str
    level: Level
    message: str
    advice: str = ""
    layer: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


class Finding(str):
    """A sentence, and how much it tells.

    weight: the effect over the smallest that the samples could have shown; of facts that hang on no sample, how far
    they are from the usual. Below 1 it is not repeated on the first page.
    """

    weight: float

    def __new__(cls, text: str, weight: float = 1.0) -> Finding:
        finding = super().__new__(cls, text)
        finding.weight = weight
        return finding

    def __getnewargs__(self) -> tuple[str, float]:  # type: ignore[override]
        return str(self), self.weight


@dataclass(frozen=True)
class LayerMeasure:
    """A figure of every layer, for the strip and the decision table of the first page.

    title: what it is; unit: `share` (0..1, shown in per cent), `points` (a share of the score), `count`, `bytes` or
    `bits`. worse: whether a higher value is worse, better, or neither. first: the study whose figure counts where
    several give one.
    """

    title: str
    unit: Literal["share", "points", "count", "bytes", "bits"]
    worse: Literal["higher", "lower", ""] = ""
    first: str = ""


MEASURES = {
    "parameters": LayerMeasure("Parameters", "count"),
    "bytes": LayerMeasure("Bytes", "bytes"),
    "macs": LayerMeasure("Multiply-accumulates", "count"),
    "dead": LayerMeasure("Dead units", "count", "higher"),
    "sparsity": LayerMeasure("Zeros among the activations", "share"),
    "fragility": LayerMeasure("Score lost with noise on the layer", "points", "higher"),
    "variance": LayerMeasure("Variance that the first tenth of the components explains", "share"),
    "bits": LayerMeasure("Bits a weight needs", "bits", "higher"),
    "prunable": LayerMeasure("Share of the weights that can be pruned", "share", "lower", first="prescribe"),
    "cost": LayerMeasure("Score lost with the advised format", "points", "higher"),
}
"""The measures that studies give and pages show, by name."""

MEASURE_SCHEMA = {
    "layer": pl.String,
    "measure": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "text": pl.String,
}


@dataclass
class Result:
    """What one study found on one network.

    `tables` maps names to polars frames, `figures` to `Figure`, `images` to `Image`, `texts` to `Texts`, `atlases` to
    `Atlas`, `artifacts` to files. An image called `unit NODE:CHANNEL` is of that unit alone and stands on its page.
    `findings` are plain sentences with their numbers, the most important first; a `Finding` says how much it tells, and
    `group` which of the user's questions they answer; `question` is the study's own, empty where it has none.
    `alerts` are what a reader must know first. `measures` are figures by layer for the first page, in the columns of
    `MEASURE_SCHEMA`: layer, measure (a name in `MEASURES`), value, its 95 % interval or nulls, and a word on it.
    `provenance` holds network, samples, versions, seed, digests and time (see `netopsy.provenance`).
    """

    study: str
    settings: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    texts: dict[str, Texts] = field(default_factory=dict)
    atlases: dict[str, Atlas] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    question: str = ""
    group: Group = "contents"
    alerts: list[Alert] = field(default_factory=list)
    measures: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=MEASURE_SCHEMA))
    provenance: dict[str, Any] = field(default_factory=dict)

    def figure(self, name: str) -> Figure | Image:
        """The chart or picture called `name`, which can be saved for print. Errors: SettingsError for another name."""
        keys = figure_keys(self.figures, self.images)
        if name not in keys:
            known = f"nearest: {nearest(name, keys)}" if keys else "it has none"
            raise SettingsError(f"no figure '{name}' in '{self.study}'; {known}.")
        kind, key = keys[name]
        return self.figures[key] if kind == "chart" else self.images[key]

    @property
    def pictures(self) -> dict[str, dict[str, np.ndarray]]:
        """All pictures as arrays without frame or text: see `Image.arrays`."""
        return {name: image.arrays for name, image in self.images.items()}

    def _repr_html_(self) -> str:
        from netopsy.report.notebook import result_html

        return result_html(self)


def figure_keys(figures: Iterable[str], images: Iterable[str]) -> dict[str, tuple[Literal["chart", "picture"], str]]:
    """The charts and pictures of a study by the names under which they are saved: what each is, and its key.

    A picture that has the name of a chart is called `NAME_picture`.
    """
    keys: dict[str, tuple[Literal["chart", "picture"], str]] = {name: ("chart", name) for name in figures}
    for name in images:
        keys[f"{name}_picture" if name in keys else name] = ("picture", name)
    return keys
