"""The whole design as trials: baselines, starts that are made once, and every compressed network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from netopsy.blocks.block import Block
from netopsy.blocks.find import default_blocks
from netopsy.blocks.named import find_block
from netopsy.engine.trials.run import run_trials
from netopsy.engine.trials.trial import Record
from netopsy.engine.workspace.fingerprint import conditions
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.studies.triage.deeper import deeper
from netopsy.studies.triage.storage import PLAIN, Stored, stored
from netopsy.studies.triage.work import Context, State, work

if TYPE_CHECKING:
    from netopsy.studies.triage.triage import Triage

MADE = ("STN", "LSQ")
"""Starts that cost a pass or a training, and so are made once for FM and TM."""


@dataclass(frozen=True)
class Trial:
    """One trial and what came of it. values: None where it failed, for the `reason`."""

    spec: dict[str, Any]
    values: dict[str, Any] | None
    tensors: Mapping[str, Tensor]
    status: str
    reason: str | None
    seconds: float | None = None

    @property
    def right(self) -> np.ndarray:
        """Which of the samples the last network gets right, bool (n,)."""
        assert self.values is not None
        return np.unpackbits(self.tensors["right"].numpy(), count=self.values["images"]).astype(bool)


@dataclass
class Run:
    """All that was done: the blocks, those that no one layer can stand in for, and the trials."""

    network: Network
    train: Samples
    samples: Samples
    blocks: tuple[Block, ...]
    left: tuple[Block, ...]
    parents: dict[int, Network] = field(default_factory=dict)
    baselines: list[Trial] = field(default_factory=list)
    controls: list[Trial] = field(default_factory=list)
    starts: list[Trial] = field(default_factory=list)
    cells: list[Trial] = field(default_factory=list)
    deeper: list[Trial] = field(default_factory=list)


def ran(study: Triage, network: Network, train: Samples, samples: Samples) -> Run:
    """Run, or go on with, every trial of `study`."""
    blocks, left = chosen(network, study.blocks)
    run = Run(network, train, samples, blocks, left)
    if not blocks:
        return run
    about = {**conditions(network, train), "scored": samples.digest}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
    seeds = range(study.seed, study.seed + study.repeats)
    _baselines(study, run, list(seeds), digest)
    for group in _groups(run.parents):
        parent = run.parents[group[0]]
        with stored(
            parent,
            blocks,
            train,
            samples,
            taught="STN" in study.starts,
            frozen="FM" in study.training,
            flips="flip" in study.augment,
            limit=1e9 * study.storage if study.augment in PLAIN else 0.0,
        ) as files:
            _group(study, run, group, files, digest)
    if study.deeper:
        run.deeper = deeper(study, run, lambda specs: _tried(run, specs, digest, "deeper", _starts(run)))
    return run


def chosen(network: Network, names: Sequence[str] | None) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """(blocks to compress, in order of execution; those found that no one layer can stand in for)."""
    if names is None:
        found = default_blocks(network)
        return tuple(b for b in found if b.obstacle is None), tuple(b for b in found if b.obstacle is not None)
    blocks = [find_block(network, name) for name in names]
    for block in blocks:
        if block.obstacle is not None:
            raise SettingsError(
                f"block '{block.name}' cannot become one layer: {block.obstacle} `netopsy blocks` lists those that can."
            )
    place = {name: at for at, name in enumerate(network.nodes)}
    return tuple(sorted(blocks, key=lambda block: place[block.output])), ()


def _baselines(study: Triage, run: Run, seeds: list[int], digest: str) -> None:
    """Score the network, or train it anew for each seed."""
    fresh = study.network_start == "random"
    specs: list[dict[str, Any]] = [
        {
            "what": "baseline",
            "seed": seed,
            "fresh": fresh,
            "recipe": asdict(study.recipe_for(seed, study.baseline_epochs)) if fresh else None,
        }
        for seed in (seeds if fresh else seeds[:1])
    ]
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


def _group(study: Triage, run: Run, seeds: list[int], files: Stored, digest: str) -> None:
    """The starts and cells of the seeds that share a parent."""
    files_of = dict.fromkeys(seeds, files)
    own = {seed: {"parent": run.parents[seed].digest} for seed in seeds}
    specs = [
        {"what": "start", "seed": seed, "block": block.name, "start": start, **_begun(study, seed, start)} | own[seed]
        for seed in seeds
        for block in run.blocks
        for start in study.starts
        if start in MADE
    ]
    run.starts += _tried(run, specs, digest, "starts", {}, files_of)
    cells = [
        cell(study, seed, [block.name], start, training) | own[seed]
        for seed in seeds
        for block in run.blocks
        for start in study.starts
        for training in study.training
    ]
    controls = [cell(study, seed, [], "none", "TM") | own[seed] for seed in seeds] if study.control else []
    done = _tried(run, [*controls, *cells], digest, "compressed networks", _starts(run), files_of)
    run.controls += done[: len(controls)]
    run.cells += done[len(controls) :]


def cell(study: Triage, seed: int, blocks: list[str], start: str, training: str) -> dict[str, Any]:
    """The spec of one compressed network."""
    return {
        "what": "cell",
        "seed": seed,
        "blocks": blocks,
        "start": start,
        "training": training,
        "recipe": asdict(study.recipe_for(seed, study.epochs)),
        "begun": _begun(study, seed, start) if start in MADE else None,
        "mean": study.mw_mean,
        "matched": study.matched,
        "pictures": study.pictures if seed == study.seed else 0,
    }


def _begun(study: Triage, seed: int, start: str) -> dict[str, Any]:
    """How a start that is made beforehand is made."""
    if start != "STN":
        return {}
    return {"recipe": asdict(study.recipe_for(seed, study.stn_epochs, study.stn_rate)), "loss": study.stn_loss}


def _starts(run: Run) -> dict[tuple[int, str, str], State]:
    """The new layers that are ready, by (seed, block, start)."""
    done = (trial for trial in run.starts if trial.values is not None)
    return {(t.spec["seed"], t.spec["block"], t.spec["start"]): dict(t.tensors) for t in done}


def _tried(
    run: Run,
    specs: list[dict[str, Any]],
    digest: str,
    label: str,
    starts: dict[tuple[int, str, str], State],
    files: dict[int, Stored] | None = None,
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
