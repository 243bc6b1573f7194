"""The adaptive sweep: its confidence sequence covers at every step, narrows to the truth, and its table is honest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_sweep import noise
from torch import Tensor

from netopsy.engine.sweep import adaptive
from netopsy.engine.sweep import sweep as sweeps
from netopsy.engine.sweep.confidence import (
    AsymptoticSequence,
    Audit,
    ConfidenceSequence,
    ImportanceDraws,
    Sampler,
    strata_by_margin,
    strata_by_weight,
)
from netopsy.engine.sweep.edits import Shift, Variant
from netopsy.engine.sweep.sweep import sweep
from netopsy.engine.workspace import workspace as workspaces
from netopsy.engine.workspace.workspace import workspace
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.samples.load import load_samples
from networks import shipped
from patients import patient


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
    sampler = Sampler(strata_by_margin(margins, right), seed)
    audit = Audit(1, sampler, resolution=1e-4)
    intervals, estimates, n = [], [], len(margins)
    while sampler.left.sum():
        weights = audit.weights()
        images, draws = sampler.draw(min(step, int(sampler.left.sum())), weights)
        audit.absorb(images, draws, weights, drops[None, images])
        sampler.take(images)
        audit.narrow()
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
    sampler = Sampler(strata_by_margin(np.arange(100.0), np.ones(100, bool)), seed=0)
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


def values(
    kind: str, n: int, lot: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Weights, drops, and the most that these can be up and down (n,), of samples that are shares right, or of nats."""
    weights = lot.integers(0, 30, n).astype(float)
    before = np.ones(n) if kind == "agreement" else lot.beta(3, 2, n)
    after = {
        "alike": before - lot.normal(0.05, 0.1, n),
        "agreement": np.where(lot.random(n) < 0.1, lot.random(n), 1.0),
        "long samples": before - 0.2 * (weights > 20),
    }
    if kind in after:
        return weights, before - after[kind].clip(0, 1), before, 1 - before
    drops = {
        "normal": lot.normal(0.02, 0.3, n),
        "skewed": lot.lognormal(-3, 1, n) - 0.02,
        "heavy tails": 0.1 * lot.standard_t(3, n),
        "mostly zero": lot.exponential(size=n) * (lot.random(n) < 0.2),
    }[kind]
    return weights, drops, np.full(n, np.inf), np.full(n, np.inf)


def missed(kind: str, runs: int, n: int) -> int:
    """How many runs have an interval, after any round, without the weighted mean; the last is that mean."""
    count = 0
    for seed in range(runs):
        weights, drops, up, down = values(kind, n, np.random.default_rng([7, seed]))
        sampler = Sampler(strata_by_weight(weights, up, down), seed)
        audit, truth = Audit(1, sampler, 1e-3, sampler.bounded), np.average(drops, weights=weights)
        intervals, x = [], drops * sampler.known.weights
        while left := int(sampler.left.sum()):
            shares = audit.weights()
            items, draws = sampler.draw(min(40, left), shares)
            audit.absorb(items, draws, shares, x[None, items])
            sampler.take(items)
            audit.narrow()
            intervals.append(audit.interval(0))
        assert (*intervals[-1], audit.estimate(0)) == pytest.approx((truth, truth, truth))
        count += any(not low - 1e-9 <= truth <= high + 1e-9 for low, high in intervals)
    return count


@pytest.mark.parametrize("kind", ["alike", "agreement", "long samples"])
def test_intervals_of_shares_by_place_cover_at_all_steps_at_once(kind: str) -> None:
    assert missed(kind, 60, 300) <= 7  # more has a chance of 1 % under exactly 95 % coverage


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy tails", "mostly zero"])
def test_asymptotic_intervals_cover_at_all_steps_at_once(kind: str) -> None:
    assert missed(kind, 200, 600) <= 18


def test_without_bounds_there_is_no_interval_before_there_is_something_to_see() -> None:
    sequence = AsymptoticSequence(1000)
    for count in (32, 31):
        sequence.update(np.full(count, 0.1), ImportanceDraws(*np.ones((3, count))), 0.0, 1.0)
        assert sequence.narrow(np.inf, np.inf) == (-np.inf, np.inf)
    sequence.update(np.zeros(1), ImportanceDraws(*np.ones((3, 1))), 0.0, 1.0)
    assert np.isfinite(sequence.narrow(np.inf, np.inf)).all()
    zeros = AsymptoticSequence(1000)
    zeros.update(np.zeros(500), ImportanceDraws(*np.ones((3, 500))), 0.0, 1.0)
    assert zeros.narrow(np.inf, np.inf) == (-np.inf, np.inf)  # nothing changed yet: that bounds nothing


def halved(network: Network) -> list[Variant]:
    """Nothing, and each layer's weight a little and much smaller."""
    edits = [
        Variant({"layer": layer.name, "scale": s}, Shift((layer.weight,), lambda t, w=layer.weight: {w: -t[w]}, s, "-"))
        for layer in network.layers
        for s in (0.02, 0.9)
    ]
    return [Variant({"layer": "none", "scale": 0.0}, None), *edits]


def graded_agrees(name: str, count: int, precision: float, task: object = None) -> None:
    """The adaptive table against the exact one: intervals hold its drops; rows that used all samples are the same."""
    network, samples = patient(name, count)
    samples = samples if task is None else samples.with_task(task)
    exact, table = (sweep(network, samples, halved(network), precision=p) for p in (None, precision))
    assert table.columns == exact.columns
    assert table.row(0) == exact.row(0)
    column = exact.columns[2]
    for row, true in zip(table.to_dicts()[1:], exact.to_dicts()[1:], strict=True):
        assert row["drop_low"] - 1e-9 <= true["drop"] <= row["drop_high"] + 1e-9
        assert row["drop_low"] - 1e-9 <= row["drop"] <= row["drop_high"] + 1e-9
        assert row[column] == pytest.approx(true[column] + true["drop"] - row["drop"])
        if row["images"] == len(samples):
            same = [key for key in true if not key.startswith(("drop_", "rise_", "layer")) and true[key] is not None]
            assert all(row[key] is None for key in true if true[key] is None)  # agreement, where none is predicted
            assert [row[key] for key in same] == pytest.approx([true[key] for key in same], rel=1e-6, abs=1e-9)
            assert row["drop_low"] == pytest.approx(row["drop_high"]) == pytest.approx(true["drop"])
        else:
            assert row["drop_high"] - row["drop_low"] <= 0.02 * precision + 1e-9
    assert 8 <= table["images"].min() < len(samples)


def test_precision_serves_pixels_and_numbers() -> None:
    graded_agrees("unet", 160, 5.0)
    graded_agrees("regression", 400, 50.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "precision"),
    [("causal", None, 3.0), ("causal", "agreement", 10.0), ("encoder", None, 10.0), ("table", "agreement", 10.0)],
)
def test_precision_serves_every_task(name: str, task: str | None, precision: float) -> None:
    graded_agrees(name, 400, precision, task)


@pytest.mark.slow
def test_precision_serves_a_function_of_the_users() -> None:
    graded_agrees("regression", 400, 50.0, squared)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return -(outputs - targets.reshape(outputs.shape)).square().mean(1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds on the clock of sweeps; each look at it takes a fiftieth of a second."""
    now = [0.0]

    def look() -> float:
        now[0] += 0.02
        return now[0]

    for module in (adaptive, workspaces):
        monkeypatch.setattr(module.time, "monotonic", look)
    monkeypatch.setattr(sweeps, "EXACT_SHARE", 0.0)
    return now


def test_under_a_deadline_all_are_estimated_and_a_rerun_goes_on(tmp_path: Path, clock: list[float]) -> None:
    network, samples = shipped("a"), load_samples("digits")
    layers = network.layers[::5]
    variants = [
        Variant({"layer": layer.name, "strength": s}, Shift((layer.weight,), noise(layer.weight), s, "n"))
        for layer in layers
        for s in (0.1, 2.0)
    ]
    variants.append(Variant({"layer": "none", "strength": 0.0}, None))
    exact = sweep(network, samples, variants, tolerance=0.5)
    assert exact["images"].unique().to_list() == [len(samples)]  # without a deadline
    images = []
    for minutes in (1e-9, 0.02, 10.0, 10.0):
        with workspace(tmp_path, minutes=minutes) as place:
            table = sweep(network, samples, variants, tolerance=0.5)
            records = place.spent
            assert sweep(network, samples, variants[:2], precision=None).equals(exact[:2])  # exact where none is named
        images.append(table["images"].to_list())
        assert table.columns == exact.columns
        assert (table.row(-1) == exact.row(-1)) == (records[-1]["samples"] == len(samples))
        for row, true in zip(table.to_dicts(), exact.to_dicts(), strict=True):
            assert row["drop_low"] - 1e-9 <= true["drop"] <= row["drop_high"] + 1e-9
            assert row["top1_low"] - 1e-9 <= true["top1"] <= row["top1_high"] + 1e-9
            if row["images"] == len(samples):
                assert list(row.values())[2:] == pytest.approx(list(true.values())[2:])
    assert images[0] == [8] * len(layers) * 2 + [256]
    assert all(fewer <= more for fewer, more in zip(images[0][:-1], images[1], strict=False))
    assert images[0] != images[1] != images[2] == images[3]
    assert records[-1]["undecided"] == records[-1]["new_rounds"] == 0
    assert records[-1]["shown"] == sum(images[-1][:-1]) and records[-1]["samples"] == len(samples)
    with workspace(repeat=records[-1:]):
        assert sweep(network, samples, variants, tolerance=0.5).equals(table)


def test_what_is_decided_gets_no_more_images(tmp_path: Path, clock: list[float]) -> None:
    """A ruined variant is settled long before one that is near the tolerance."""
    network, samples = shipped("a"), load_samples("digits")
    layer = network.layers[5].weight
    scales = (0.3, 3.0)
    variants = [Variant({"strength": s}, Shift((layer,), noise(layer), s, "n")) for s in scales]
    with workspace(tmp_path, minutes=10):
        table = sweep(network, samples, variants, tolerance=2.0)
    doubtful, ruined = table.to_dicts()
    assert ruined["images"] < doubtful["images"] and ruined["drop_low"] > 0.02
    with pytest.raises(SettingsError, match="tolerance"):
        sweep(network, samples, variants, tolerance=0.0)
    with pytest.raises(SettingsError, match="minutes"), workspace(minutes=0):
        pass
