"""More and more blocks compressed at once, until the network fails (the paper's future work)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from netopsy.studies.triage.design import Design, TriageRun, Trial


def deeper(
    design: Design, run: TriageRun, failure: float, attempt: Callable[[list[dict[str, Any]]], list[Trial]]
) -> list[Trial]:
    """The networks with 1, 2, 3, ... blocks compressed, the least critical first; those with one are the cells.

    The new layers start and are trained in the way that gave the highest mean accuracy over all blocks and seeds. The
    last step is the first whose mean drop over the seeds is above `failure` points, or that no seed came through.
    """
    base = {trial.spec["seed"]: float(trial.right.mean()) for trial in run.baselines if trial.values is not None}
    way = best_way(run)
    if way is None:
        return []
    start, training = way
    drops = {
        name: float(np.mean([base[t.spec["seed"]] - t.right.mean() for t in own]))
        for name, own in _by_block(run, start, training).items()
    }
    order = disjoint(run, sorted(drops, key=lambda name: drops[name]))
    place = {block.name: at for at, block in enumerate(run.blocks)}
    done = list(_by_block(run, start, training)[order[0]])
    fell = drops[order[0]]
    for count in range(2, len(order) + 1):
        if 100 * fell > failure:
            break
        names = sorted(order[:count], key=lambda name: place[name])
        specs = [
            design.cell_spec(seed, names, start, training) | {"parent": run.parents[seed].digest, "pictures": 0}
            for seed in base
        ]
        step = attempt(specs)
        done += step
        held = [base[t.spec["seed"]] - float(t.right.mean()) for t in step if t.values is not None]
        if not held:
            break
        fell = float(np.mean(held))
    return done


def best_way(run: TriageRun) -> tuple[str, str] | None:
    """The (start, training) with the highest mean accuracy among those that came through for the most cells."""
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for trial in run.cells:
        if trial.values is not None:
            scores[trial.spec["start"], trial.spec["training"]].append(float(trial.right.mean()))
    return max(scores, key=lambda way: (len(scores[way]), np.mean(scores[way])), default=None)


def disjoint(run: TriageRun, order: list[str]) -> list[str]:
    """The blocks of `order` but those that share a node with an earlier one."""
    nodes = {block.name: set(block.nodes) for block in run.blocks}
    kept: list[str] = []
    for name in order:
        if not any(nodes[name] & nodes[other] for other in kept):
            kept.append(name)
    return kept


def _by_block(run: TriageRun, start: str, training: str) -> dict[str, list[Trial]]:
    """The cells of one way that came through, by block."""
    found: dict[str, list[Trial]] = defaultdict(list)
    for trial in run.cells:
        spec = trial.spec
        if trial.values is not None and (spec["start"], spec["training"]) == (start, training):
            found[spec["blocks"][0]].append(trial)
    return dict(found)
