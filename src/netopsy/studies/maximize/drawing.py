"""The pictures and curves of the study `maximize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import polars as pl
import torch

from netopsy import charts
from netopsy.network.network import Network
from netopsy.pictures.mosaic import below, beside, caption, draw_frame, fit_side, pictures
from netopsy.pictures.patches import patches
from netopsy.result import Figure, Image, Panel
from netopsy.samples.samples import Samples
from netopsy.studies.maximize.ascend import Climb, network_input, shares
from netopsy.studies.maximize.records import state
from netopsy.studies.maximize.target import Best, Target
from netopsy.wording import number

_TILE = 224  # screen pixels of a picture's longer side
_CROP = 0.6  # fields larger than this share of the image's sides are shown within the image
_ROWS = 6  # units a sheet
_DRAWN = 64  # steps of a curve that are drawn
_CURVES = 24
_ALONE = 16  # units whose best picture is kept by itself
_TITLE = {
    "plain": "Images that excite units most: plain ascent, as in the paper",
    "fourier": "Images that excite units most: Fourier ascent, the readable way",
}
_SOURCE = {
    "plain": "Palmieri et al., Equation 10 and Figure 5",
    "fourier": "after Palmieri et al., Equation 10, and Olah, Mordvintsev, Schubert 2017",
}


def sheets(
    network: Network,
    samples: Samples | None,
    targets: Sequence[Target],
    climbs: Mapping[str, Sequence[Climb]],
    strongest: Sequence[Best | None],
) -> dict[str, Image]:
    """A row a unit, a column a run, then what the unit sees of its strongest sample; a few rows a sheet.

    climbs: by way; the sheets of the second way have its name in their keys.
    """
    sample_patches = _patches(network, samples, targets, strongest)
    starts = range(0, len(targets), _ROWS)
    images = {}
    for (turn, way), first in product(enumerate(climbs), starts):
        part = range(first, min(first + _ROWS, len(targets)))
        rows = [_row(network, samples, targets[i], climbs[way][i], strongest[i], sample_patches.get(i)) for i in part]
        key = f"pictures{f'_{way}' if turn else ''}{f'_{first // _ROWS + 1}' if first else ''}"
        names = ", ".join(str(targets[i].unit) for i in part)
        compared = ""
        if sample_patches:
            compared = " The last column is the sample that drives the unit hardest, gray beyond its edge."
        images[key] = Image(
            below(rows, 12),
            title=_TITLE[way],
            reading="Each row is a unit, each column a run from another random image; the number is the value reached. "
            "A small field of view is shown alone and enlarged, a large one framed within the image." + compared,
            source=_SOURCE[way],
            alt=f"Maximised images of {names} ({way})",
            panels=tuple(
                _panel(network, samples, targets[i], climbs[way][i], strongest[i], sample_patches.get(i)) for i in part
            ),
        )
    return images


def unit_images(
    network: Network, targets: Sequence[Target], climbs: Mapping[str, Sequence[Climb]], strongest: Sequence[Best | None]
) -> dict[str, Image]:
    """`unit NODE:CHANNEL`: the best picture of a unit by itself, of the first way by which its value rose."""
    images: dict[str, Image] = {}
    for index, (target, best) in enumerate(zip(targets, strongest, strict=True)):
        name = f"{target.unit.node}:{target.unit.channel}"
        for way in climbs:
            climb = climbs[way][index]
            ends = zip(climb.start.tolist(), climb.reached.tolist(), climb.woken.tolist(), strict=True)
            risen = [(end[1], run) for run, end in enumerate(ends) if state(*end) == "risen"]
            if not risen or f"unit {name}" in images or len(images) == _ALONE:
                continue
            value, run = max(risen)
            picture = pictures_of(network, climb.pictures[run : run + 1])[0]
            compared = "" if best is None else f", where the strongest sample reaches {number(best.value)}"
            side = max(picture.shape[:2])
            images[f"unit {name}"] = Image(
                picture if side <= _TILE else fit_side(picture, _TILE),
                title=f"Image made to excite {name} most",
                reading=f"{'Fourier' if way == 'fourier' else 'Plain'} ascent takes the unit to {number(value)} with "
                f"this image{compared}.",
                source=_SOURCE[way],
                zoom=max(1, _TILE // side),
                panels=(Panel(name, (picture,)),),
            )
    return images


def _row(
    network: Network,
    samples: Samples | None,
    target: Target,
    climb: Climb,
    best: Best | None,
    patch: np.ndarray | None,
) -> np.ndarray:
    tiles = [
        below([_tile(network, target, picture), caption(f"run {run}: {float(climb.reached[run]):.5g}", size=12)], 2)
        for run, picture in enumerate(pictures_of(network, climb.pictures))
    ]
    if best is not None and patch is not None:
        tiles.append(below([fit_side(patch, _TILE), caption(f"image {best.image}: {best.value:.5g}", size=12)], 2))
    row = beside(tiles, 8)
    return below([caption(_note(network, samples, target), max(row.shape[1], 420)), row], 2)


def _note(network: Network, samples: Samples | None, target: Target) -> str:
    """The unit, where it is, and how much it sees."""
    where = (
        "mean of the channel" if target.unit.place is None else "centre" if target.centred and target.unit.place else ""
    )
    height, width = target.size
    if samples is not None and target.unit.node == network.output and target.unit.channel < len(samples.classes):
        where = f"class {samples.classes[target.unit.channel]}"
    return f"{target.unit}{f' ({where})' if where else ''}, sees {height} x {width} pixels"


def _panel(
    network: Network,
    samples: Samples | None,
    target: Target,
    climb: Climb,
    best: Best | None,
    patch: np.ndarray | None,
) -> Panel:
    """What a unit sees of each maximised image, then of its strongest sample."""
    drawn = list(pictures_of(network, climb.pictures))
    notes = [f"run {run}: {float(value):.5g}" for run, value in enumerate(climb.reached)]
    if best is not None and patch is not None:
        drawn.append(patch)
        notes.append(f"image {best.image}: {best.value:.5g}")
    return Panel(str(target.unit), drawn, _note(network, samples, target), tuple(notes))


def pictures_of(network: Network, pixels: torch.Tensor) -> np.ndarray:
    """uint8 (n, height, width, 3) in true colours of pixels 0..255 in the network's order of channels."""
    return pictures(network_input(shares(pixels), network.image_preprocessing), network.image_preprocessing)


def _tile(network: Network, target: Target, picture: np.ndarray) -> np.ndarray:
    """The field alone, or framed on the mean colour of the whole image where it fills most of it."""
    height, width = network.image_preprocessing.size
    if target.size == (height, width) or max(target.size[0] / height, target.size[1] / width) <= _CROP:
        return fit_side(picture, _TILE)
    mean = torch.zeros(1, network.image_preprocessing.depth, height, width)
    canvas = pictures(mean, network.image_preprocessing)[0].copy()
    top, left, bottom, right = target.box
    canvas[top:bottom, left:right] = picture
    return fit_side(draw_frame(canvas, target.box, width=max(1, height // 112)), _TILE)


def _patches(
    network: Network, samples: Samples | None, targets: Sequence[Target], strongest: Sequence[Best | None]
) -> dict[int, np.ndarray]:
    """What each unit sees of its strongest sample, by the target's index; the whole image without a place."""
    if samples is None:
        return {}
    requests: dict[str, list[tuple[int, int, int]]] = {}
    for index, (target, best) in enumerate(zip(targets, strongest, strict=True)):
        if best is not None:
            node = target.unit.node if best.place >= 0 else network.output
            requests.setdefault(node, []).append((index, best.image, max(best.place, 0)))
    cut = patches(
        network,
        samples,
        {node: ([image for _, image, _ in rows], [place for *_, place in rows]) for node, rows in requests.items()},
        tile=_TILE,
    )
    return {rows[k][0]: cut[node][k] for node, rows in requests.items() for k in range(len(rows))}


def figures(runs: pl.DataFrame, steps: pl.DataFrame) -> dict[str, Figure]:
    """The ascent of every run, a chart a way."""
    charts_of: dict[str, Figure] = {}
    for (way,), part in steps.partition_by("way", as_dict=True, maintain_order=True).items():
        chart = _curves(runs, part, str(way))
        if chart is not None:
            charts_of[f"ascent_{way}" if charts_of else "ascent"] = chart
    return charts_of


def _curves(runs: pl.DataFrame, steps: pl.DataFrame, way: str) -> Figure | None:
    shares = steps.drop_nulls("share")
    units = shares["unit"].unique(maintain_order=True).to_list()[:_CURVES]
    if not units:
        return None
    last = int(steps["step"].max())  # type: ignore[arg-type]
    stride = max(1, (last + 1) // _DRAWN)
    shares = shares.filter(pl.col("unit").is_in(units) & ((pl.col("step") % stride == 0) | (pl.col("step") == last)))
    curves = shares.group_by("unit", "step", maintain_order=True).agg(
        pl.col("share").mean(), pl.col("share").min().alias("low"), pl.col("share").max().alias("high")
    )
    compared = runs["strongest"].is_not_null().any()
    what = "strongest in the samples" if compared else "best run's last value"
    moved = " Values are those of the moved images." if way == "fourier" else ""
    return charts.curve(
        curves,
        "step",
        "share",
        color="unit",
        low="low",
        high="high",
        points=False,
        title=f"{'Fourier' if way == 'fourier' else 'Plain'} ascent",
        reading=f"Each line is a unit's mean over its runs, its band their range; 1 is the {what}.{moved}",
        source=_SOURCE[way],
        x_title="step",
        y_title=f"value / {what}",
        reference=1.0 if compared else None,
        reference_label="strongest in the samples",
    )
