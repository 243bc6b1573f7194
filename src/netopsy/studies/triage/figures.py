"""The figures of the study `triage`, and the activation maps of the new layers (the paper's Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int64
from PIL import Image as Picture
from PIL import ImageDraw

from netopsy.blocks.block import Block
from netopsy.blocks.section import section
from netopsy.charts import curve, dots, scatter
from netopsy.pictures.mosaic import below, beside, caption, resize
from netopsy.result import Figure, Image, Panel
from netopsy.stats.hypothesis_tests import LEAST, mean_interval
from netopsy.studies.triage.design import TriageRun, Trial
from netopsy.studies.triage.storage import PICTURED, maps

SOURCE = "Nowak & Corso, Deep Net Triage, 2018"
WAY = pl.concat_str(["training", "start"], separator="-").alias("way")
"""The paper's names: FM-RW, TM-STN, ..."""


def figures(tables: Mapping[str, pl.DataFrame]) -> dict[str, Figure]:
    """Figures 2 and 4 of the paper, and accuracy against what is left of the network."""
    charts: dict[str, Figure] = {}
    if tables["summary"].height:
        charts["accuracy"] = _accuracy(tables["cells"], tables["summary"], tables["baselines"])
        if tables["cells"]["epochs_to_99"].is_not_null().any():
            charts["epochs"] = _epochs(tables["cells"], tables["history"])
    if "deeper" in tables and tables["deeper"]["top1"].is_not_null().any():
        charts["deeper"] = _deeper(tables["deeper"], tables["baselines"])
    if "sizes" in tables:
        charts["sizes"] = _sizes(tables["sizes"])
    return charts


def ranges(cells: pl.DataFrame, summary: pl.DataFrame) -> pl.DataFrame:
    """A row a block and way: `top1` with `low` and `high`: the worst and best seed; of one seed, over the images."""
    intervals = cells.select("block", "start", "training", "top1_low", "top1_high").unique(
        ["block", "start", "training"], maintain_order=True
    )
    joined = summary.join(
        intervals, on=["block", "start", "training"], how="left", suffix="_images", maintain_order="left"
    )
    several = pl.col("seeds") > 1
    return joined.with_columns(
        WAY,
        low=pl.when(several).then("lowest").otherwise("top1_low_images"),
        high=pl.when(several).then("highest").otherwise("top1_high_images"),
    ).sort("training", maintain_order=True)


def _accuracy(cells: pl.DataFrame, summary: pl.DataFrame, baselines: pl.DataFrame) -> Figure:
    seeds = int(summary["seeds"].max())  # type: ignore[arg-type]
    line = "run from the worst to the best seed" if seeds > 1 else "are 95 % intervals over the images"
    return dots(
        ranges(cells, summary),
        "block",
        "top1",
        color="way",
        low="low",
        high="high",
        percent=True,
        category_title="block compressed to one layer",
        value_title="top-1 accuracy",
        color_title="training-start",
        reference=_mean(baselines["top1"]),
        title="Accuracy with each block compressed",
        reading=f"Last epoch; lines through the marks {line}. FM: the new layer alone was trained, TM: all layers.",
        source=f"{SOURCE}, Figure 2",
    )


def convergence(cells: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    """A row a start and training: `epochs` to 99 % of the best, a mean over blocks and seeds, with `low` and `high`.

    history: of these trainings. blocks: how many. low, high: 95 % interval over them, from 1 to the epochs that the
    trainings took at most; null of fewer than three.
    """
    rows = []
    trained = history.filter(pl.col("training").is_in(cells["training"].unique().to_list()))
    most = float(trained["epoch"].max() or math.inf)  # type: ignore[arg-type]
    for (start, training), means in _epochs_of_blocks(cells).group_by("start", "training", maintain_order=True):
        values = means["epochs"].to_list()
        low, high = mean_interval(values, (1.0, most))
        mean = sum(values) / len(values)
        rows.append(
            {"start": start, "training": training, "epochs": mean, "low": low, "high": high, "blocks": len(values)}
        )
    schema: dict[str, Any] = {"start": pl.String, "training": pl.String}
    schema |= {**dict.fromkeys(("epochs", "low", "high"), pl.Float64), "blocks": pl.Int64}
    return pl.DataFrame(rows, schema=schema)


STARTS = {
    "RW": "random (RW)",
    "MW": "mean filter (MW)",
    "STN": "taught (STN)",
    "LSQ": "least squares (LSQ)",
    "ID": "left out (ID)",
}
TRAININGS = {"FM": "the new layer alone (FM)", "TM": "all layers (TM)"}


def in_words(frame: pl.DataFrame) -> pl.DataFrame:
    """Starts and trainings under names that a legend can have."""
    return frame.with_columns(pl.col("start").replace(STARTS), pl.col("training").replace(TRAININGS))


def _epochs_of_blocks(cells: pl.DataFrame) -> pl.DataFrame:
    """Each block's mean over its seeds, for blocks are what varies."""
    keys = ("start", "training", "block")
    converged = cells.filter(pl.col("epochs_to_99").is_not_null())
    return converged.group_by(keys, maintain_order=True).agg(epochs=pl.col("epochs_to_99").mean())


def _epochs(cells: pl.DataFrame, history: pl.DataFrame) -> Figure:
    means = convergence(cells, history)
    few = means["blocks"].min() < LEAST  # type: ignore[operator]
    marks = (
        "The blocks themselves, each a mean over its seeds"
        if few
        else "Means over the blocks, with 95 % intervals (Student's t) over them"
    )
    return dots(
        in_words(_epochs_of_blocks(cells) if few else means),
        "start",
        "epochs",
        color="training",
        low=None if few else "low",
        high=None if few else "high",
        category_title="start of the new layer",
        value_title="epochs to within 1 % of the best accuracy",
        color_title="trained",
        title="Epochs until the accuracy is within 1 % of its best",
        reading=f"Lower is faster. {marks}. The epochs in which STN was taught are not counted.",
        source=f"{SOURCE}, Figure 4",
    )


def _deeper(deeper: pl.DataFrame, baselines: pl.DataFrame) -> Figure:
    columns = ("compressed", "share", "top1", "lowest", "highest")
    way = f"{deeper['training'][0]}-{deeper['start'][0]}"
    scored = deeper.filter(pl.col("top1").is_not_null()).select(columns)
    scored_baselines = baselines.filter(pl.col("top1").is_not_null())
    uncompressed = {
        "compressed": 0,
        "share": 1.0,
        "top1": _mean(scored_baselines["top1"]),
        "lowest": None,
        "highest": None,
    }
    return curve(
        pl.concat([pl.DataFrame([uncompressed], schema=scored.schema), scored]),
        "share",
        "top1",
        low="lowest",
        high="highest",
        percent=True,
        percent_x=True,
        x_title="parameters left",
        y_title="top-1 accuracy",
        reference=uncompressed["top1"],
        reference_label="baseline",
        title="More and more blocks compressed at once",
        reading=f"From right to left one block more is one layer, the least critical first ({way}). The band runs from "
        "the worst to the best seed.",
        source=f"{SOURCE}, Section 5 (future work)",
    )


def _sizes(sizes: pl.DataFrame) -> Figure:
    """Bytes against the score, of each block's best network and the uncompressed one."""
    rows = sizes.filter("best").with_columns(
        kilobytes=pl.col("bytes") / 1000, way=pl.concat_str(["training", "start"], separator="-")
    )
    return scatter(
        rows,
        "kilobytes",
        "top1",
        color="block",
        low="top1_low",
        high="top1_high",
        tips=("way", "weights", "drop", "file"),
        percent=True,
        x_title="kilobytes of the network",
        y_title="top-1 accuracy",
        color_title="block compressed",
        reference=float(rows["top1"][0]),
        reference_label="uncompressed",
        title="Bytes and accuracy of each block's best network",
        reading="Up and left is better. A line through a point is its 95 % interval over the images. Where shared "
        "weights were asked for, each network stands twice, on the left with these.",
        source=f"{SOURCE}, Section 5 (future work)",
    )


def _mean(values: pl.Series) -> float:
    return float(values.drop_nulls().mean())  # type: ignore[arg-type]


BLOCKS = 8  # that are drawn
SIDE = 64  # pixels of a map, at least
PICTURED_TENSORS = ("maps", "partners", "map_correlation")  # of a trial
APART = 0.5  # a lower correlation with the parent's channel gets a red frame
FAR = 0.5  # of the scale of its row: a place that differs by more gets a green circle
RED, GREEN = (214, 39, 40), (44, 160, 44)


@dataclass(frozen=True)
class PicturedMaps:
    """The activation maps of a block on one image (the paper's Figure 3).

    parent: of the block's first channels, (channel, height, width). networks: by name, the trial of each new layer,
    with the maps of the partners of these channels.
    """

    block: Block
    parent: Float32[np.ndarray, "channel height width"]
    networks: Mapping[str, Trial]

    def rows(self) -> list[dict[str, Any]]:
        """A row a map, in the columns of the table `maps`."""
        return [
            row
            | {"block": self.block.name, "start": trial.spec["start"], "training": trial.spec["training"]}
            | {"seed": trial.spec["seed"]}
            for trial in self.networks.values()
            for row in map_rows(
                self.parent, *(trial.tensors[n].numpy() for n in ("maps", "partners", "map_correlation"))
            )
        ]


MAPS: dict[str, Any] = {
    "seed": pl.Int64,
    "block": pl.String,
    "start": pl.String,
    "training": pl.String,
    "channel": pl.Int64,
    "partner": pl.Int64,
    "correlation": pl.Float64,
    "pictured_correlation": pl.Float64,
    "difference": pl.Float64,
    "y": pl.Int64,
    "x": pl.Int64,
}


def map_rows(
    parent: Float32[np.ndarray, "channel height width"],
    new: Float32[np.ndarray, "channel height width"],
    partners: Int64[np.ndarray, " channel"],
    correlations: Float64[np.ndarray, " channel"],
) -> list[dict[str, Any]]:
    """How each new map is like the parent's: the channels' correlation over images, that of the two maps drawn, and the
    place where these differ most, by how much of the parent's range.
    """
    rows = []
    for channel, (old, own) in enumerate(zip(parent.astype(np.float64), new.astype(np.float64), strict=True)):
        gap = np.abs(own - old)
        y, x = np.unravel_index(int(gap.argmax()), gap.shape)
        reach = float(np.ptp(old))
        constant = min(float(old.std()), float(own.std())) == 0
        rows.append(
            {
                "channel": channel,
                "partner": int(partners[channel]),
                "correlation": float(correlations[channel]),
                "pictured_correlation": None if constant else float(np.corrcoef(old.ravel(), own.ravel())[0, 1]),
                "difference": float(gap.max()) / reach if reach > 0 else None,
                "y": int(y),
                "x": int(x),
            }
        )
    return rows


def pictured_maps(run: TriageRun, count: int) -> list[PicturedMaps]:
    """The maps of the first blocks of convolutions, of the first seed, where any network has some."""
    pictured: list[PicturedMaps] = []
    if not count or not run.parents:
        return pictured
    seed, parent = next(iter(run.parents.items()))
    for block in [block for block in run.blocks if block.kind == "conv"][:BLOCKS]:
        networks = {
            f"{t.spec['training']}-{t.spec['start']}": t
            for t in run.cells
            if t.spec["seed"] == seed and t.spec["blocks"] == [block.name] and "maps" in t.tensors
        }
        if networks:
            channels = np.arange(min(count, block.output_shape[0]))
            values = maps(section(parent, end=block.output).eval(), parent, run.samples, channels).numpy()
            pictured.append(PicturedMaps(block, values, networks))
    return pictured


def images(pictured: Sequence[PicturedMaps]) -> dict[str, Image]:
    """One sheet a block of maps: columns are networks, rows are the parent's first channels."""
    return {f"maps {each.block.name}".replace("/", "-"): _sheet(each) for each in pictured}


def _sheet(pictured: PicturedMaps) -> Image:
    parent_maps = pictured.parent
    side = max(SIDE, parent_maps.shape[1])
    size = (side, max(1, round(side * parent_maps.shape[2] / parent_maps.shape[1])))
    # a row has one scale, the parent's, so that a network that answers more faintly is darker, as in the paper
    low, top = parent_maps.min((1, 2)), parent_maps.max((1, 2))
    scale = np.where(top > low, top - low, 1.0)[:, None, None]

    def shades(values: np.ndarray) -> np.ndarray:
        return np.rint(255 * np.clip((values - low[:, None, None]) / scale, 0, 1)).astype(np.uint8)

    def squares(values: np.ndarray) -> list[np.ndarray]:
        return [np.repeat(resize(shade, size, smooth=False)[:, :, None], 3, 2) for shade in shades(values)]

    base = [_cell(square, "") for square in squares(parent_maps)]
    panels = [Panel("base", tuple(shades(parent_maps)), "base", columns=len(base))]
    labels = [_label(str(channel), len(base[0])) for channel in range(len(base))]
    parts = [below([caption("", 26), *labels]), below([caption("base", base[0].shape[1]), *base])]
    rows = iter(pictured.rows())
    for name, trial in pictured.networks.items():
        values = trial.tensors["maps"].numpy()
        mine = [next(rows) for _ in values]
        notes = tuple(f"r {row['correlation']:.2f}" for row in mine)
        cells = [
            _cell(marked(square, row, parent_maps.shape[1:]), note)
            for square, row, note in zip(squares(values), mine, notes, strict=True)
        ]
        frames = tuple(_far_box(row, parent_maps.shape[1:]) for row in mine)
        panels.append(Panel(name, tuple(shades(values)), name, notes, frames, columns=len(cells)))
        parts.append(below([caption(name, cells[0].shape[1]), *cells]))
    block = pictured.block.name
    return Image(
        pixels=beside(parts, 3),
        title=f"What {block} answers: the parent's first {len(base)} channels and their partners",
        reading="A row is a channel of the parent (base) and, of each new layer, the channel that correlates with it "
        "(matched one to one; r is the correlation over other images). One scale a row, the parent's. A red frame: r "
        f"is below {APART:g}. A green circle: here the map differs most from the parent's, by over half of its range. "
        f"Image {PICTURED}, first seed.",
        source="Nowak & Corso, Deep Net Triage, 2018, Figure 3",
        alt=f"Activation maps of {block} in the parent and in {len(pictured.networks)} compressed networks.",
        panels=tuple(panels),
    )


def _far_box(row: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """The places around that of the largest difference, where it is large: (top, left, bottom, right)."""
    if row["difference"] is None or row["difference"] <= FAR:
        return None
    y, x = row["y"], row["x"]
    return max(0, y - 1), max(0, x - 1), min(shape[0], y + 2), min(shape[1], x + 2)


def _cell(square: np.ndarray, text: str) -> np.ndarray:
    """A map on white, with a line of small text under it."""
    return below(
        [np.pad(square, ((1, 1), (1, 1), (0, 0)), constant_values=255), caption(text, square.shape[1] + 2, 10)]
    )


def marked(square: np.ndarray, row: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """The map with its frame and circle, where it has them. shape: of the map before it was enlarged."""
    picture = Picture.fromarray(square)
    draw = ImageDraw.Draw(picture)
    height, width = square.shape[:2]
    if row["correlation"] < APART:
        draw.rectangle((0, 0, width - 1, height - 1), outline=RED, width=2)
    if row["difference"] is not None and row["difference"] > FAR:
        y, x = ((row[axis] + 0.5) * big / small for axis, big, small in zip("yx", (height, width), shape, strict=True))
        draw.ellipse((x - 8, y - 8, x + 8, y + 8), outline=GREEN, width=2)
    return np.asarray(picture).copy()


def _label(text: str, height: int) -> np.ndarray:
    text_picture = caption(text, 26)
    over = max(0, (height - len(text_picture)) // 2)
    under = max(0, height - len(text_picture) - over)
    return np.pad(text_picture, ((over, under), (0, 0), (0, 0)), constant_values=255)
