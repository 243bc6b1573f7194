"""What is reported of a run: tables, figures, sentences, and the new layers' activation maps (the paper's Figure 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from netopsy.blocks.block import Block
from netopsy.blocks.section import section
from netopsy.pictures.mosaic import below, beside, caption, grid, resize
from netopsy.result import Image
from netopsy.studies.triage import tables as t
from netopsy.studies.triage.block_tests import criticality
from netopsy.studies.triage.design import TriageRun
from netopsy.studies.triage.figures import figures
from netopsy.studies.triage.findings import findings
from netopsy.studies.triage.storage import PICTURED, maps
from netopsy.wording import listing

BLOCKS = 8  # that are drawn
SIDE = 64  # pixels of a map, at least


def images(run: TriageRun, count: int) -> dict[str, Image]:
    """One sheet a block of maps: columns are networks, rows are the parent's first channels."""
    if not count or not run.parents:
        return {}
    conv = [block for block in run.blocks if block.kind == "conv"]
    sheets = {f"maps {block.name}": _sheet(run, block, count) for block in conv[:BLOCKS]}
    return {name.replace("/", "-"): image for name, image in sheets.items() if image is not None}


def _sheet(run: TriageRun, block: Block, count: int) -> Image | None:
    seed, parent = next(iter(run.parents.items()))
    new_maps = {
        f"{t.spec['training']}-{t.spec['start']}": t.tensors["maps"].numpy()
        for t in run.cells
        if t.values is not None and t.spec["seed"] == seed and t.spec["blocks"] == [block.name] and "maps" in t.tensors
    }
    if not new_maps:
        return None
    channels = np.arange(min(count, block.output_shape[0]))
    parent_maps = maps(
        section(parent, end=block.output).eval(), parent.image_preprocessing, run.samples, channels
    ).numpy()
    side = max(SIDE, parent_maps.shape[1])
    size = (side, max(1, round(side * parent_maps.shape[2] / parent_maps.shape[1])))
    parts = [below([caption("", 26), *[_label(str(c), size[0] + 1) for c in channels]])]
    # a row has one scale, the parent's, so that a network that answers more faintly is darker, as in the paper
    low, top = parent_maps.min((1, 2)), parent_maps.max((1, 2))
    for name, values in {"base": parent_maps, **new_maps}.items():
        scale = np.where(top > low, top - low, 1.0)[:, None, None]
        shades = np.clip((values[: len(channels)] - low[:, None, None]) / scale, 0, 1)
        squares = np.stack([resize(np.rint(255 * shade).astype(np.uint8), size, smooth=False) for shade in shades])
        column = np.repeat(grid(squares, 1)[:, :, None], 3, 2)
        parts.append(below([caption(name, column.shape[1]), column]))
    return Image(
        pixels=beside(parts, 3),
        title=f"What {block.name} answers: the parent's first {len(channels)} channels and their partners",
        reading="A row is a channel of the parent (base) and, of each new layer, the channel that correlates with it "
        f"(matched one to one). One scale a row, the parent's. Image {PICTURED}, first seed.",
        source="Nowak & Corso, Deep Net Triage, 2018, Figure 3",
        alt=f"Activation maps of {block.name} in the parent and in {len(new_maps)} compressed networks.",
    )


def _label(text: str, height: int) -> np.ndarray:
    text_picture = caption(text, 26)
    over = max(0, (height - len(text_picture)) // 2)
    under = max(0, height - len(text_picture) - over)
    return np.pad(text_picture, ((over, under), (0, 0), (0, 0)), constant_values=255)


def report(run: TriageRun, *, pictures: int, max_drop: float, stn_epochs: int) -> dict[str, Any]:
    """The parts of the Result of a run."""
    if not run.blocks:
        return {"findings": [_untreatable(run)]}
    cells = t.cells(run)
    tables = {
        "summary": t.summary(cells),
        "cells": cells,
        "criticality": criticality(run),
        "baselines": t.baselines(run),
        "blocks": t.blocks(run),
    }
    if run.deeper:
        tables["deeper"] = t.deeper(run)
    tables["history"] = t.history(run)
    return {
        "tables": tables,
        "figures": figures(tables),
        "images": images(run, pictures),
        "findings": findings(tables, [block.name for block in run.left_out], max_drop=max_drop, stn_epochs=stn_epochs),
    }


def _untreatable(run: TriageRun) -> str:
    text = f"{run.network.name} has no block of two or more layers that one layer could stand in for"
    if not run.left_out:
        return f"{text}: it has no stretch of layers with one input and one output."
    why = listing([f"{block.name} ({str(block.obstacle).rstrip('.')})" for block in run.left_out], 3)
    return f"{text}: {why}."
