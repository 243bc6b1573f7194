"""The adaptive sweep: its confidence sequence covers at every step, narrows to the truth, and its table is honest."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from test_sweep import noise

from netopsy.engine.sweep.adaptive import Audit
from netopsy.engine.sweep.confidence import ConfidenceSequence, ImportanceDraws, Sampler
from netopsy.engine.sweep.edits import Shift, Variant
from netopsy.engine.sweep.sweep import sweep
from netopsy.samples.load import load_samples
from networks import shipped


def profile(
    kind: str, n: int, lot: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int8]]:
    """Margins, verdicts of the unedited network, and drops (n,) of one variant."""
    margins, right = lot.exponential(size=n), lot.random(n) < 0.8
    rate = {
        "harmless": np.zeros(n),
        "near the boundary": 0.5 * np.exp(-4 * margins),
        "everywhere alike": np.full(n, 0.05),
        "far from the boundary": 0.1 * (margins > 2),  # the margins mislead
        "ruined": np.full(n, 0.9),
    }[kind]
    flips = lot.random(n) < rate
    return margins, right, np.where(flips, np.where(right, 1, -1), 0).astype(np.int8)


def follow(
    margins: NDArray[np.float64], right: NDArray[np.bool_], drops: NDArray[np.int8], seed: int, step: int = 40
) -> tuple[list[tuple[float, float]], list[float]]:
    """Intervals and estimates after every round, to the last image."""
    sampler = Sampler(margins, right, seed)
    audit = Audit(1, sampler, precision=1e-9)
    intervals, estimates, n = [], [], len(margins)
    while sampler.left.sum():
        weights = audit.weights()
        images, draws = sampler.draw(min(step, int(sampler.left.sum())), weights)
        audit.absorb(images, draws, weights, drops[None, images])
        intervals.append((audit.sequences[0].low, audit.sequences[0].high))
        estimates.append(audit.estimate(0))
        assert len(np.unique(images)) == len(images)
    assert sampler.sampled.sum() == n
    return intervals, estimates


@pytest.mark.parametrize(
    "kind", ["harmless", "near the boundary", "everywhere alike", "far from the boundary", "ruined"]
)
def test_intervals_cover_at_all_steps_at_once(kind: str) -> None:
    runs, missed = 80, 0
    for seed in range(runs):
        margins, right, drops = profile(kind, 400, np.random.default_rng([1, seed]))
        intervals, _ = follow(margins, right, drops, seed)
        truth = drops.mean()
        missed += any(not low - 1e-9 <= truth <= high + 1e-9 for low, high in intervals)
    # 5 % of 80 is 4; more than 9 has a chance of 1 % under exactly 95 % coverage
    assert missed <= 9


def test_intervals_never_widen_and_end_at_the_truth() -> None:
    margins, right, drops = profile("everywhere alike", 500, np.random.default_rng(5))
    intervals, estimates = follow(margins, right, drops, seed=2)
    lows, highs = np.array(intervals).T
    assert (np.diff(lows) >= 0).all() and (np.diff(highs) <= 0).all()
    assert intervals[-1] == pytest.approx((drops.mean(), drops.mean()))
    assert estimates[-1] == pytest.approx(drops.mean())


def test_a_true_mean_is_a_fair_game() -> None:
    """Averaged over many runs, the wealth against the true mean stays 1 (before any is ruled out)."""
    n, steps, logs = 60, 40, []
    values = np.where(np.arange(n) < 12, 1.0, 0.0)
    weights = np.where(np.arange(n) % 3 == 0, 2.0, 0.7)
    for seed in range(4000):
        lot = np.random.default_rng(seed)
        order = np.argsort(lot.exponential(size=n) / weights)[:steps]
        mass = (weights.sum() - np.cumsum(weights[order]) + weights[order]) / n
        sequence = ConfidenceSequence(n, 0.2, 0.2 + 1e-12, 1.0, alpha=1e-30)
        draws = ImportanceDraws(mass / weights[order], mass / 0.7, 0 * mass)
        sequence.update(values[order], draws, mean=0.25, variance=0.3)
        logs.append(sequence.wealth[0])
    wealth = np.exp(logs)
    assert abs(wealth.mean() - 1) < 4 * wealth.std() / np.sqrt(len(wealth))
    assert wealth.std() > 0.05


def test_margins_save_images() -> None:
    """Where flips are near the boundary, drawing by margin needs fewer images than drawing alike."""
    margins, right, drops = profile("near the boundary", 4000, np.random.default_rng(3))

    def needed(margins: NDArray[np.float64]) -> int:
        intervals, _ = follow(margins, right, drops, seed=0, step=50)
        return 50 * next(i for i, (low, high) in enumerate(intervals) if high - low <= 0.03)

    shuffled = np.random.default_rng(4).permutation(margins)
    assert needed(margins) < 0.8 * needed(shuffled)


def test_draws_follow_the_weights_without_replacement() -> None:
    sampler = Sampler(np.arange(100.0), np.ones(100, bool), seed=0)
    weights = np.linspace(1, 3, len(sampler.sizes))
    first = np.zeros(len(sampler.sizes))
    for seed in range(3000):
        sampler.seed = seed
        images, draws = sampler.draw(1, weights)
        first[sampler.strata[images[0]]] += 1
        chance = weights[sampler.strata[images[0]]] / (weights @ sampler.sizes)
        assert draws.ratio[0] == pytest.approx(1 / (100 * chance))
    expected = weights * sampler.sizes / (weights @ sampler.sizes)
    assert np.abs(first / 3000 - expected).max() < 4 * np.sqrt(0.25 / 3000)


def test_adaptive_sweep_agrees_with_the_exact_one() -> None:
    network, samples = shipped("a"), load_samples("digits")
    variants = [Variant({"layer": "none", "strength": 0.0}, None)] + [
        Variant({"layer": layer.name, "strength": s}, Shift((layer.weight,), noise(layer.weight), s, "n"))
        for layer in network.layers[::5]
        for s in (0.1, 2.0)
    ]
    exact = sweep(network, samples, variants)
    table = sweep(network, samples, variants, precision=2.5)
    assert table.columns == exact.columns
    assert table.row(0)[:8] == pytest.approx(exact.row(0)[:8])
    assert min(table["images"]) < len(samples)
    for row, true in zip(table.iter_rows(named=True), exact.iter_rows(named=True), strict=True):
        assert row["drop_low"] <= true["drop"] + 1e-9 and true["drop"] <= row["drop_high"] + 1e-9
        assert row["drop_low"] <= row["drop"] <= row["drop_high"] <= row["drop_low"] + 0.05
        assert row["top1"] == pytest.approx(exact["top1"][0] - row["drop"])
        assert row["top1_low"] <= true["top1"] <= row["top1_high"]
        assert abs(row["agreement"] - true["agreement"]) < 0.06
        if row["images"] == len(samples):
            assert {k: row[k] for k in ("top1", "top5", "agreement", "drop")} == pytest.approx(
                {k: true[k] for k in ("top1", "top5", "agreement", "drop")}
            )
            assert row["loss"] == pytest.approx(true["loss"], rel=1e-5)
    again = sweep(network, samples, variants, precision=2.5)
    assert again.equals(table)
