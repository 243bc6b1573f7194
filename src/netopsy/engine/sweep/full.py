"""A sweep that shows every image to every variant."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from netopsy.engine.sweep.edits import Variant
from netopsy.engine.sweep.plan import make_plan
from netopsy.engine.sweep.rerun import Rerun
from netopsy.engine.sweep.score import Verdicts, judge, row
from netopsy.engine.trials.pool import current_workers
from netopsy.engine.trials.run import SHARDS_PER_WORKER, run_shards, shard_specs, split_range
from netopsy.engine.trials.trial import Outcome
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

COUNTS = ("top1", "top5", "agreement", "loss", "losses", "gains")
SMALLEST_PART = 32  # images: each part walks the unedited network too


class BatchVerdicts:
    """The verdicts on one block of images: a row a variant; `finished` tells which groups are done."""

    def __init__(self, variants: int, images: int, groups: int) -> None:
        self.predicted = torch.full((variants, images), -1, dtype=torch.int32)
        self.top1 = torch.zeros(variants, images, dtype=torch.bool)
        self.top5 = torch.zeros(variants, images, dtype=torch.bool)
        self.loss = torch.zeros(variants, images, dtype=torch.float64)
        self.finished = torch.zeros(groups, dtype=torch.bool)

    def write(self, position: int, verdicts: Verdicts) -> None:
        for name in ("predicted", "top1", "top5", "loss"):
            getattr(self, name)[position] = getattr(verdicts, name).cpu()

    def counts(self, plain: Verdicts) -> Tensor:
        """float64 (variants, COUNTS) against the verdicts on the unedited network."""
        predicted, right = plain.predicted.cpu(), plain.top1.cpu()
        agreement = (self.predicted == predicted) & (predicted >= 0)
        each = (self.top1, self.top5, agreement, self.loss, right & ~self.top1, ~right & self.top1)
        return torch.stack([value.double().sum(dim=1) for value in each], dim=1)


def exact(samples: Samples, rerun: Rerun, checkpoint: Checkpoint, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The scores of each variant on all samples. spec: all that they depend on, plain data.

    Over several workers each counts parts of the samples; blocks are then no longer than a part.
    """
    total, plan, block = len(samples), rerun.plan, rerun.plan.block
    done, state = checkpoint.load()
    pieces = [range(total)]
    if done < total and not current_workers().here:
        shortest = -(-(total - done) // (SHARDS_PER_WORKER * current_workers().width))
        block = min(block, max(SMALLEST_PART, shortest))
        pieces = split_range(done, total, block)
    if len(pieces) > 1:
        sums = state.get("totals", torch.zeros(len(plan.variants), len(COUNTS), dtype=torch.float64))
        context = (plan.network, samples, list(plan.variants), plan.piece, block)
        with run_shards(_part, context, shard_specs(pieces), spec, "sweep") as outcomes:
            for outcome in outcomes:
                sums = sums + outcome.tensors["totals"]
            checkpoint.save(total, lambda: {"totals": sums}, final=True)
    else:
        sums = _sums(samples, rerun, block, checkpoint, range(total))
    rows = [row(**dict(zip(COUNTS, counts, strict=True)), images=total) for counts in sums.tolist()]
    for position in set(range(len(rows))) - set(plan.members):
        rows[position] |= {"drop_low": 0.0, "drop_high": 0.0}  # the unedited network itself loses nothing on any images
    return rows


def _part(context: Any, spec: dict[str, Any]) -> Outcome:
    """The trial of one part of the samples: the counts of each variant on it."""
    network, samples, variants, piece, block = context
    checkpoint = current_workspace().checkpoint("sweep", spec)
    with torch.inference_mode():
        rerun = Rerun(make_plan(network, variants, piece))
        place = range(spec["start"], spec["stop"])
        return Outcome({}, {"totals": _sums(samples, rerun, block, checkpoint, place)})


def _sums(samples: Samples, rerun: Rerun, block: int, checkpoint: Checkpoint, place: range) -> Tensor:
    """COUNTS of each variant, float64 (variants, COUNTS), on the samples in `place`."""
    plan, network = rerun.plan, rerun.network
    done, state = checkpoint.load()
    totals = state.pop("totals", torch.zeros(len(plan.variants), len(COUNTS), dtype=torch.float64))
    alone = [p for p in range(len(plan.variants)) if p not in plan.members]
    pieces, size = max(1, len(plan.groups)), len(place)
    for batch in samples.batches(network.preprocessing, block, start=done, order=place) if done < size else ():
        images, labels = batch.images.to(network.device), batch.labels.to(network.device)
        current = BatchVerdicts(len(plan.variants), len(images), len(plan.groups))
        vars(current).update(state)
        state = {}

        def take(
            group: int,
            outputs: dict[int, Tensor],
            current: BatchVerdicts = current,
            labels: Tensor = labels,
            done: int = done,
            totals: Tensor = totals,
        ) -> None:
            for position, values in outputs.items():
                current.write(position, judge(values, labels))
            current.finished[group] = True
            checkpoint.save(done, partial(dict, vars(current), totals=totals))
            part = len(labels) * int(current.finished.sum()) // pieces
            current_workspace().report("sweep", done + part, size)

        skip = set(current.finished.nonzero()[:, 0].tolist())
        plain = judge(rerun.run(images, take, active=plan.members, skip=skip), labels)
        for position in alone:
            current.write(position, plain)
        totals = totals + current.counts(plain)
        done += len(images)
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

        plain = judge(rerun.run(batch.images.to(network.device), take, active=plan.members), labels)
        for position in set(range(len(variants))) - run:
            current.write(position, plain)
        parts.append(current.predicted)
    return torch.cat(parts, dim=1)
