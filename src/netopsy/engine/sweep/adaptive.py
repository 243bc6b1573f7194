"""A sweep that shows each variant as many images as its drop in accuracy needs.

The unedited network sees all images once. Its margins tell which images an edit is likely to turn; these are drawn more
often, all variants sharing one order, and a variant leaves when its interval is narrow enough (`Audit`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from netopsy.engine.sweep.confidence import ConfidenceSequence, ImportanceDraws, Sampler
from netopsy.engine.sweep.full import BatchVerdicts
from netopsy.engine.sweep.rerun import Rerun
from netopsy.engine.sweep.score import judge, margins, row
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.samples.samples import Samples
from netopsy.stats.hypothesis_tests import wilson

PRIOR = 2.0  # draws that the first guess of a stratum's rate of flips is worth
CELLS = 40  # cells to a precision
FINEST = 1e-4


class Audit:
    """A confidence sequence a variant, and the counts that its bets and estimates are made from.

    precision: half the width of the interval at which a variant may stop, as a share.
    """

    def __init__(self, variants: int, sampler: Sampler, precision: float) -> None:
        self.sampler, self.precision = sampler, precision
        n, self.right = sampler.size, sampler.right
        share = float(self.right.mean())
        self.sequences = [
            ConfidenceSequence(n, share - 1, share, max(precision / CELLS, FINEST)) for _ in range(variants)
        ]
        self.flips = np.zeros((variants, len(sampler.sizes)))
        self.seen = np.zeros((variants, len(sampler.sizes)))
        self.active = np.ones(variants, bool)

    @property
    def rates(self) -> Float64[np.ndarray, "variants strata"]:
        """Guessed rate of flips in each stratum; before any draw, less where the margin is larger."""
        rank = np.array([self.sampler.positive[:s].count(p) for s, p in enumerate(self.sampler.positive)])
        return (self.flips + PRIOR * 0.1 * 0.5**rank) / (self.seen + PRIOR)

    def weights(self) -> Float64[np.ndarray, " strata"]:
        """Weights of the strata for the next round."""
        return self.sampler.weights(self.rates[self.active])

    def absorb(
        self,
        images: Int64[np.ndarray, " steps"],
        draws: ImportanceDraws,
        weights: Float64[np.ndarray, " strata"],
        drops: NDArray[np.int8],
    ) -> None:
        """Take up a round: `drops` (variants, steps) in {-1, 0, 1}; rows of variants that are done are not read."""
        sampler, left, start = self.sampler, self.sampler.left.copy(), 0
        already = int(sampler.size - left.sum())
        while start < len(images):
            stop = min(len(images), start + min(128, max(16, (already + start) // 8)))
            strata = sampler.strata[images[start:stop]]
            mass, part, rates = left @ weights, draws.part(start, stop), self.rates
            means = rates * sampler.sign @ left / sampler.size
            squares = mass / sampler.size**2 * (rates @ (left / weights))
            counts = np.bincount(strata, minlength=len(left))
            for v in np.flatnonzero(self.active):
                drop = drops[v, start:stop].astype(float)
                sequence = self.sequences[v]
                sequence.update(drop, part, sequence.total + means[v], max(squares[v] - means[v] ** 2, 0.0))
                self.flips[v] += np.bincount(strata, weights=np.abs(drop), minlength=len(left))
                self.seen[v] += counts
            left, start = left - counts, stop
        sampler.take(images)
        ups, downs = (int(sampler.left[sampler.sign == sign].sum()) for sign in (1, -1))
        for v in np.flatnonzero(self.active):
            low, high = self.sequences[v].narrow(ups, downs)
            self.active[v] = high - low > 2 * self.precision and ups + downs > 0

    def estimate(self, v: int) -> float:
        """Drop over all images: the strata's mean drops, each with the stratum's share; within the interval."""
        mean = self.stratified_mean(v, self.flips[v] * self.sampler.sign)
        return float(np.clip(mean, self.sequences[v].low, self.sequences[v].high))

    def stratified_mean(self, v: int, sums: Float64[np.ndarray, " strata"]) -> float:
        """Mean over all images, from sums over the images drawn; a stratum not drawn from counts as the rest do."""
        sampled = self.seen[v] > 0
        means = sums[sampled] / self.seen[v][sampled]
        return float(means @ self.sampler.sizes[sampled] / self.sampler.sizes[sampled].sum())


SMALLEST_ROUND = 64
_VERDICTS = ("predicted", "top1", "top5", "loss")


class Adaptive:
    """One adaptive sweep. `state` holds, as tensors, all that a rerun needs to go on: the verdicts on the unedited
    network, the draws and outcomes of each finished round, the sums by stratum, and the round in progress.
    """

    def __init__(self, samples: Samples, rerun: Rerun, checkpoint: Checkpoint, precision: float, seed: int) -> None:
        self.samples, self.rerun, self.plan, self.network = samples, rerun, rerun.plan, rerun.network
        self.checkpoint, self.precision, self.seed = checkpoint, precision, seed
        self.positions = sorted(self.plan.members)
        self.done, self.state = checkpoint.load()

    def run(self) -> list[dict[str, Any]]:
        """The scores of each variant."""
        self._score_unedited()
        self.right = self.state["top1"].numpy()
        sampler = Sampler(self.state["margin"].double().numpy(), self.right, self.seed)
        self.audit = Audit(len(self.positions), sampler, self.precision)
        self.used = np.zeros(len(self.positions), np.int64)
        self._replay()
        while self.positions and self.audit.active.any():
            self._round()
        self.checkpoint.save(self.done, partial(dict, self.state), final=True)
        return self._rows()

    def _score_unedited(self) -> None:
        """Verdicts and margins of the unedited network on all samples, in `state`."""
        samples, device = self.samples, self.network.device
        start = len(self.state.get("top1", ()))
        for batch in (
            samples.batches(self.network.preprocessing, self.plan.block, start=start) if start < len(samples) else ()
        ):
            labels = batch.labels.to(device)
            outputs = self.rerun.plain(batch.to(device))
            verdicts = judge(outputs, labels)
            new = {name: getattr(verdicts, name).cpu() for name in _VERDICTS} | {
                "margin": margins(outputs, labels).cpu()
            }
            for name, values in new.items():
                self.state[name] = torch.cat([self.state[name], values]) if name in self.state else values
            self.checkpoint.save(self.done, partial(dict, self.state))
            current_workspace().report("unedited network", len(self.state["top1"]), len(samples))

    def _replay(self) -> None:
        """Take up the rounds that an earlier run has finished."""
        start, state = 0, self.state
        for count, weights in zip(state.get("rounds", torch.empty(0)).tolist(), state.get("weights", []), strict=True):
            part = slice(start, start + count)
            draws = ImportanceDraws(*(state[name][part].numpy() for name in ("ratio", "up", "down")))
            self._absorb(state["images"][part].numpy(), draws, weights.numpy(), state["drops"][:, part].numpy())
            start += count

    def _absorb(self, images: Any, draws: ImportanceDraws, weights: Any, drops: Any) -> None:
        self.used[self.audit.active] += len(images)
        self.audit.absorb(images, draws, weights, drops)

    def _round(self) -> None:
        """Draw images, run the variants that are not done on them, take up the outcomes."""
        audit, state, network = self.audit, self.state, self.network
        rest = len(self.samples) - self.done
        weights = audit.weights()
        images, draws = audit.sampler.draw(min(rest, self.plan.block, max(SMALLEST_ROUND, self.done // 4)), weights)
        current = BatchVerdicts(len(self.plan.variants), len(images), len(self.plan.groups))
        for name in vars(current):
            if f"current.{name}" in state:
                setattr(current, name, state.pop(f"current.{name}"))
        active = {p for i, p in enumerate(self.positions) if audit.active[i]}
        (batch,) = self.samples.batches(network.preprocessing, len(images), order=images)
        labels = batch.labels.to(network.device)

        def take(group: int, outputs: dict[int, Tensor]) -> None:
            for position, values in outputs.items():
                current.write(position, judge(values, labels))
            current.finished[group] = True
            unfinished = {f"current.{name}": value for name, value in vars(current).items()}
            self.checkpoint.save(self.done, partial(dict, state, **unfinished))

        skip = set(current.finished.nonzero()[:, 0].tolist())
        self.rerun.run(batch.to(network.device), take, active=active, skip=skip)
        self._record(images, draws, weights, current)
        self.done += len(images)
        self.checkpoint.save(self.done, partial(dict, state))
        part = self.done / len(self.samples)
        shares = np.where(audit.active, part, 1.0)
        current_workspace().report("sweep", int(shares.mean() * len(self.samples)), len(self.samples))

    def _record(self, images: Any, draws: ImportanceDraws, weights: Any, current: BatchVerdicts) -> None:
        """Add a finished round to `state` and to the audit."""
        state, audit = self.state, self.audit
        rows = torch.from_numpy(np.array(self.positions))
        still = torch.from_numpy(audit.active)[:, None]
        drops = torch.from_numpy(self.right[images]).to(torch.int8) - current.top1[rows].to(torch.int8)
        agreement = (current.predicted[rows] == state["predicted"][images]) & (current.predicted[rows] >= 0)
        strata = torch.nn.functional.one_hot(
            torch.from_numpy(audit.sampler.strata[images]), len(audit.sampler.sizes)
        ).double()
        for name, values in {"top5": current.top5[rows], "agreement": agreement, "loss": current.loss[rows]}.items():
            values = torch.where(still, values.double(), 0.0)
            infinite = values.isinf().double() @ strata > 0
            sums = (values.nan_to_num(posinf=0.0) @ strata).masked_fill(infinite, torch.inf)
            state[f"sum.{name}"] = state[f"sum.{name}"] + sums if f"sum.{name}" in state else sums
        new = {
            "images": torch.from_numpy(images),
            "ratio": torch.from_numpy(draws.ratio),
            "up": torch.from_numpy(draws.up),
            "down": torch.from_numpy(draws.down),
            "rounds": torch.tensor([len(images)]),
            "weights": torch.from_numpy(weights)[None],
        }
        for name, values in new.items():
            state[name] = torch.cat([state[name], values]) if name in state else values
        drops = drops * still
        state["drops"] = torch.cat([state["drops"], drops], dim=1) if "drops" in state else drops
        self._absorb(images, draws, weights, drops.numpy())

    def _rows(self) -> list[dict[str, Any]]:
        n, state, audit = len(self.samples), self.state, self.audit
        right = int(self.right.sum())
        plain = row(
            top1=right,
            top5=int(state["top5"].sum()),
            agreement=int((state["predicted"] >= 0).sum()),
            loss=float(state["loss"].sum()),
            losses=0,
            gains=0,
            images=n,
        ) | {"drop_low": 0.0, "drop_high": 0.0}
        rows = [plain for _ in self.plan.variants]
        for i, position in enumerate(self.positions):
            means = {
                name: audit.stratified_mean(i, state[f"sum.{name}"][i].numpy())
                for name in ("top5", "agreement", "loss")
            }
            drop, low, high = audit.estimate(i), audit.sequences[i].low, audit.sequences[i].high
            rows[position] = {
                "top1": right / n - drop,
                "top5": means["top5"],
                "top1_low": wilson(right - high * n, n)[0],
                "top1_high": wilson(right - low * n, n)[1],
                "agreement": means["agreement"],
                "loss": means["loss"],
                "images": int(self.used[i]),
                "drop": drop,
                "drop_low": low,
                "drop_high": high,
            }
        return rows
