"""A sweep that shows each variant as many samples as are needed, or as there is time for.

The unedited network sees the samples first. What it says of them tells how far each can turn, of a classifier also
which are likely to; all variants share one order of draws, and a variant leaves when enough is known of its drop: its
interval is narrow enough (`precision`), or lies on one side of a `tolerance`. Where time is short the samples are drawn
from a part of them, every variant gets a first estimate, and the rest of the time goes to those still in doubt.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netopsy.engine.sweep.confidence import Audit, ImportanceDraws, Sampler, strata_by_margin, strata_by_weight
from netopsy.engine.sweep.full import BatchVerdicts
from netopsy.engine.sweep.plan import RERUN
from netopsy.engine.sweep.rerun import Rerun
from netopsy.engine.sweep.score import COUNTS, count, margins, score_range, task_row, terms
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import Task
from netopsy.samples.verdicts import Verdicts
from netopsy.stats.hypothesis_tests import wilson
from netopsy.wording import plural

CELLS, CELLS_OF_TOLERANCE = 40, 10  # cells to a precision, to a tolerance
FINEST = 1e-4


@dataclass(frozen=True)
class StoppingRule:
    """When a variant has seen enough.

    precision: once half the width of the interval of its drop on the samples is that, a share.
    tolerance: once the interval of its drop on other samples lies on one side of that, or these samples can say little
    more: what is not known of them is at most `RESOLVED` of what they leave open of others. rise: the same of the loss,
    where it matters too.
    """

    precision: float | None = None
    tolerance: float | None = None
    rise: float | None = None

    @property
    def resolution(self) -> float:
        """Of the bounds on drops."""
        cells = CELLS if self.tolerance is None else CELLS_OF_TOLERANCE
        return max(float(self.tolerance or self.precision or 0.0) / cells, FINEST)


RESOLVED = 0.5
SMALLEST_ROUND = 64
FEWEST = 8  # samples of a round where time is short
POOL_SHARE, SMALLEST_POOL = 0.2, 256  # of the time, and samples, that the unedited network sees where time is short
_UNEDITED = ("score", "weight", "margin", "plain")
_AHEAD = 0.5  # share of the time left that a round may be expected to take


class _TimeUp(Exception):
    pass


class Adaptive:
    """One adaptive sweep. `state` holds, as tensors, all that a rerun needs to go on: the verdicts on the unedited
    network, the draws and outcomes of each finished round, the sums by stratum, and the round in progress.

    deadline: on `time.monotonic`, or None. schedule: the record of an earlier run, whose steps are taken again.
    """

    def __init__(
        self,
        samples: Samples,
        rerun: Rerun,
        checkpoint: Checkpoint,
        task: Task,
        rule: StoppingRule,
        seed: int,
        deadline: float | None = None,
        schedule: dict[str, Any] | None = None,
    ) -> None:
        self.samples, self.rerun, self.plan, self.network = samples, rerun, rerun.plan, rerun.network
        self.checkpoint, self.task, self.rule, self.seed, self.deadline = checkpoint, task, rule, seed, deadline
        self.schedule = schedule
        self.positions = sorted(self.plan.members)
        self.done, self.state = checkpoint.load()
        self.started = time.monotonic()
        self.places = task.places(self.network.nodes[self.network.output].shape)
        self.seconds: list[float] = []  # of each group, for one sample and variant

    def run(self) -> list[dict[str, Any]]:
        """The scores of each variant."""
        self._score_unedited()
        self._start()
        self._replay()
        first = len(self.state.get("rounds", ()))
        while self.positions and self.active.any() and (size := self._next_size()):
            try:
                self._round(size)
            except _TimeUp:
                break
        else:
            self.state = {name: value for name, value in self.state.items() if not name.startswith("current.")}
        seconds = time.monotonic() - self.started
        self.state["seconds"] = self.state.get("seconds", torch.zeros(1).double()) + seconds
        self.checkpoint.save(self.done, partial(dict, self.state), final=True)
        self._report()
        rounds = [int(count) for count in self.state.get("rounds", torch.empty(0)).tolist()]
        record: dict[str, Any] = {"variants": len(self.positions), "undecided": int(self.active.sum())}
        record |= {"samples": self.size, "shown": int(self.used.sum())}
        record |= {"rounds": rounds, "new_rounds": len(rounds) - first, "seed": self.seed}
        current_workspace().record("sweep", seconds, **record)
        return self._rows()

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    def _score_unedited(self) -> None:
        """Verdicts on the unedited network, in `state`: on all samples, or on as many, drawn evenly, as time allows."""
        if self._may_widen():  # what was drawn from the smaller pool is no draw from the larger
            self.state, self.done = {name: self.state[name] for name in _UNEDITED if name in self.state}, 0
        samples, state, device = self.samples, self.state, self.network.device
        order = np.arange(len(samples))
        if self.rule.tolerance is not None:
            order = np.random.default_rng([self.seed, 1]).permutation(order)
        start, most = len(state.get("score", ())), POOL_SHARE * self.left
        whole = "closed" in state or start == len(samples)
        asked = self.schedule["samples"] if self.schedule else 0
        block = min(self.plan.block, self.plan.block if self.rule.tolerance is None else SMALLEST_ROUND)
        for batch in () if whole else samples.batches(self.network.preprocessing, block, start=start, order=order):
            outputs = self.rerun.plain(batch.to(device))
            verdicts = self._judge(batch, outputs, outputs).cpu()
            score = verdicts.score if self.task.binary else verdicts.score.double()
            weight = torch.ones(len(score)).double() if verdicts.weight is None else verdicts.weight
            new = {"score": score, "weight": weight}
            if self.task.binary:
                new["margin"] = margins(outputs, batch.labels.to(device)).cpu()
            for name, values in new.items():
                state[name] = torch.cat([state[name], values]) if name in state else values
            predicted = verdicts.predicted[None] if verdicts.predicted.numel() else verdicts.predicted
            same = Verdicts(verdicts.score[None], verdicts.top5[None], verdicts.loss[None], predicted)
            state["plain"] = state.get("plain", 0.0) + count(same, verdicts)
            self.checkpoint.save(self.done, partial(dict, state))
            seen, spent = len(state["score"]), time.monotonic() - self.started
            current_workspace().report("unedited network", seen, len(samples))
            if seen == asked if asked else self.deadline is not None and seen >= SMALLEST_POOL and spent > most:
                break
        state["closed"] = torch.ones(1)
        self.size = len(state["score"])
        self.pool = samples.select(order[: self.size], samples.name) if self.rule.tolerance is not None else samples
        fresh = self.size - start
        each = (time.monotonic() - self.started) / fresh if fresh else 0.0
        self.seconds = [RERUN * each * group.share for group in self.plan.groups]

    def _may_widen(self) -> bool:
        """Whether earlier runs had time for a part of the samples only, and this one has twice theirs."""
        part = "closed" in self.state and len(self.state["score"]) < len(self.samples)
        return part and not self.schedule and self.left > 2 * float(self.state["seconds"])

    def _judge(self, batch: Any, outputs: Tensor, reference: Tensor) -> Verdicts:
        targets = self.task.targets(batch, reference if self.task.reference else None).to(self.network.device)
        return self.task.judge(outputs, targets, batch.mask_of(self.network.output_sequence))

    def _start(self) -> None:
        """Strata, and sequences before any draw."""
        state, task = self.state, self.task
        score, weight = state["score"].double().numpy(), state["weight"].double().numpy()
        least, most = score_range(task)
        if task.binary:
            strata = strata_by_margin(state["margin"].double().numpy(), state["score"].numpy())
        else:
            strata = strata_by_weight(weight, score - least, most - score)
        self.sampler = Sampler(strata, self.seed)
        variants = len(self.positions)
        self.drops = Audit(variants, self.sampler, self.rule.resolution, self.sampler.bounded)
        self.audits = [self.drops]
        if not task.binary:
            self.rises = Audit(variants, self.sampler, self.rule.resolution, bounded=False)
            self.audits.append(self.rises)
        self.active = np.ones(variants, bool) & (self.sampler.size > 0)
        for audit in self.audits:
            audit.active = self.active
        self.used = np.full(variants, self.size - self.sampler.size, np.int64)  # samples that count for nothing

    def _replay(self) -> None:
        """Take up the rounds that an earlier run has finished."""
        start, state = 0, self.state
        for number, size in enumerate(state["rounds"].tolist() if "rounds" in state else ()):
            part, weights = slice(start, start + size), state["weights"][number]
            draws = ImportanceDraws(*(state[name][part].numpy() for name in ("ratio", "up", "down")))
            values = [state[name][:, part].numpy() for name in ("drops", "rises") if name in state]
            self._absorb(state["items"][part].numpy(), draws, weights.numpy(), values)
            self.active[:] = state["active"][number].numpy()
            start += size

    def _absorb(self, items: Any, draws: ImportanceDraws, weights: Any, values: list[Any]) -> None:
        """Take up a round."""
        self.used[self.active] += len(items)
        for audit, measured in zip(self.audits, values, strict=True):
            audit.absorb(items, draws, weights, measured)
        self.sampler.take(items)
        for audit in self.audits:
            audit.narrow()

    def _next_size(self) -> int:
        """Samples in the next round: as many as a rule allows, or as time does; 0 where that is over."""
        rest, rounds = int(self.sampler.left.sum()), len(self.state.get("rounds", ()))
        if self.schedule:
            return int(dict(enumerate(self.schedule["rounds"])).get(rounds, 0))
        if "current.top1" in self.state:
            return int(self.state["current.top1"].shape[1])  # a round that was broken off goes on
        count = min(rest, self.plan.block, max(SMALLEST_ROUND, self.done // 4))
        if self.deadline is None:
            return count
        each = sum(
            seconds * sum(p in self._running for p in group.members)
            for seconds, group in zip(self.seconds, self.plan.groups, strict=True)
        )
        fits = int(_AHEAD * self.left / max(each, 1e-9))
        few = min(rest, FEWEST, self.plan.block)
        if not self.done or fits >= few:
            return max(few, min(count, fits))
        return few if each * few < self.left else 0

    @property
    def _running(self) -> set[int]:
        return {p for i, p in enumerate(self.positions) if self.active[i]}

    def _round(self, count: int) -> None:
        """Draw samples, run the variants that are not done on them, take up the outcomes."""
        state, network, running = self.state, self.network, self._running
        weights = self.drops.weights()
        items, draws = self.sampler.draw(count, weights)
        current = BatchVerdicts(len(self.plan.variants), count, len(self.plan.groups), self.task, self.places)
        for name in vars(current):
            if f"current.{name}" in state:
                setattr(current, name, state.pop(f"current.{name}"))
        (batch,) = self.pool.batches(network.preprocessing, count, order=items)
        inputs = batch.to(network.device)
        reference = self.rerun.plain(inputs).clone() if self.task.reference else torch.empty(0)
        last = time.monotonic()

        def take(group: int, outputs: dict[int, Tensor]) -> None:
            nonlocal last
            for position, values in outputs.items():
                current.write(position, self._judge(batch, values, reference))
            current.finished[group] = True
            self.seconds[group] = (time.monotonic() - last) / (count * len(outputs))
            unfinished = {f"current.{name}": value for name, value in vars(current).items()}
            self.checkpoint.save(self.done, partial(dict, state, **unfinished))
            if self.done and self.left < 0 and not self.schedule:
                state.update(unfinished)
                raise _TimeUp
            last = time.monotonic()

        skip = set(current.finished.nonzero()[:, 0].tolist())
        outputs = self.rerun.run(inputs, take, active=running, skip=skip)
        plain = self._judge(batch, outputs, reference if self.task.reference else outputs).cpu()
        self._record(items, draws, weights, current, plain)
        if not self.done:
            seconds = sum(each * len(group.members) for each, group in zip(self.seconds, self.plan.groups, strict=True))
            work = f"{plural(len(self.positions), 'variant')} on {plural(self.size, self.samples.noun)}"
            current_workspace().announce(work, seconds * self.size)
        self.done += count
        self.checkpoint.save(self.done, partial(dict, state))
        self._report()

    def _report(self) -> None:
        """How far the variants have come on average; one that is done counts as whole."""
        shares = np.where(self.active, min(1.0, self.done / max(1, self.size)), 1.0)
        current_workspace().report("sweep", int(shares.mean() * self.size) if len(shares) else self.size, self.size)

    def _record(
        self, items: Any, draws: ImportanceDraws, weights: Any, current: BatchVerdicts, plain: Verdicts
    ) -> None:
        """Add a finished round to `state` and to the audits."""
        state, rows = self.state, torch.from_numpy(np.array(self.positions))
        still = torch.from_numpy(self.active)[:, None]
        variants = Verdicts(current.top1[rows], current.top5[rows], current.loss[rows], current.predicted[rows])
        before = replace(plain, score=state["score"][items])  # that the bounds of the drops are known by
        strata, width = torch.from_numpy(self.sampler.strata[items]), len(self.sampler.sizes)
        sums = torch.stack(
            [
                torch.zeros(len(rows), width, dtype=torch.float64).index_add_(1, strata, values.where(still, 0.0))
                for values in terms(variants, before)
            ],
            dim=2,
        )
        state["sums"] = state["sums"] + sums if "sums" in state else sums
        drops = before.score.to(variants.score.dtype).double() - variants.score.double()
        weight = torch.from_numpy(self.sampler.known.weights[items])
        values = {"drops": drops.to(torch.int8) if self.task.binary else drops * weight}
        if not self.task.binary:
            values["rises"] = (variants.loss - plain.loss) * weight
        values = {name: value.masked_fill(~still, 0) for name, value in values.items()}
        new = {
            "items": torch.from_numpy(items),
            "ratio": torch.from_numpy(draws.ratio),
            "up": torch.from_numpy(draws.up),
            "down": torch.from_numpy(draws.down),
            "rounds": torch.tensor([len(items)]),
            "weights": torch.from_numpy(weights)[None],
        }
        for name, value in (new | values).items():
            axis = 1 if name in values else 0
            state[name] = torch.cat([state[name], value], dim=axis) if name in state else value
        self._absorb(items, draws, weights, [value.numpy() for value in values.values()])
        rest = bool(self.sampler.left.any())
        self.active[:] = [rest and bool(on) and not self._enough(i) for i, on in enumerate(self.active)]
        active = torch.from_numpy(self.active.copy())[None]
        state["active"] = torch.cat([state["active"], active]) if "active" in state else active

    def _enough(self, i: int) -> bool:
        low, high = self.drops.interval(i)
        if self.rule.tolerance is None:
            return high - low <= 2 * float(self.rule.precision or 0.0)
        row, alone = self._row(i), self._alone(i)
        measures = [("drop", self.rule.tolerance, (low, high))]
        if self.rule.rise is not None and not self.task.binary:
            measures.append(("rise", self.rule.rise, self.rises.interval(i)))
        for name, limit, (least, most) in measures:
            decided = row[f"{name}_low"] > limit or row[f"{name}_high"] <= limit or least == math.inf
            open_to_others = alone[f"{name}_high"] - alone[f"{name}_low"]
            if not decided and not most - least <= RESOLVED * open_to_others < math.inf:
                return False
        return True

    def _alone(self, i: int) -> dict[str, Any]:
        """The columns of a variant as if its estimates were counts over all samples."""
        squared = set(COUNTS[COUNTS.index("squared") :])
        sums = self.state["sums"][i].numpy()
        totals = {name: self.drops.total(i, sums[:, c], by_count=name in squared) for c, name in enumerate(COUNTS)}
        return task_row(self.task, totals, self.size)

    def _row(self, i: int) -> dict[str, Any]:
        """The columns of a variant: what is not known of the samples comes on top of what they leave open of others.

        With a precision the intervals of drop and rise are of these samples alone.
        """
        row, column, n = self._alone(i), self.task.column, self.size
        if not math.isfinite(row["drop"]):
            return row | {"images": int(self.used[i])}
        drop, (low, high) = self.drops.estimate(i), self.drops.interval(i)
        weight = self.state["weight"].double()
        before = float((self.state["score"].double() * weight).sum() / weight.sum().clamp_min(1e-300))
        if self.task.binary:
            band = wilson((before - high) * n, n)[0], wilson((before - low) * n, n)[1]
        else:
            least, most = score_range(self.task)
            band = row[f"{column}_low"] - (high - drop), row[f"{column}_high"] + (drop - low)
            band = max(band[0], least), min(band[1], most) if math.isfinite(least) else band[1]
        row |= {column: before - drop, f"{column}_low": band[0], f"{column}_high": band[1], "images": int(self.used[i])}
        measures = {"drop": self.drops} if self.task.binary else {"drop": self.drops, "rise": self.rises}
        for name, audit in measures.items():
            value, (low, high) = audit.estimate(i), audit.interval(i)
            if math.isfinite(value) and self.rule.precision is None:
                low, high = (row[f"{name}_{end}"] + bound - row[name] for end, bound in (("low", low), ("high", high)))
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return row

    def _rows(self) -> list[dict[str, Any]]:
        """The rows of all variants; those that are the unedited network lose nothing on any samples."""
        counts = dict(zip(COUNTS, self.state["plain"][0].tolist(), strict=True))
        plain = task_row(self.task, counts, self.size)
        plain |= {"drop_low": 0.0, "drop_high": 0.0}
        rows = [plain for _ in self.plan.variants]
        for i, position in enumerate(self.positions if "sums" in self.state else ()):  # else no sample counts
            rows[position] = self._row(i)
        return rows
