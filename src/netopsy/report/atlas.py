"""An atlas as plain data for its page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from PIL import Image as Picture

from netopsy.result import Atlas, Passage

_WORDS = ("node", "layer", "channel", "class")
SELECTIVE = 0.75  # of a unit's strongest samples in one class: a unit that is called selective
_TEXTS_A_PART = 100  # units whose passages lie in one file

GLOSSARY = {
    "unit": "A channel of a convolution, or a neuron. It is written layer:number.",
    "patch": "The part of the image that the unit sees, at the place where it responds most strongly.",
    "activation": "The strongest value that the unit takes on any sample.",
    "share": "The share of its strongest samples that belong to their commonest class (0 to 1).",
    "entropy": "How mixed the classes of its strongest samples are, in bits: 0 when all are of one class.",
    "selectivity": "How much more it responds to its best class than to the others on average: 0 the same, 1 only to "
    "that class (Morcos et al., 2018).",
    "reconstruction": "What is projected back from the unit to the image: the pixels it responds to.",
}
"""The words of an atlas, explained on its page."""


def atlas_words(study: str, name: str, atlas: Atlas) -> dict[str, Any]:
    """What a page says of an atlas before it is opened."""
    back = any(atlas.rules.values())
    shown = {"unit", *atlas.units.columns, *(["patch"] if atlas.sheets else []), *(["reconstruction"] if back else [])}
    return {
        "page": f"{study}-{name}",
        "title": atlas.title,
        "reading": atlas.reading,
        "source": atlas.source,
        "units": atlas.units.height,
        "layers": len(atlas.sheets) + len(atlas.texts),
        "classes": atlas.stimuli["class"].is_not_null().any(),
        "reconstructed": back,
        "glossary": [(word, meaning) for word, meaning in GLOSSARY.items() if word in shown],
    }


def atlas_data(atlas: Atlas) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the page's script reads at once, and the parts that it loads when their units are looked at.

    The page knows of each unit its channel, class, strongest value, the classes of its stimuli, and its figures. A part
    holds a sheet as base64, or passages, with the values and numbers of the stimuli, for `each` units after another.
    """
    classes: dict[str, int] = {}

    def position(name: str | None) -> int:
        return -1 if not name else classes.setdefault(name, len(classes))

    figures = [name for name in atlas.units.columns if name not in _WORDS]
    by_unit: dict[tuple[str, int], list[tuple[Any, int, int]]] = {}
    columns = ("node", "channel", "value", "image", "class")
    for node, channel, value, image, name in atlas.stimuli.select(columns).iter_rows():
        by_unit.setdefault((node, channel), []).append((short(value), image, position(name)))
    layers: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    rows_of = {key[0]: frame for key, frame in atlas.units.partition_by("node", as_dict=True).items()}
    for node in [*atlas.sheets, *atlas.texts]:
        sheets, texts = atlas.sheets.get(node, ()), atlas.texts.get(node, ())
        back = bool(atlas.rules.get(node))
        units, stimuli = [], []
        for row in rows_of[node].iter_rows(named=True) if node in rows_of else ():
            found = by_unit.get((node, row["channel"]), [])
            strongest = found[0][0] if found else None
            groups = [group for _, _, group in found]
            units.append(
                [row["channel"], position(row["class"]), strongest, groups, *(short(row[name]) for name in figures)]
            )
            stimuli.append([[value, image] for value, image, _ in found])
        each = sheets[0].count // (atlas.top * (2 if back else 1)) if sheets else _TEXTS_A_PART
        first = len(parts)
        for start in range(0, len(units), each):
            sheet = {"sheet": base64.b64encode(sheets[start // each].data).decode()} if sheets else {}
            lines = [[_pieces(passage) for passage in unit] for unit in texts[start : start + each]]
            parts.append({"stimuli": stimuli[start : start + each], "texts": lines, **sheet})
        layers.append(
            {
                "node": node,
                "back": back,
                "tile": list(sheets[0].tile) if sheets else None,
                "each": each,
                "first": first,
                "units": units,
            }
        )
    data = {
        "top": atlas.top,
        "noun": atlas.noun,
        "classes": list(classes),
        "figures": figures,
        "layers": layers,
        "start": opening_layer(atlas),
    }
    return data, parts


def opening_layer(atlas: Atlas) -> int:
    """The number of the deepest layer with selective units; not the last one, whose units are the classes themselves,
    if another has some.
    """
    nodes = [*atlas.sheets, *atlas.texts]
    if "share" not in atlas.units.columns:
        return max(0, len(nodes) - 2)
    selective = set(atlas.units.filter(pl.col("share") >= SELECTIVE, pl.col("class").is_not_null())["node"])
    found = [number for number, node in enumerate(nodes) if node in selective]
    if not found:
        return max(0, len(nodes) - 2)
    return found[-2] if found[-1] == len(nodes) - 1 and len(found) > 1 else found[-1]


def best_units(atlas: Atlas, node: str, most: int, also: Sequence[int] = ()) -> list[dict[str, Any]]:
    """The most telling units of a node: those whose stimuli are most of one class, then the most selective.

    also: channels that are shown with the `most` best.
    """
    keys = [name for name in ("share", "selectivity", "activation") if name in atlas.units.columns]
    units = atlas.units.with_row_index("row").filter(pl.col("node") == node)
    order = units.sort(keys, descending=True, nulls_last=True, maintain_order=True) if keys else units
    ranked = order.with_row_index("rank")
    shown = pl.col("rank") < most
    return ranked.filter(shown | pl.col("channel").is_in(list(also)) if also else shown).drop("rank").to_dicts()


class AtlasPictures:
    """Pictures of single units of an atlas, cut from its sheets; the sheet used last stays decoded."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        nodes: dict[str, list[int]] = {}
        for node, channel in atlas.units.select("node", "channel").iter_rows():
            nodes.setdefault(node, []).append(channel)
        self.places: Mapping[str, dict[int, int]] = {
            node: {channel: place for place, channel in enumerate(channels)} for node, channels in nodes.items()
        }
        rows = atlas.stimuli.sort("rank", maintain_order=True) if "rank" in atlas.stimuli.columns else atlas.stimuli
        self._stimuli = rows.partition_by("node", "channel", as_dict=True)
        self._decoded: tuple[tuple[str, int], np.ndarray] | None = None

    def stimuli(self, node: str, channel: int) -> list[dict[str, Any]]:
        """The rows of the unit's stimuli, the strongest first."""
        return self._stimuli[node, channel].to_dicts() if (node, channel) in self._stimuli else []

    def tiles(self, node: str, channel: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The unit's patches, uint8 (n, height, width, 3), and as many reconstructions or none; None without sheets."""
        sheets = self.atlas.sheets.get(node, ())
        place = self.places.get(node, {}).get(channel)
        if not sheets or place is None:
            return None
        back = bool(self.atlas.rules.get(node))
        pictures = self.atlas.top * (2 if back else 1)
        each = sheets[0].count // pictures
        sheet, first = sheets[place // each], place % each * pictures
        pixels = self._pixels(node, place // each)
        height, width = sheet.tile
        count = min(self.atlas.top, len(self._stimuli.get((node, channel), ())))

        def cut(number: int) -> np.ndarray:
            top, left = number // sheet.columns * height, number % sheet.columns * width
            return pixels[top : top + height, left : left + width]

        patches = np.stack([cut(first + k) for k in range(count)]) if count else np.zeros((0, height, width, 3), "u1")
        reconstructions = [cut(first + self.atlas.top + k) for k in range(count)] if back else []
        return patches, np.stack(reconstructions) if reconstructions else patches[:0]

    def _pixels(self, node: str, number: int) -> np.ndarray:
        key = (node, number)
        if self._decoded is None or self._decoded[0] != key:
            picture = Picture.open(io.BytesIO(self.atlas.sheets[node][number].data)).convert("RGB")
            self._decoded = key, np.asarray(picture)
        return self._decoded[1]


def class_words(name: str | None) -> str:
    """A class as it stands alone under a picture: one that is but a number says that it is a class."""
    return f"class {name}" if name and name.isdigit() else name or ""


def mosaic(tiles: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Tiles of one size in a grid with gray lines, uint8 (height, width, 3); small ones enlarged whole times."""
    zoom = max(1, 64 // max(tiles.shape[1:3]))
    tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
    n, height, width, _ = tiles.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 128, np.uint8)
    for k, tile in enumerate(tiles):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def webp_url(pixels: np.ndarray) -> str:
    """A picture as the address of a WebP file within the page."""
    buffer = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", quality=80, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def shade_style(shade: float) -> str:
    """The name of a shade's style: `w1` to `w9` above zero, `c1` to `c9` below, empty where there is none."""
    level = round(9 * min(1.0, abs(shade)))
    return f"{'w' if shade > 0 else 'c'}{level}" if level else ""


def passage_pieces(passage: Passage) -> list[dict[str, Any]]:
    """The pieces of a passage with the names of their styles."""
    pairs = zip(passage.pieces, passage.shades, strict=True)
    return [{"text": t, "style": shade_style(s), "mark": k == passage.mark} for k, (t, s) in enumerate(pairs)]


def _pieces(passage: Passage) -> list[Any]:
    return [passage.mark, [[t, shade_style(s)] for t, s in zip(passage.pieces, passage.shades, strict=True)]]


def short(value: Any) -> Any:
    """A number with four digits, for the data of a page."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
