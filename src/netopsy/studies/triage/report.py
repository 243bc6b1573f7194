"""What is reported of a run: tables, figures, sentences, and the new layers' activation maps (the paper's Figure 3)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np

from netopsy.blocks.block import Block
from netopsy.blocks.section import section
from netopsy.pictures.mosaic import below, beside, caption, grid, resize
from netopsy.result import Figure, Finding, Image, Panel
from netopsy.samples.tasks import Task, find_task
from netopsy.studies.triage import tables as t
from netopsy.studies.triage.design import TriageRun, criticality
from netopsy.studies.triage.figures import figures
from netopsy.studies.triage.findings import findings
from netopsy.studies.triage.storage import PICTURED, maps
from netopsy.wording import listing, of_samples

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
    parent_maps = maps(section(parent, end=block.output).eval(), parent, run.samples, channels).numpy()
    side = max(SIDE, parent_maps.shape[1])
    size = (side, max(1, round(side * parent_maps.shape[2] / parent_maps.shape[1])))
    panels: list[Panel] = []
    parts = [below([caption("", 26), *[_label(str(c), size[0] + 1) for c in channels]])]
    # a row has one scale, the parent's, so that a network that answers more faintly is darker, as in the paper
    low, top = parent_maps.min((1, 2)), parent_maps.max((1, 2))
    for name, values in {"base": parent_maps, **new_maps}.items():
        scale = np.where(top > low, top - low, 1.0)[:, None, None]
        shades = np.clip((values[: len(channels)] - low[:, None, None]) / scale, 0, 1)
        panels.append(Panel(name, tuple(np.rint(255 * shades).astype(np.uint8)), name, columns=len(shades)))
        squares = np.stack([resize(shade, size, smooth=False) for shade in panels[-1].pictures])
        column = np.repeat(grid(squares, 1)[:, :, None], 3, 2)
        parts.append(below([caption(name, column.shape[1]), column]))
    return Image(
        pixels=beside(parts, 3),
        title=f"What {block.name} answers: the parent's first {len(channels)} channels and their partners",
        reading="A row is a channel of the parent (base) and, of each new layer, the channel that correlates with it "
        f"(matched one to one). One scale a row, the parent's. Image {PICTURED}, first seed.",
        source="Nowak & Corso, Deep Net Triage, 2018, Figure 3",
        alt=f"Activation maps of {block.name} in the parent and in {len(new_maps)} compressed networks.",
        panels=tuple(panels),
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
    task = find_task(run.network, run.samples)
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
    sentences = findings(tables, [block.name for block in run.left_out], max_drop=max_drop, stn_epochs=stn_epochs)
    return {
        "tables": {
            name: frame.rename({c: c.replace("top1", task.column) for c in frame.columns})
            for name, frame in tables.items()
        },
        "figures": {name: _worded(figure, task) for name, figure in figures(tables).items()},
        "images": images(run, pictures),
        "findings": [Finding(of_samples(_of_task(s, task), run.samples.noun), s.weight) for s in sentences]
        + _kept(run),
    }


def _worded(figure: Figure, task: Task) -> Figure:
    """A figure of accuracies as one of the task's score."""
    if task.unit == "top-1 accuracy":
        return figure
    spec = json.loads(json.dumps(figure.spec).replace("top-1 accuracy", task.unit))
    return replace(figure, spec=spec, title=_of_task(figure.title, task), reading=_of_task(figure.reading, task))


def _of_task(sentence: str, task: Task) -> str:
    """A sentence about accuracy as one about the task's score."""
    return sentence if "accuracy" in task.unit else re.sub(r"\b(mean )?accurac(y|ies)\b", task.unit, sentence)


def _kept(run: TriageRun) -> list[Finding]:
    """Blocks that cannot be left out."""
    if not any(t.spec["start"] == "ID" for t in run.cells):
        return []
    names = [block.name for block in run.blocks if block.input_shape != block.output_shape]
    text = f"{listing(names)} cannot be left out (ID): the output has another shape than the input."
    return [Finding(text, 0.0)] if names else []


def _untreatable(run: TriageRun) -> Finding:
    text = f"{run.network.name} has no block of two or more layers that one layer could stand in for"
    if not run.left_out:
        return Finding(f"{text}: it has no stretch of layers with one input and one output.", 0.0)
    why = listing([f"{block.name} ({str(block.obstacle).rstrip('.')})" for block in run.left_out], 3)
    return Finding(f"{text}: {why}.", 0.0)
