"""A sweep that shows every image to every variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from netopsy.engine.sweep.edits import Variant
from netopsy.engine.sweep.plan import make_plan
from netopsy.engine.sweep.rerun import Rerun
from netopsy.engine.sweep.score import COUNTS, count, judge, task_row
from netopsy.engine.trials.pool import current_workers
from netopsy.engine.trials.run import SHARDS_PER_WORKER, run_shards, shard_specs, split_range
from netopsy.engine.trials.trial import Outcome
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import CLASSIFICATION, Task
from netopsy.samples.verdicts import Verdicts

SMALLEST_PART = 32  # images: each part walks the unedited network too


class BatchVerdicts:
    """The verdicts on one block of samples: a row a variant; `finished` tells which groups are done.

    places: the shape of what is predicted for a sample.
    """

    def __init__(
        self, variants: int, samples: int, groups: int, task: Task | None = None, places: tuple[int, ...] = ()
    ) -> None:
        task = task or CLASSIFICATION
        share = torch.bool if task.binary else torch.float64
        self.predicted = torch.full((variants, samples, *places), -1, dtype=torch.int32)
        self.top1 = torch.zeros(variants, samples, dtype=share)
        self.top5 = torch.zeros(variants, samples, dtype=share)
        self.loss = torch.zeros(variants, samples, dtype=torch.float64)
        self.finished = torch.zeros(groups, dtype=torch.bool)

    def write(self, position: int, verdicts: Verdicts) -> None:
        for name in ("predicted", "top1", "top5", "loss"):
            values = getattr(verdicts, name)
            if values.numel():
                getattr(self, name)[position] = values.cpu()

    def counts(self, plain: Verdicts) -> Tensor:
        """float64 (variants, COUNTS) against the verdicts on the unedited network."""
        return count(Verdicts(self.top1, self.top5, self.loss, self.predicted), plain.cpu())


def exact(
    samples: Samples, rerun: Rerun, checkpoint: Checkpoint, spec: dict[str, Any], task: Task
) -> list[dict[str, Any]]:
    """The scores of each variant on all samples. spec: all that they depend on, plain data.

    Over several workers each counts parts of the samples; blocks are then no longer than a part.
    """
    total, plan, block = len(samples), rerun.plan, _block(rerun, task)
    done, state = checkpoint.load()
    pieces = [range(total)]
    if done < total and not current_workers().here:
        shortest = -(-(total - done) // (SHARDS_PER_WORKER * current_workers().width))
        block = min(block, max(SMALLEST_PART, shortest))
        pieces = split_range(done, total, block)
    if len(pieces) > 1:
        sums = state.get("totals", torch.zeros(len(plan.variants), len(COUNTS), dtype=torch.float64))
        context = (plan.network, samples, list(plan.variants), plan.piece, block, task)
        with run_shards(_part, context, shard_specs(pieces), spec, "sweep") as outcomes:
            for outcome in outcomes:
                sums = sums + outcome.tensors["totals"]
            checkpoint.save(total, lambda: {"totals": sums}, final=True)
    else:
        sums = _sums(samples, rerun, block, checkpoint, range(total), task)
    rows = [task_row(task, dict(zip(COUNTS, counts, strict=True)), total) for counts in sums.tolist()]
    for position in set(range(len(rows))) - set(plan.members):
        rows[position] |= {"drop_low": 0.0, "drop_high": 0.0}  # the unedited network itself loses nothing on any images
    return rows


def _part(context: Any, spec: dict[str, Any]) -> Outcome:
    """The trial of one part of the samples: the counts of each variant on it."""
    network, samples, variants, piece, block, task = context
    checkpoint = current_workspace().checkpoint("sweep", spec)
    with torch.inference_mode():
        rerun = Rerun(make_plan(network, variants, piece), settle=task.binary)
        place = range(spec["start"], spec["stop"])
        return Outcome({}, {"totals": _sums(samples, rerun, block, checkpoint, place, task)})


_PREDICTED = 64 << 20  # predictions that are kept until the unedited network's are known


def _block(rerun: Rerun, task: Task) -> int:
    """Samples in a block, such that the predictions of all variants are at most `_PREDICTED`."""
    each = math.prod(task.places(rerun.network.nodes[rerun.network.output].shape)) * len(rerun.variants)
    return max(1, min(rerun.plan.block, _PREDICTED // max(1, each)))


def _sums(
    samples: Samples,
    rerun: Rerun,
    block: int,
    checkpoint: Checkpoint,
    place: range,
    task: Task,
) -> Tensor:
    """COUNTS of each variant, float64 (variants, COUNTS), on the samples in `place`."""
    plan, network = rerun.plan, rerun.network
    done, state = checkpoint.load()
    totals = state.pop("totals", torch.zeros(len(plan.variants), len(COUNTS), dtype=torch.float64))
    alone = [p for p in range(len(plan.variants)) if p not in plan.members]
    pieces, size = max(1, len(plan.groups)), len(place)
    places = task.places(network.nodes[network.output].shape)
    for batch in samples.batches(network.preprocessing, block, start=done, order=place) if done < size else ():
        inputs, size_now = batch.to(network.device), len(batch.indices)
        reference = rerun.plain(inputs).clone() if task.reference else None
        targets = task.targets(batch, reference).to(network.device)
        mask = batch.mask_of(network.output_sequence)
        current = BatchVerdicts(len(plan.variants), size_now, len(plan.groups), task, places)
        vars(current).update(state)
        state = {}

        def take(
            group: int,
            outputs: dict[int, Tensor],
            current: BatchVerdicts = current,
            targets: Tensor = targets,
            mask: Tensor | None = mask,
            done: int = done,
            totals: Tensor = totals,
        ) -> None:
            for position, values in outputs.items():
                current.write(position, task.judge(values, targets, mask))
            current.finished[group] = True
            checkpoint.save(done, partial(dict, vars(current), totals=totals))
            part = len(targets) * int(current.finished.sum()) // pieces
            current_workspace().report("sweep", done + part, size)

        skip = set(current.finished.nonzero()[:, 0].tolist())
        plain = task.judge(rerun.run(inputs, take, active=plan.members, skip=skip), targets, mask)
        for position in alone:
            current.write(position, plain)
        totals = totals + current.counts(plain)
        done += size_now
        checkpoint.save(done, partial(dict, totals=totals), final=done == size)
        current_workspace().report("sweep", done, size)
    return totals


@torch.inference_mode()
def predictions(
    network: Network, samples: Samples, variants: Sequence[Variant], batch_size: int | None = None
) -> Tensor:
    """Predicted classes, int32 (variants, n), of each variant on all samples; -1 where an output is not finite."""
    plan, parts = make_plan(network, variants, batch_size), []
    rerun = Rerun(plan)
    for batch in samples.batches(network.preprocessing, plan.block):
        current, labels = (
            BatchVerdicts(len(variants), len(batch.labels), len(plan.groups)),
            batch.labels.to(network.device),
        )
        run = set[int]()

        def take(
            group: int,
            outputs: dict[int, Tensor],
            current: BatchVerdicts = current,
            labels: Tensor = labels,
            run: set[int] = run,
        ) -> None:
            for position, values in outputs.items():
                current.write(position, judge(values, labels))
                run.add(position)

        plain = judge(rerun.run(batch.to(network.device), take, active=plan.members), labels)
        for position in set(range(len(variants))) - run:
            current.write(position, plain)
        parts.append(current.predicted)
    return torch.cat(parts, dim=1)
