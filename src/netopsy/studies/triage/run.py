"""The whole design as trials: baselines, starts that are made once, every compressed network, and deeper cuts."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from netopsy.blocks.block import Block
from netopsy.blocks.find import default_blocks, find_block
from netopsy.engine.trials.run import run_trials
from netopsy.engine.trials.trial import Record
from netopsy.engine.workspace.workspace import conditions
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import find_task
from netopsy.studies.triage.design import MADE, Design, TriageRun, Trial
from netopsy.studies.triage.storage import PLAIN, ActivationFiles, labelled_whole, storable, store_activations
from netopsy.studies.triage.work import Context, LayerState, work


def run_design(
    design: Design,
    network: Network,
    train: Samples,
    samples: Samples,
    *,
    blocks: Sequence[str] | None,
    control: bool,
    max_drop: float | None,
    storage: float,
) -> TriageRun:
    """Run, or go on with, every trial of `design`.

    max_drop: points lost at which more and more blocks at once are one too many; None does not try it.
    storage: bytes on disk that stored activations may take.
    """
    task = find_task(network, samples)
    train, samples = (task.prepare(network, part) for part in (train, samples))
    if train.labelled != samples.labelled:
        raise SettingsError(
            "the training samples must have labels where the samples that are scored have, and only then."
        )
    treated, left_out = choose_blocks(network, blocks)
    run = TriageRun(network, train, samples, treated, left_out)
    if not treated:
        return run
    about = {**conditions(network, train), "scored": samples.digest}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
    _run_baselines(design, run, digest)
    augment = design.after.augment
    for seeds in _groups(run.parents):
        with store_activations(
            run.parents[seeds[0]],
            treated,
            train,
            samples,
            taught="STN" in design.starts,
            frozen="FM" in design.training and labelled_whole(task),
            flips="flip" in augment,
            limit=storage if augment in PLAIN and storable(network) else 0.0,
        ) as files:
            _run_group(design, run, seeds, files, digest, control=control)
    if max_drop is not None:
        run.deeper = deeper(design, run, max_drop, lambda specs: _try(run, specs, digest, "deeper", _starts(run)))
    return run


def choose_blocks(network: Network, names: Sequence[str] | None) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """(blocks to compress, in order of execution; those found that no one layer can stand in for)."""
    if names is None:
        candidates = default_blocks(network)
        return tuple(b for b in candidates if b.obstacle is None), tuple(
            b for b in candidates if b.obstacle is not None
        )
    blocks = [find_block(network, name) for name in names]
    for block in blocks:
        if block.obstacle is not None:
            raise SettingsError(
                f"block '{block.name}' cannot become one layer: {block.obstacle} `netopsy blocks` lists those that can."
            )
    place = {name: at for at, name in enumerate(network.nodes)}
    return tuple(sorted(blocks, key=lambda block: place[block.output])), ()


def _run_baselines(design: Design, run: TriageRun, digest: str) -> None:
    """Score the network, or train it again for each seed."""
    seeds, fresh = design.seeds, design.fresh
    specs = [design.baseline_spec(seed) for seed in (seeds if fresh else seeds[:1])]
    context = Context(dict.fromkeys(seeds, run.network), run.train, run.samples)
    done = _trials(context, specs, digest, "baselines")
    if not fresh:  # one network, scored once, begins every repeat
        run.baselines = [
            Trial({**done[0].spec, "seed": seed}, *_parts(done[0])) for seed in (seeds if done[0].values else seeds[:1])
        ]
        run.parents = dict.fromkeys(seeds, run.network) if done[0].values is not None else {}
        return
    run.baselines = done
    for trial in done:
        if trial.values is not None:
            state = {name.removeprefix("state "): v for name, v in trial.tensors.items() if name.startswith("state ")}
            run.parents[trial.spec["seed"]] = run.network.with_tensors(state)


def _groups(parents: dict[int, Network]) -> list[list[int]]:
    """The seeds in groups that share a parent."""
    groups: dict[int, list[int]] = {}
    for seed, parent in parents.items():
        groups.setdefault(id(parent), []).append(seed)
    return list(groups.values())


def _run_group(
    design: Design, run: TriageRun, seeds: list[int], files: ActivationFiles, digest: str, *, control: bool
) -> None:
    """The starts and cells of the seeds that share a parent."""
    files_of = dict.fromkeys(seeds, files)
    parent = {seed: {"parent": run.parents[seed].digest} for seed in seeds}
    specs = [
        design.start_spec(seed, block.name, start) | parent[seed]
        for seed in seeds
        for block in run.blocks
        for start in design.starts
        if start in MADE
    ]
    run.starts += _try(run, specs, digest, "starts", {}, files_of)
    cells = [
        design.cell_spec(seed, [block.name], start, training) | parent[seed]
        for seed in seeds
        for block in run.blocks
        for start in design.starts
        for training in design.training
        if design.fits(block, start, training)
    ]
    control = control and set(design.training) != {"none"}
    controls = [design.cell_spec(seed, [], "none", "TM") | parent[seed] for seed in seeds] if control else []
    done = _try(run, [*controls, *cells], digest, "compressed networks", _starts(run), files_of)
    run.controls += done[: len(controls)]
    run.cells += done[len(controls) :]


def _starts(run: TriageRun) -> dict[tuple[int, str, str], LayerState]:
    """The new layers that are ready, by (seed, block, start)."""
    done = (trial for trial in run.starts if trial.values is not None)
    return {(t.spec["seed"], t.spec["block"], t.spec["start"]): dict(t.tensors) for t in done}


def _try(
    run: TriageRun,
    specs: list[dict[str, Any]],
    digest: str,
    label: str,
    starts: dict[tuple[int, str, str], LayerState],
    files: dict[int, ActivationFiles] | None = None,
) -> list[Trial]:
    """The trials of `specs` in their order; one whose start failed fails for the same reason."""
    reasons = {
        (t.spec["seed"], t.spec["block"], t.spec["start"]): (t.status, f"Its start failed: {t.reason}")
        for t in run.starts
        if t.values is None
    }
    lost: dict[int, Trial] = {}
    for at, spec in enumerate(specs):
        for block in spec.get("blocks", ()):
            why = reasons.get((spec["seed"], block, spec["start"]))
            if why:
                lost[at] = Trial(spec, None, {}, *why)
    context = Context(run.parents, run.train, run.samples, files or {}, starts)
    done = iter(_trials(context, [spec for at, spec in enumerate(specs) if at not in lost], digest, label))
    return [lost[at] if at in lost else next(done) for at in range(len(specs))]


def _trials(context: Context, specs: list[dict[str, Any]], digest: str, label: str) -> list[Trial]:
    if not specs:
        return []
    return [_trial(record) for record in run_trials(work, context, specs, digest=digest, label=label)]


def _trial(record: Record) -> Trial:
    if record.outcome is None:
        return Trial(record.spec, None, {}, record.kind, record.failure, record.seconds)
    return Trial(record.spec, record.outcome.values, record.outcome.tensors, record.kind, None, record.seconds)


def _parts(trial: Trial) -> tuple[Any, ...]:
    return trial.values, trial.tensors, trial.status, trial.reason, trial.seconds


def deeper(
    design: Design, run: TriageRun, max_drop: float, attempt: Callable[[list[dict[str, Any]]], list[Trial]]
) -> list[Trial]:
    """The networks with 1, 2, 3, ... blocks compressed, the least critical first; those with one are the cells.

    The new layers start and are trained in the way that gave the highest mean accuracy over all blocks and seeds. The
    last step is the first whose mean drop over the seeds is above `max_drop` points, or that no seed came through.
    """
    base = {trial.spec["seed"]: trial.score for trial in run.baselines if trial.values is not None}
    way = best_way(run)
    if way is None:
        return []
    start, training = way
    drops = {
        name: float(np.mean([base[t.spec["seed"]] - t.score for t in trials]))
        for name, trials in _by_block(run, start, training).items()
    }
    order = disjoint(run, sorted(drops, key=lambda name: drops[name]))
    place = {block.name: at for at, block in enumerate(run.blocks)}
    finished = list(_by_block(run, start, training)[order[0]])
    fell = drops[order[0]]
    for count in range(2, len(order) + 1):
        if 100 * fell > max_drop:
            break
        names = sorted(order[:count], key=lambda name: place[name])
        specs = [
            design.cell_spec(seed, names, start, training) | {"parent": run.parents[seed].digest, "pictures": 0}
            for seed in base
        ]
        step = attempt(specs)
        finished += step
        losses = [base[t.spec["seed"]] - t.score for t in step if t.values is not None]
        if not losses:
            break
        fell = float(np.mean(losses))
    return finished


def best_way(run: TriageRun) -> tuple[str, str] | None:
    """The (start, training) with the highest mean accuracy among those that came through for the most cells."""
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for trial in run.cells:
        if trial.values is not None:
            scores[trial.spec["start"], trial.spec["training"]].append(trial.score)
    return max(scores, key=lambda way: (len(scores[way]), np.mean(scores[way])), default=None)


def disjoint(run: TriageRun, order: list[str]) -> list[str]:
    """The blocks of `order` but those that share a node with an earlier one."""
    nodes = {block.name: set(block.nodes) for block in run.blocks}
    chosen: list[str] = []
    for name in order:
        if not any(nodes[name] & nodes[other] for other in chosen):
            chosen.append(name)
    return chosen


def _by_block(run: TriageRun, start: str, training: str) -> dict[str, list[Trial]]:
    """The cells of one way that came through, by block."""
    trials: dict[str, list[Trial]] = defaultdict(list)
    for trial in run.cells:
        spec = trial.spec
        if trial.values is not None and (spec["start"], spec["training"]) == (start, training):
            trials[spec["blocks"][0]].append(trial)
    return dict(trials)
