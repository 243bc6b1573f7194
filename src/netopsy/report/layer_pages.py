"""A page a layer, with all that the studies found on it, and a page for each of its most telling units."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
from markupsafe import Markup, escape

from netopsy.report.atlas import AtlasPictures, best_units, class_words, mosaic, passage_pieces, webp_url
from netopsy.report.decisions import PageLayer, advice, measure_text, measured_text
from netopsy.report.summary import file_stem, image_summary, number, table_summary, unit_images
from netopsy.result import MEASURES, Atlas, Image, Passage, Result

UNITS = 8  # of a layer that have a page of their own
_UNIT_PAGES = 400  # in all; of many layers each has fewer
_ROWS, _CELLS = 200, 12_000  # rows of a table on a page, and of all layers' pages together


@dataclass(frozen=True)
class UnitPage:
    """A unit with a page of its own: the study and name of its atlas, its node and channel, and its row there."""

    study: str
    atlas: str
    node: str
    layer: str
    channel: int
    row: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.node}:{self.channel}"

    @property
    def page(self) -> str:
        return f"units/{file_stem(self.study + '-' + self.name)}.html"

    @property
    def atlas_page(self) -> str:
        """The address of the unit's view in its atlas."""
        return f"{self.study}-{self.atlas}.html#{quote(self.name)}"


def unit_pages(results: Sequence[Result]) -> list[UnitPage]:
    """The most telling units of each node of each atlas, and those that have a picture by themselves."""
    entries = [(r, name, atlas) for r in results for name, atlas in r.atlases.items()]
    nodes = sum(atlas.units["node"].n_unique() for _, _, atlas in entries)
    most = min(UNITS, max(1, _UNIT_PAGES // max(1, nodes)))
    alone = unit_images(results)
    return [
        UnitPage(result.study, name, node, row.get("layer") or node, row["channel"], row)
        for result, name, atlas in entries
        for node in [*atlas.sheets, *atlas.texts]
        for row in best_units(atlas, node, most, [channel for other, channel in alone if other == node])
    ]


_NAME = re.compile(r"[A-Za-z_][\w.]*\w(?::\d+)?")


def link_names(text: str, pages: Mapping[str, str]) -> Markup:
    """A sentence with the layers and units that it names as links. pages: the addresses by name."""
    parts, end = [], 0
    for match in _NAME.finditer(text):
        page = pages.get(match[0])
        if page is not None and not match[0].isalpha():  # a layer called `linear` is not meant wherever the word stands
            parts += [escape(text[end : match.start()]), Markup('<a href="{}">{}</a>').format(page, match[0])]
            end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def whole_options(text: str) -> Markup:
    """A sentence whose options, as --mean, are not broken at their hyphens."""
    parts = re.split(r"(--[a-z][a-z-]*)", text)
    return Markup("").join(
        Markup('<span class="option">{}</span>').format(part) if k % 2 else escape(part) for k, part in enumerate(parts)
    )


def pages_by_name(results: Sequence[Result], layers: Sequence[PageLayer]) -> dict[str, str]:
    """The addresses of layers, of nodes by their layer, and of units: a page of their own, or a view in an atlas."""
    known = {layer.name: layer.page for layer in layers}
    nodes = {
        node: known[layer]
        for result in results
        for atlas in result.atlases.values()
        for node, layer in atlas.units.select("node", "layer").unique().iter_rows()
        if layer in known
    }
    units = {
        f"{node}:{channel}": f"{result.study}-{name}.html#{quote(f'{node}:{channel}')}"
        for result in results
        for name, atlas in result.atlases.items()
        for node, channel in atlas.units.select("node", "channel").iter_rows()
    }
    return units | {unit.name: unit.page for unit in unit_pages(results)} | nodes | known


class LayerRows:
    """The rows of all tables that belong to one layer, one node or one unit; split once, asked often.

    A row belongs to the layer in its column `layer`; without one, to the layer of the node in its column `node` or of
    the unit in its column `unit`, as other tables tell.
    """

    def __init__(self, results: Sequence[Result], layers: Sequence[PageLayer]) -> None:
        names = {layer.name for layer in layers}
        self.most = max(20, min(_ROWS, _CELLS // max(1, len(layers))))
        self._parts: dict[str, list[tuple[Result, str, pl.DataFrame]]] = {}
        layer_of = {name: name for name in names}
        for result in results:
            for frame in [*result.tables.values(), *(atlas.units for atlas in result.atlases.values())]:
                if frame.schema.get("node") == pl.String and frame.schema.get("layer") == pl.String:
                    layer_of.update(dict(frame.select("node", "layer").drop_nulls().unique().iter_rows()))
        self.layer_of = {node: layer for node, layer in layer_of.items() if layer in names}
        for result in results:
            for name, frame in result.tables.items():
                keyed = self._keyed(frame)
                if keyed is None:
                    continue
                for (layer,), part in keyed.partition_by("_layer", as_dict=True, include_key=False).items():
                    if layer in names:
                        self._parts.setdefault(str(layer), []).append((result, name, part))

    def _keyed(self, frame: pl.DataFrame) -> pl.DataFrame | None:
        """The table with a column `_layer`."""
        if frame.schema.get("layer") == pl.String:
            return frame.with_columns(_layer=pl.col("layer"))
        for column in ("node", "unit"):
            if frame.schema.get(column) == pl.String:
                node = pl.col(column) if column == "node" else pl.col(column).str.replace(r"(:\d+)+$", "")
                layer = node.replace_strict(self.layer_of, default=None, return_dtype=pl.String)
                return frame.with_columns(_layer=layer)
        return None

    def of_layer(self, layer: str) -> list[dict[str, Any]]:
        """Summaries of the layer's rows of each table, without the column that says its name on every row."""
        return [self._summary(*entry) for entry in self._parts.get(layer, [])]

    def of_unit(self, layer: str, node: str, channel: int) -> list[dict[str, Any]]:
        """Summaries of the unit's rows of each table."""
        made = []
        for result, name, part in self._parts.get(layer, []):
            if {"node", "channel"} <= set(part.columns):
                rows = part.filter((pl.col("node") == node) & (pl.col("channel") == channel))
            elif part.schema.get("unit") == pl.String:
                unit = f"{node}:{channel}"
                rows = part.filter((pl.col("unit") == unit) | pl.col("unit").str.starts_with(f"{unit}:"))
            else:
                continue
            if rows.height:
                made.append(self._summary(result, name, rows.drop("node", "channel", "unit", strict=False)))
        return made

    def _summary(self, result: Result, name: str, rows: pl.DataFrame) -> dict[str, Any]:
        kept = rows.drop([c for c in ("layer",) if c in rows.columns and rows.width > 1])
        summary = table_summary(result.study, name, kept, self.most)
        title = f"{result.study.replace('_', ' ')}: {summary['name']}"
        return {**summary, "study": result.study, "title": title, "weighty": result.group in ("losses", "size")}


def layer_page(
    layer: PageLayer,
    layers: Sequence[PageLayer],
    rows: LayerRows,
    units: Sequence[dict[str, Any]],
    images: Sequence[dict[str, Any]],
    *,
    trusted: bool,
) -> dict[str, Any]:
    """What a layer's page shows: its figures against those of the others, its units, its pictures, its rows.

    units: of the layer, as `unit_card` makes them. images: of the layer, as `layer_images` finds them.
    """
    number_of = {other.name: k for k, other in enumerate(layers)}
    position = number_of[layer.name]
    before = [other for other in layers if other.name in layer.inputs]
    after = [other for other in layers if layer.name in other.inputs]
    return {
        "layer": layer,
        "position": position + 1,
        "count": len(layers),
        "before": before or ([] if layer.inputs or layer.kind else list(layers[max(0, position - 1) : position])),
        "after": after or ([] if layer.kind else list(layers[position + 1 : position + 2])),
        "advice": advice(layer) if trusted else "",
        "measures": [_against(name, layer, layers) for name in MEASURES if name in layer.measures],
        "cards": units,
        "images": images,
        "tables": rows.of_layer(layer.name),
    }


def _against(name: str, layer: PageLayer, layers: Sequence[PageLayer]) -> dict[str, Any]:
    """A measure of a layer, its rank among all, and all of them as ticks on a line from 0 to 100."""
    values = [other.measures[name].value for other in layers if name in other.measures]
    own = layer.measures[name]
    low, high = min(0.0, *values), max(values)
    span = (high - low) or 1.0
    higher = sum(value > own.value for value in values)
    same = values.count(own.value)
    told_apart = len(values) > 1 and 2 * same <= len(values)
    rank = f"{'tied for ' if same > 1 else ''}rank {higher + 1} of {len(values)}" if told_apart else ""
    return {
        "title": MEASURES[name].title,
        "text": measured_text(name, own),
        "word": own.text,
        "rank": rank,
        "ticks": sorted({round(100 * (value - low) / span, 1) for value in values}),
        "at": round(100 * (own.value - low) / span, 1),
        "span": (measure_text(name, low), measure_text(name, high)),
    }


def layer_images(results: Sequence[Result], layer: str, nodes: Sequence[str]) -> list[dict[str, Any]]:
    """Pictures whose name or title names the layer, one of its nodes, or one of their units."""
    wanted = {layer, *nodes}
    found = []
    for result in results:
        for name, image in result.images.items():
            words = {word.strip(".,;:()") for word in image.title.split()} | {name}
            if any(word in wanted or word.rpartition(":")[0] in wanted for word in words):
                found.append(image_summary(name, image))
    return found


def unit_card(unit: UnitPage, cut: AtlasPictures) -> dict[str, Any]:
    """A unit in small: its name, class, picture or passages, and its page."""
    tiles = cut.tiles(unit.node, unit.channel)
    return {
        "name": unit.name,
        "class": class_words(unit.row.get("class")),
        "page": unit.page,
        "url": webp_url(mosaic(tiles[0][:9], 3)) if tiles is not None and len(tiles[0]) else "",
        "made": "",
        "pieces": [passage_pieces(passage) for passage in _passages(unit, cut)[:2]],
    }


def unit_page(
    unit: UnitPage, layers: Sequence[PageLayer], rows: LayerRows, cut: AtlasPictures, alone: Image | None = None
) -> dict[str, Any]:
    """What a unit's page shows: its stimuli large, what is projected back, its figures, its rows of all tables.

    alone: a picture of the unit by itself.
    """
    atlas: Atlas = cut.atlas
    stimuli = cut.stimuli(unit.node, unit.channel)
    tiles = cut.tiles(unit.node, unit.channel)
    passages = _passages(unit, cut)
    shown = []
    for k, row in enumerate(stimuli[: atlas.top]):
        picture = ""
        if tiles is not None and k < len(tiles[0]):
            pair = [part[k : k + 1] for part in tiles if len(part)]
            picture = webp_url(mosaic(np.concatenate(pair), len(pair)))
        shown.append(
            {
                "url": picture,
                "pieces": passage_pieces(passages[k]) if k < len(passages) else [],
                "words": " · ".join(
                    filter(None, (class_words(row.get("class")), number(row["value"]), f"{atlas.noun} {row['image']}"))
                ),
            }
        )
    page = next((layer.page for layer in layers if layer.name == unit.layer), "")
    skip = ("node", "layer", "channel", "class")
    figures = [(k.replace("_", " "), number(v)) for k, v in unit.row.items() if k not in skip and isinstance(v, float)]
    return {
        "unit": unit,
        "layer_page": page,
        "class": unit.row.get("class") or "",
        "words": figures,
        "stimuli": shown,
        "reconstructed": tiles is not None and len(tiles[1]) > 0,
        "rule": atlas.rules.get(unit.node, ""),
        "image": None if alone is None else image_summary(unit.name, alone),
        "tables": rows.of_unit(unit.layer, unit.node, unit.channel),
    }


def _passages(unit: UnitPage, cut: AtlasPictures) -> tuple[Passage, ...]:
    if unit.node not in cut.atlas.texts:
        return ()
    return cut.atlas.texts[unit.node][cut.places[unit.node][unit.channel]]
