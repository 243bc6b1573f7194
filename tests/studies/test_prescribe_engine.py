"""What `prescribe` is made of: against brute force, least squares, and definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from reference_codec import entropy_bytes
from reference_prescribe import cheapest_multiples, pooled, smallest_within, surgeon
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, load_samples
from netopsy.engine.sweep.edits import Replace, Variant
from netopsy.engine.sweep.sweep import sweep
from netopsy.samples.images import ArrayImages
from netopsy.studies.prescribe import compensate
from netopsy.studies.prescribe.candidates import candidates
from netopsy.studies.prescribe.cells import Cells, Groups, Line
from netopsy.studies.prescribe.compensate import Products, Rounder, input_products
from netopsy.studies.prescribe.divergence import (
    Exchange,
    Outputs,
    divergence,
    effects,
    expected_drop,
    fit_temperature,
    loss_at,
    temperature,
)
from netopsy.studies.prescribe.knapsack import Allocation, allocations, frontier
from netopsy.studies.prescribe.plan import MeasuredAllocation, climb, ladder, last_within, part
from netopsy.studies.rounding import number_format
from networks import shipped


@pytest.mark.parametrize("seed", range(12))
def test_every_allocation_on_the_path_is_the_smallest_of_its_loss(seed: int) -> None:
    lot = np.random.default_rng(seed)
    layers = {str(i): [(float(b), float(v)) for b, v in lot.integers(0, 40, (5, 2))] for i in range(4)}
    path = allocations(layers)
    for allocation in path:
        assert allocation.bytes == pytest.approx(smallest_within(list(layers.values()), allocation.loss))
    assert path[0].loss == sum(min(v for _, v in points) for points in layers.values())
    assert path[-1].bytes == sum(min(b for b, _ in points) for points in layers.values())
    sizes, losses = [a.bytes for a in path], [a.loss for a in path]
    assert sizes == sorted(sizes, reverse=True) and losses == sorted(losses)


def test_a_choice_that_costs_more_and_is_worse_is_never_taken() -> None:
    points = [(10.0, 0.0), (12.0, 0.0), (8.0, 5.0), (9.0, 6.0), (4.0, 1.0), (1.0, 4.0), (1.0, 3.0)]
    assert [points[i] for i in frontier(points)] == [(10.0, 0.0), (4.0, 1.0), (1.0, 3.0)]


@pytest.mark.parametrize("pull", [0.0, 0.1155, 0.3])
@pytest.mark.parametrize("step", [0.3, 1.0, 2.0])
def test_each_value_takes_the_cheapest_multiple(step: float, pull: float) -> None:
    values = np.sort(np.random.default_rng(1).laplace(size=4000)).astype(np.float32)
    cells = Line(values).uniform(step, pull)
    nearest = cells.nearest(values.astype(np.float64))
    multiple = {float(t): int(np.rint(np.median(values[nearest == t]) / step)) for t in np.unique(nearest)}
    if pull == 0:
        assert np.array_equal([multiple[float(t)] for t in nearest], np.rint(values.astype(np.float64) / step))
        return
    bits = {k: -np.log2(np.mean(nearest == t)) for t, k in multiple.items()}
    cheapest = cheapest_multiples(values.astype(np.float64), step, pull, bits)
    # the counts settle but for a few values at the thresholds
    assert np.mean([multiple[float(t)] == k for t, k in zip(nearest, cheapest, strict=True)]) > 0.985


@pytest.mark.parametrize("kind", ["uniform", "kmeans"])
def test_zeros_stay_and_each_cell_takes_the_mean_of_its_values(kind: str) -> None:
    values = np.random.default_rng(2).laplace(size=900).astype(np.float32)
    values[:300] = 0.0
    line = Line(values)
    cells = line.uniform(0.9, 0.1155) if kind == "uniform" else line.kmeans(0.4, 7)
    shared = cells.share(values)
    for value in shared.table[shared.table != 0]:
        assert value == pytest.approx(values[shared.decode() == value].mean(), rel=1e-5)
    assert (shared.decode()[values == 0] == 0).all() and 0.0 in shared.table
    if kind == "kmeans":
        assert len(shared.table) == 7 and shared.kept == 360


@pytest.mark.parametrize("damping", [compensate.DAMPING, 1.0])
def test_rounding_with_compensation_is_optimal_brain_quantisation(
    monkeypatch: pytest.MonkeyPatch, damping: float
) -> None:
    monkeypatch.setattr(compensate, "BLOCK", 3)
    monkeypatch.setattr(compensate, "DAMPING", damping)
    lot = np.random.default_rng(3)
    inputs = lot.normal(size=(200, 8)) @ lot.normal(size=(8, 8))
    gram = inputs.T @ inputs
    order = np.argsort(-np.diag(gram))
    gram, weight = gram[np.ix_(order, order)], lot.normal(size=(5, 8)).astype(np.float32)
    cells = Line(weight).uniform(0.7, 0.0)
    mean_power = np.diag(gram).mean()
    damped = gram + damping * mean_power * np.eye(8)
    middles = (cells.table[1:] + cells.table[:-1]) / 2
    cells = Cells(middles, cells.table)  # the nearest value, as the twin takes it
    rounder = Rounder(weight, gram)
    rounded = rounder.round(cells).decode()
    assert rounded == pytest.approx(surgeon(weight.astype(np.float64), damped, cells.table), abs=1e-6)
    plain = cells.share(weight).decode()
    outputs = inputs[:, order]
    for values in (rounded, plain):
        error = np.square(outputs @ (values - weight).T).sum() / np.square(outputs @ weight.T).sum()
        assert rounder.noise(values) == pytest.approx(error)
    assert rounder.noise(rounded) < (0.5 if damping < 1 else 1) * rounder.noise(plain)


def test_groups_are_the_number_formats_of_rounding() -> None:
    lot = np.random.default_rng(5)
    weight = lot.normal(size=(6, 80)).astype(np.float32)
    weight[0, :32] = 0
    for bits, size in ((4, 32), (8, 64), (4, 80)):
        groups = Groups.of(weight, bits, size)
        top = 2 ** (bits - 1) - 1
        exact = weight.copy()  # with each scale a power of two, which both hold
        for start in range(0, 80, size):
            part = exact[:, start : start + size]
            part[:, 0] = np.where(part.any(1), top, 0)
            part[:] = part.clip(-top, top) / 8
        format_ = number_format(groups.name)
        given = Groups.of(exact, bits, size).share(exact)
        assert np.array_equal(given.decode(), format_.apply(torch.from_numpy(exact)).numpy())
        assert given.scales is not None and given.scales.shape == (6, -(-80 // size)) and given.group == size
        near = groups.share(weight).decode()
        assert np.abs(near - weight).max() < 0.51 * np.abs(weight).max() / top
        assert np.array_equal(groups.scales.astype(np.float16).astype(np.float32), groups.scales)
    huge = weight * np.float32(1e30)  # beyond float16: the scales stay float32
    assert np.isfinite(Groups.of(huge, 4, 32).share(huge).decode()).all()


def test_groups_are_compensated_column_by_column_each_with_its_scale() -> None:
    lot = np.random.default_rng(6)
    inputs = lot.normal(size=(200, 8)) @ lot.normal(size=(8, 8))
    gram = inputs.T @ inputs
    weight = lot.normal(size=(5, 8)).astype(np.float32)
    groups = Groups.of(weight, 4, 3)
    damped = gram + compensate.DAMPING * np.diag(gram).mean() * np.eye(8)
    order = np.argsort(-np.diag(gram), kind="stable")
    expected = np.empty((5, 8))
    for r in range(5):
        left = weight[r, order].astype(np.float64)
        for q in range(8):
            inverse = np.linalg.inv(damped[np.ix_(order[q:], order[q:])])
            scale = float(groups.scales[r, order[q] // 3])
            expected[r, order[q]] = scale * np.clip(np.rint(left[q] / scale), -7, 7)
            left[q:] -= (left[q] - expected[r, order[q]]) / inverse[0, 0] * inverse[:, 0]
    rounder = Rounder(weight, gram)
    rounded = rounder.round(groups).decode()
    np.testing.assert_allclose(rounded, expected, rtol=1e-6, atol=1e-7)
    assert rounder.noise(rounded) < rounder.noise(groups.share(weight).decode())


def test_matrices_with_long_rows_have_groups_among_their_candidates() -> None:
    lot = np.random.default_rng(7)
    wide, short = (lot.normal(size=(20, width)).astype(np.float32) for width in (80, 20))
    kinds = {one.kind for one in candidates(Rounder(wide), "groups", 4)}
    assert {"as it is", "int8_group64"} <= kinds and all(k == "as it is" or "_group" in k for k in kinds)
    assert {one.kind for one in candidates(Rounder(short), "groups", 4)} == {
        "as it is",
        "int8_group20",
        "int4_group20",
    }
    # rows of very different size, each as dear to the outputs: a scale a group spends the bits where they are needed
    power = np.repeat([1.0, 1e-4, 1.0, 1e-4], 32)
    weight = (lot.normal(size=(40, 128)) * power).astype(np.float32)
    rounder = Rounder(weight, np.diag(1 / power**2))
    chain = candidates(rounder, "uniform", 4)
    assert any(one.kind.startswith("int") for one in chain)
    for one in chain:
        shared = one.share(rounder)
        if shared is not None and shared.scales is not None:
            codes = entropy_bytes(shared.codes) * 8 / shared.codes.size
            assert one.bits == pytest.approx(codes + 16 * shared.scales.size / shared.codes.size)


def test_candidates_are_a_chain_and_spare_what_is_lossless() -> None:
    lot = np.random.default_rng(4)
    weight = np.round(lot.normal(size=(20, 30)), 1).astype(np.float32)
    chain = candidates(Rounder(weight), "uniform", 4)
    assert chain[0].kind == "lossless" and np.array_equal(chain[0].share(Rounder(weight)).decode(), weight)  # type: ignore[union-attr]
    noise, sizes = [one.noise for one in chain], [one.bytes for one in chain]
    assert noise == sorted(noise) and sizes == sorted(sizes, reverse=True)
    for one in chain:
        shared = one.share(Rounder(weight))
        assert shared is not None
        assert one.bits == pytest.approx(entropy_bytes(shared.codes) * 8 / 600)
        assert one.bytes == pytest.approx(one.bits * 600 / 8 + 4 * len(shared.table))
    real = candidates(Rounder(lot.normal(size=(20, 30)).astype(np.float32)), "uniform", 2)
    assert real[0].kind == "as it is" and real[0].bytes == 1200 and real[0].share(Rounder(weight)) is None
    assert [one.kind for one in candidates(Rounder(np.zeros((4, 9), np.float32)), "uniform", 4)] == ["lossless"]


def conv_network() -> tuple[Network, Samples]:
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, dilation=2), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3), nn.Flatten()
    )
    with torch.no_grad():
        width = module(torch.zeros(1, 3, 12, 12)).shape[1]
    module = nn.Sequential(module, nn.Linear(width, 4))
    lot = np.random.default_rng(5)
    pixels = lot.integers(0, 256, (40, 12, 12, 3), np.uint8)
    samples = Samples("noise", ArrayImages(pixels), lot.integers(0, 4, 40), tuple("abcd"))
    return Network("test", module, Preprocessing(size=(12, 12), mean=(0.5,) * 3, std=(0.5,) * 3)), samples


def test_input_products_are_those_of_the_windows_of_each_layer() -> None:
    network, samples = conv_network()
    products = input_products(network, samples, network.layers)
    conv, _, linear = network.layers
    assert set(products) == {conv.name, linear.name}, "grouped convolutions are left out"
    (batch,) = samples.batches(network.preprocessing, 40)
    body = network.module[0]  # type: ignore[index]
    with torch.no_grad():
        windows = nn.functional.unfold(batch.images, 3, dilation=2, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
        rows = body(batch.images)  # type: ignore[operator]
    for name, inputs in ((conv.name, windows.double().numpy()), (linear.name, rows.double().numpy())):
        total = inputs.T @ inputs
        damped = compensate.DAMPING * total.shape[0] / len(inputs) * np.diag(total).mean() * np.eye(len(total))
        assert products[name] == pytest.approx(total + damped, rel=1e-4, abs=1e-3)
    with torch.no_grad():
        outputs = body[0](batch.images) - body[0].bias[:, None, None]  # type: ignore[index]
    weight = body[0].weight.detach().flatten(1).double().numpy()  # type: ignore[index]
    squares = np.trace(weight @ (windows.double().T @ windows.double()).numpy() @ weight.T)
    assert squares == pytest.approx(outputs.double().square().sum().item(), rel=1e-5), "the windows are the layer's own"


def test_products_of_two_parts_are_those_of_the_whole() -> None:
    values = torch.randn(6, 3, 5, 5)
    whole, parts = Products((3, 3), padding=(1, 1)), [Products((3, 3), padding=(1, 1)) for _ in range(3)]
    whole.update(values, torch.arange(6))
    parts[0].update(values[:2], torch.arange(2))
    parts[1].update(values[2:], torch.arange(4))
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    assert torch.allclose(parts[2].result(), whole.result(), atol=1e-3)


def test_divergence_is_that_of_torch_and_infinite_where_not_finite() -> None:
    plain, edited = torch.randn(7, 5), torch.randn(7, 5)
    p, q = (
        torch.distributions.Categorical(logits=plain.double()),
        torch.distributions.Categorical(logits=edited.double()),
    )
    assert torch.allclose(divergence(plain, edited, False), torch.distributions.kl_divergence(p, q))
    a, b = (torch.distributions.Bernoulli(logits=x.double()) for x in (plain, edited))
    assert torch.allclose(divergence(plain, edited, True), torch.distributions.kl_divergence(a, b).sum(1))
    edited[2, 1] = torch.nan
    assert divergence(plain, edited, False).isinf().tolist() == [i == 2 for i in range(7)]


def test_effects_hold_the_scores_of_the_sweep() -> None:
    network, samples = shipped("a"), load_samples("digits", count=70)

    def halve(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"fc.weight": tensors["fc.weight"] * torch.linspace(0.05, 1.5, 10)[:, None]}

    variants = [Variant({"n": 0}, None), Variant({"n": 1}, Replace(("fc.weight",), halve, "halve"))]  # type: ignore[arg-type]
    table, scores = effects(network, samples, variants, "x"), sweep(network, samples, variants)
    assert table.select(scores.columns).to_dicts() == [pytest.approx(row) for row in scores.to_dicts()]
    assert table["divergence"][0] == 0 and table["divergence"][1] > 0


def test_the_expected_drop_of_calibrated_outputs_is_the_drop() -> None:
    """Labels drawn from the outputs at twice their temperature: then the temperature is 2, and the drop as expected."""
    generator = torch.Generator().manual_seed(0)
    outputs = 6 * torch.randn(40_000, 5, generator=generator)
    labels = torch.multinomial((outputs / 2).softmax(1), 1, generator=generator)[:, 0]
    edited = outputs + 3 * torch.randn(40_000, 5, generator=generator)
    before, after = outputs.argmax(1), edited.argmax(1)
    counted = (before == labels).double().mean() - (after == labels).double().mean()
    expected = expected_drop(outputs, before, after, 2.0, False).mean()
    assert expected.item() == pytest.approx(counted.item(), abs=0.006)
    assert expected_drop(outputs, before, after.new_full(after.shape, -1), 2.0, False).mean() > expected


def drawn(multilabel: bool = False) -> tuple[Tensor, Tensor]:
    """Outputs at four times the scale at which they are calibrated, and labels."""
    generator = torch.Generator().manual_seed(0)
    outputs = 8 * torch.randn(3000, 3, generator=generator)
    chance = (outputs / 4).sigmoid() if multilabel else (outputs / 4).softmax(1)
    labels = chance.bernoulli(generator=generator) if multilabel else chance.multinomial(1, generator=generator)[:, 0]
    return outputs, labels


def test_the_temperature_is_found() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(30.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x.mean((2, 3))

    lot = np.random.default_rng(0)
    pixels = lot.integers(0, 256, (3000, 1, 1, 3), np.uint8)
    network = Network("wide", Wide(), Preprocessing(size=(1, 1), mean=(0.5,) * 3, std=(0.5,) * 3))
    outputs = 30 * (pixels[:, 0, 0] / 255 - 0.5) / 0.5
    labels = (outputs / 4 + lot.gumbel(size=(3000, 3))).argmax(1)
    found = temperature(network, Samples("wide", ArrayImages(pixels), labels, tuple("abc")))
    assert found == pytest.approx(4.0, rel=0.12)
    assert found == pytest.approx(fit_temperature(torch.tensor(outputs), torch.tensor(labels), False), rel=1e-4)


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_temperature_grows_with_the_outputs(multilabel: bool) -> None:
    outputs, labels = drawn(multilabel)
    found = fit_temperature(outputs, labels, multilabel)
    assert found == pytest.approx(4.0, rel=0.12)
    for scale in 10.0 ** np.arange(-6, 7):
        assert fit_temperature(scale * outputs, labels, multilabel) == pytest.approx(scale * found, rel=1e-4)
    best = [100.0, 0.0]
    for value in np.geomspace(2, 8, 601):  # the least loss of many
        scaled = outputs.double() / value
        loss = nn.functional.binary_cross_entropy_with_logits if multilabel else nn.functional.cross_entropy
        best = min(best, [float(loss(scaled, labels.double() if multilabel else labels)), value])
    assert found == pytest.approx(best[1], rel=0.01)


def test_the_temperature_of_a_softmax_is_that_of_its_logarithm() -> None:
    outputs, labels = drawn()
    found = fit_temperature(outputs, labels, False)
    assert fit_temperature(outputs.log_softmax(1), labels, False) == pytest.approx(found, rel=1e-4)
    assert fit_temperature(outputs + 50, labels, False) == pytest.approx(found, rel=1e-4)


def test_outputs_that_say_nothing_have_a_temperature_too() -> None:
    labels = torch.arange(40) % 4
    certain = 5.0 * nn.functional.one_hot(labels)
    assert fit_temperature(torch.ones(40, 4), labels, False) == 1, "all equal"
    assert fit_temperature(torch.full((40, 4), torch.nan), labels, False) == 1, "none finite"
    always_right, always_wrong = (fit_temperature(c, labels, False) for c in (certain, -certain))
    assert 0 < always_right < 5 < always_wrong < 100, "finite where all are right, and flat where all are wrong"
    broken = torch.cat([certain, torch.full((1, 4), torch.inf)])
    assert fit_temperature(broken, torch.cat([labels, labels[:1]]), False) == pytest.approx(always_right)


@pytest.mark.parametrize("heat", [1e-3, 1.0, 1e3])
def test_an_estimate_never_leaves_the_interval_of_the_count(heat: float) -> None:
    network, samples = shipped("a"), load_samples("digits", count=60)

    def wear(share: float) -> Replace:
        def worn(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {"fc.weight": tensors["fc.weight"] * torch.linspace(share, 1, 10)[:, None]}

        return Replace(("fc.weight",), worn, str(share))

    found = effects(network, samples, [Variant({}, wear(share)) for share in (0.0, 0.1, 0.3, 0.6)], "x", heat)
    assert ((found["drop_low"] <= found["estimate"]) & (found["estimate"] <= found["drop_high"])).all()
    assert found["drop"].to_list() == pytest.approx(((found["losses"] - found["gains"]) / 60).to_list())
    within = (found["drop_low"] <= found["expected"]) & (found["expected"] <= found["drop_high"])
    assert found.filter(within)["estimate"].equals(found.filter(within)["expected"])


def test_the_first_point_that_fails_ends_the_test() -> None:
    drops, bounds = (0.0, 0.004, 0.005, 0.02, 0.001), (0.004, 0.009, 0.012, 0.03, 0.008)
    trials = [
        MeasuredAllocation(i, Allocation({}, 100.0 - i, 0.0), {"drop": drop}, bound)
        for i, (drop, bound) in enumerate(zip(drops, bounds, strict=True))
    ]
    chosen, by_count = last_within(trials, 0.01), last_within(trials, 0.01, "drop")
    assert chosen is trials[1] and by_count is trials[2], "what comes after a failure is not looked at"
    assert last_within(trials, 0.001) is None and last_within([], 0.01) is None


def test_losses_are_in_proportion_to_small_noise_and_rise() -> None:
    noise = np.geomspace(1e-5, 1, 30)
    measured = [(0.01, 0.02), (0.1, 0.15), (0.3, 3.0)]
    losses = loss_at(noise, measured)
    assert (np.diff(losses / noise) >= -1e-12).all() and (np.diff(losses) > 0).all()
    # 2, 1.5 and 10 a noise: the first two are pooled to their geometric mean
    assert losses[0] / noise[0] == pytest.approx(3**0.5)
    assert loss_at([0.3, 0.0], measured) == pytest.approx([3.0, 0.0])
    assert loss_at([0.0, 0.1], []).tolist() == [0.0, float("inf")]


def test_the_exchange_pools_drops_as_isotonic_regression_does() -> None:
    lot = np.random.default_rng(6)
    x, y = np.sort(lot.random(12)), np.linspace(0.1, 1, 12) + 0.3 * lot.normal(size=12)
    curve = Exchange(x.tolist(), y.tolist())
    assert [curve.drop(value) for value in x] == pytest.approx([max(0.0, v) for v in pooled(y.tolist())])
    assert curve.drop(0.0) == 0 and curve.drop(curve.divergence(0.4)) == pytest.approx(0.4, abs=1e-6)
    assert Exchange([], []).divergence(0.1) == 0 == Exchange([], []).drop(3.0)
    assert [Exchange([3.0, 2.0, 1.0], [0.1, -0.1, -0.4]).drop(x) for x in (1, 2, 2.5, 3)] == [0, 0, 0.05, 0.1]


@pytest.mark.parametrize("misjudged", [0.1, 1, 10])
def test_climbing_finds_nearly_the_smallest_point_within_the_budget(misjudged: float) -> None:
    layers = {str(i): [(100 * 0.8**j, (1 + i) * 1e-5 * 2.0**j) for j in range(12)] for i in range(20)}
    path = allocations(layers)
    counted: list[int] = []

    def measure(places: Sequence[int]) -> list[MeasuredAllocation]:
        counted.extend(places)
        return [MeasuredAllocation(i, path[i], {"drop": 0.2 * path[i].loss}, 0.3 * path[i].loss) for i in places]

    for budget in (1e-3, 0.02):
        counted.clear()
        trials = climb(ladder(path, budget / 0.2 * misjudged), budget, measure)
        assert counted == sorted(set(counted)) and counted[0] == 0 and len(counted) <= 40
        for by, cost in (("bound", 0.3), ("drop", 0.2)):
            best = last_within(trials, budget, by)  # type: ignore[arg-type]
            possible = min(a.bytes for a in path if cost * a.loss <= budget)
            assert best is not None and cost * best.allocation.loss <= budget
            assert best.allocation.bytes <= 1.06 * possible
    assert last_within(climb(ladder(path, 1e-9), 1e-9, measure), 1e-9) is None
    everything = last_within(climb(ladder(path, 1.0), 2.0, measure), 2.0)
    assert everything is not None and everything.place == len(path) - 1


def test_the_parts_do_not_overlap() -> None:
    samples = load_samples("digits", count=151)
    parts = part(samples, 10, 0)
    sizes = {name: len(one) for name, one in vars(parts).items()}
    assert sizes == {"choosing": 75, "reporting": 76, "probing": 10, "learning": 12, "searching": 22, "certifying": 53}
    rows = {name: {one.image(i).tobytes() for i in range(len(one))} for name, one in vars(parts).items()}
    assert not rows["choosing"] & rows["reporting"] and not rows["learning"] & rows["probing"]
    assert rows["learning"] | rows["probing"] == rows["searching"] and not rows["searching"] & rows["certifying"]
    assert rows["searching"] | rows["certifying"] == rows["choosing"]
    counts = np.bincount(parts.choosing.labels, minlength=10) - np.bincount(parts.reporting.labels, minlength=10)
    assert np.abs(counts).max() <= 2
    again = part(samples, 10, 0)
    assert again.probing.digest == parts.probing.digest != part(samples, 10, 1).probing.digest
    few = part(samples.subset(6), 10, 0)
    assert len(few.choosing) == len(few.probing) == len(few.certifying) == 3


def test_the_outputs_of_two_parts_are_those_of_one() -> None:
    lot = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(40, 3, generator=lot), torch.randint(0, 3, (40,), generator=lot)
    first, second, empty = (Outputs() for _ in range(3))
    first.update((outputs[:25], labels[:25]), torch.arange(25))
    second.update((outputs[25:], labels[25:]), torch.arange(25, 40))
    for other in (second, empty):
        first.merge(other)
    assert torch.equal(first.result()[0], outputs.double()) and torch.equal(first.result()[1], labels)
