"""The co-moments of two networks from one pass, against numpy on all activations at once."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netopsy
from netopsy import Network, Preprocessing, Samples, load_samples
from netopsy.engine.workspace.workspace import workspace
from netopsy.errors import NetworkError, SettingsError, UnknownLayer
from netopsy.studies.correspondence.comoments.column_layout import GridLevel
from netopsy.studies.correspondence.comoments.cross_moments import (
    CrossMoments,
    WatchedNode,
    cross_moments,
    cross_moments_of,
)
from netopsy.studies.correspondence.comoments.mutual_information import PairInformation, pair_information
from netopsy.studies.correspondence.comoments.pair import layers_of, merge
from networks import shipped


class Small(nn.Module):
    """Two convolutions with rectifiers, a pooling between them, and a linear layer; channel 1 of the first is dead."""

    def __init__(self, width: int = 5, stride: int = 1, shift: float = 0.0) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(1, width, 3, stride, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(width, width + 1, 3, padding=1), nn.ReLU()
        self.fc = nn.Linear(width + 1, 10)
        with torch.no_grad():
            self.conv1.weight[1], self.conv1.bias[1] = 0, -1
            self.conv1.bias[2] += shift

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(F.max_pool2d(self.relu1(self.conv1(x)), 2)))
        return self.fc(x.mean((2, 3)))


def small_network(seed: int, **kinds: float) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(
            f"small-{seed}", Small(**kinds), Preprocessing(size=(8, 8), mean=(0.3,), std=(0.3,), channels="L")
        )  # type: ignore[arg-type]


@cache
def digits(count: int = 90) -> Samples:
    return load_samples("digits", count=count)


def values(network: Network, name: str, samples: Samples) -> Tensor:
    """Activations of one node by a hook, float64 (images, *places, channel)."""
    outputs: list[Tensor] = []
    handle = dict(network.module.named_modules())[name].register_forward_hook(lambda _m, _i, out: outputs.append(out))
    with torch.inference_mode():
        for batch in samples.batches(network.preprocessing, 32):
            network.module(batch.images)
    handle.remove()
    return torch.cat(outputs).double().movedim(1, -1)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """np.corrcoef between the columns of a and of b; 0 where one has no variance."""
    with np.errstate(all="ignore"):
        matrix = np.corrcoef(a, b, rowvar=False)[: a.shape[1], a.shape[1] :]
    return np.nan_to_num(matrix)


def rows(network: Network, name: str, samples: Samples) -> np.ndarray:
    return values(network, name, samples).flatten(0, -2).numpy()


def test_layers_are_the_rectifiers_behind_the_layers() -> None:
    assert layers_of(small_network(0)) == ["relu1", "relu2", "fc"]


@pytest.mark.parametrize("size", [None, 1, 7, 90])
def test_correlations_are_those_of_numpy(size: int | None) -> None:
    one, other = small_network(0), small_network(1, width=7)
    pairs = cross_moments(one, other, digits(), batch_size=size)
    assert list(pairs) == [("relu1", "relu1"), ("relu2", "relu2"), ("fc", "fc")]
    for (a, b), pair in pairs.items():
        x, y = rows(one, a, digits()), rows(other, b, digits())
        assert pair.n == len(x) and pair.images == 90
        np.testing.assert_allclose(pair.correlation, correlation(x, y), atol=1e-6)
        np.testing.assert_allclose(pair.mean_a, x.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(pair.std_b, y.std(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(pair.correlation_aa, correlation(x, x), atol=1e-6)
    assert list(np.flatnonzero(pairs["relu1", "relu1"].dead_a)) == [1]
    assert np.isfinite(pairs["relu1", "relu1"].correlation).all()


def test_a_mean_of_a_thousand_deviations_loses_no_digits() -> None:
    one = small_network(0, shift=0.0)
    spread = rows(one, "relu1", digits())[:, 2].std()
    far = small_network(0, shift=1000 * spread)
    pair = cross_moments(far, small_network(1), digits(), [("conv1", "conv1")])["conv1", "conv1"]
    near = cross_moments(one, small_network(1), digits(), [("conv1", "conv1")])["conv1", "conv1"]
    assert pair.mean_a[2] / pair.std_a[2] > 500
    # float32 activations at 1000 deviations hold 4 digits of the deviation: numpy is given the same ones
    x, y = rows(far, "conv1", digits()), rows(small_network(1), "conv1", digits())
    np.testing.assert_allclose(pair.correlation, correlation(x, y), atol=1e-6)
    np.testing.assert_allclose(pair.correlation[2], near.correlation[2], atol=1e-3)


def test_layers_of_different_size_meet_on_the_common_grid() -> None:
    one, other = small_network(0), small_network(1, stride=2)
    pair = cross_moments(one, other, digits(), [("relu1", "relu1")])["relu1", "relu1"]
    assert pair.grid == (4, 4)
    x = F.avg_pool2d(values(one, "relu1", digits()).movedim(-1, 1), 2).movedim(1, -1).flatten(0, -2).numpy()
    np.testing.assert_allclose(pair.correlation, correlation(x, rows(other, "relu1", digits())), atol=1e-6)
    flat = cross_moments(one, other, digits(), [("relu1", "fc")])["relu1", "fc"]
    assert flat.grid == ()
    mean = values(one, "relu1", digits()).mean((1, 2)).numpy()
    np.testing.assert_allclose(flat.correlation, correlation(mean, rows(other, "fc", digits())), atol=1e-6)


def test_shuffled_pairs_every_image_with_another_once() -> None:
    one, samples = small_network(0), digits()
    pair = cross_moments(one, one, samples, [("fc", "fc")], seed=4)["fc", "fc"]
    order = np.random.default_rng(4).permutation(len(samples))
    x = rows(one, "fc", samples)
    np.testing.assert_allclose(pair.correlation, correlation(x, x), atol=1e-6)
    np.testing.assert_allclose(pair.control().correlation, correlation(x[order], x[np.roll(order, 1)]), atol=1e-6)


def test_all_pairs_and_several_networks_come_from_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, third = small_network(0), small_network(1), small_network(2)
    read: list[int] = []
    whole = Samples.batches

    def counted(self: Samples, *given: object, **named: object) -> object:
        for batch in whole(self, *given, **named):  # type: ignore[arg-type]
            read.append(len(batch.indices))
            yield batch

    monkeypatch.setattr(Samples, "batches", counted)
    of_networks = cross_moments_of(one, [other, third], digits(), pairs="all")
    assert sum(read) <= len(digits()) + 32  # the pilot's images beside
    assert [len(pairs) for pairs in of_networks] == [9, 9]
    alone = cross_moments(one, third, digits(), [("relu2", "relu1")])["relu2", "relu1"]
    np.testing.assert_allclose(of_networks[1]["relu2", "relu1"].correlation, alone.correlation, atol=1e-6)


def test_two_halves_merge_to_the_whole() -> None:
    one, other, names = small_network(0), small_network(1), ("relu2", "relu2")
    whole = cross_moments(one, other, digits(), [names])[names]
    halves = [
        cross_moments(one, other, digits().select(np.arange(*part), "part"), [names])[names]
        for part in ((0, 40), (40, 90))
    ]
    both = merge(*halves)
    np.testing.assert_allclose(both.correlation, whole.correlation, atol=1e-7)
    assert both.n == whole.n


def test_a_stopped_pass_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    one, other = small_network(0), small_network(1)
    whole = cross_moments(one, other, digits(), batch_size=10)
    seen: list[int] = []

    def stop(_label: str, done: int, _total: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, stop, every=0):
        cross_moments(one, other, digits(), batch_size=10)
    with workspace(tmp_path, lambda _label, done, _total: seen.append(done), every=0):
        again = cross_moments(one, other, digits(), batch_size=10)
    assert seen[0] == 40
    for names, pair in whole.items():
        assert np.array_equal(pair.ab, again[names].ab)
        assert pair.shuffled is not None and np.array_equal(pair.shuffled, again[names].shuffled)  # type: ignore[arg-type]


NODES = (WatchedNode(0, "x", 1), WatchedNode(0, "z", 1), WatchedNode(1, "y", -1))


def tally() -> CrossMoments:
    """Of x and z with y, 3, 2 and 4 channels at 2x2 places, with shifts far from the later means."""
    spans = {0: {"x": (0, 3), "z": (3, 5)}, 1: {"y": (0, 4)}}
    level = GridLevel((2, 2), spans, {1: [((0, 5), (0, 4))]}, True)
    return CrossMoments(NODES, (level,), torch.tensor([0.0, 1, 2, 3, 4, 0, 0, 0, 0]), 500)


def count(values: list[Tensor], first: int, last: int, size: int) -> CrossMoments:
    counted = tally()
    for start in range(first, last, size):
        part = slice(start, min(start + size, last))
        counted.update(tuple(v[part] for v in values), torch.arange(part.start, part.stop))
    return counted


@pytest.mark.parametrize("cuts", [(0, 6000), (0, 1, 6000), (0, 2500, 5999, 6000), (0, 0, 3000, 3000, 6000)])
def test_parts_in_their_order_are_the_whole_as_numpy_has_it(cuts: tuple[int, ...]) -> None:
    """The means drift during the pass, so that the shifts move, and differently in each part."""
    generator = torch.Generator().manual_seed(0)
    cause = torch.randn(6000, 1, 2, 2, generator=generator)
    drift = torch.linspace(0, 40, 6000).view(-1, 1, 1, 1)
    x, z, y = (cause + torch.randn(6000, c, 2, 2, generator=generator) + drift for c in (3, 2, 4))
    values = [x, z, y.movedim(1, -1)]
    merged = tally()
    for first, last in itertools.pairwise(cuts):
        merged.merge(count(values, first, last, 500))
    found = merged.result()[1]
    flat = {name: v.double().movedim(1, -1).numpy() for name, v in (("x", x), ("z", z), ("y", y))}
    for (a, b), pair in found.items():
        one, other = flat[a], flat[b]
        before = np.roll(other, 1, axis=0)
        rows = [v.reshape(-1, v.shape[-1]) - v.reshape(-1, v.shape[-1]).mean(0) for v in (one, other, before)]
        assert pair.n == 24_000 and pair.images == 6000
        for sums, expected in ((pair.aa, rows[0].T @ rows[0]), (pair.ab, rows[0].T @ rows[1])):
            np.testing.assert_allclose(sums, expected, rtol=2e-6)
        np.testing.assert_allclose(pair.shuffled, rows[0].T @ rows[2], rtol=2e-6)  # type: ignore[arg-type]
    assert list(found) == [("x", "y"), ("z", "y")]


def test_merging_leaves_the_other_part_as_it_was_and_a_restored_one_goes_on() -> None:
    values = [torch.randn(3000, 3, 2, 2) + 9, torch.randn(3000, 2, 2, 2), torch.randn(3000, 2, 2, 4)]
    one, other, whole = count(values, 0, 1000, 100), count(values, 1000, 3000, 100), count(values, 0, 3000, 100)
    before = {name: value.clone() for name, value in other.state().items()}
    one.merge(other)
    assert all(torch.equal(before[name], value) for name, value in other.state().items())
    resumed = tally()
    resumed.restore({name: value.clone() for name, value in count(values, 0, 1000, 100).state().items()})
    for start in range(1000, 3000, 100):
        resumed.update(tuple(v[start : start + 100] for v in values), torch.arange(start, start + 100))
    assert all(torch.equal(value, resumed.state()[name]) for name, value in whole.state().items())
    assert set(tally().state()) == {"shifts", "images"} and tally().result() == {}


@pytest.mark.slow
def test_a_pass_over_workers_is_one_pass() -> None:
    one, other = shipped("a"), shipped("b")
    layers = [("block5.relu3", "block5.relu3")]
    whole = cross_moments(one, other, digits(), layers)
    with netopsy.workers(2, threads=1):
        parts = cross_moments(one, other, digits(), layers)
    for names, pair in whole.items():
        scale = np.outer(pair.spread_a, pair.spread_b)
        for sums in ("ab", "shuffled"):
            assert np.abs(getattr(pair, sums) - getattr(parts[names], sums)).max() <= 1e-6 * scale.max()
        assert pair.n == parts[names].n


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("second", [False, True])
def test_values_that_are_not_finite_are_an_error(value: float, second: bool) -> None:
    broken = small_network(0)
    with torch.no_grad():
        broken.module.conv1.bias[0] = value  # type: ignore[union-attr]
    pair = (small_network(1), broken) if second else (broken, small_network(1))
    with pytest.raises(NetworkError, match=r"'relu1' of small-0 is NaN, infinite or too large"):
        cross_moments(*pair, digits())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([("conv1", "conv9")], "conv9"),
        (["conv1"], "give pairs"),
        ([], "empty"),
    ],
)
def test_mistakes_are_said(layers: list[tuple[str, str]], message: str) -> None:
    with pytest.raises((SettingsError, UnknownLayer), match=message):
        cross_moments(small_network(0), small_network(1), digits(), layers)


def test_information_of_pairs_is_that_of_all_rows_at_once() -> None:
    one, other = small_network(0), small_network(1)
    pairs = np.array([[0, 3], [2, 2], [3, 0]])
    information, control = pair_information(one, other, digits(), {("relu1", "relu1"): pairs}, bins=8)["relu1", "relu1"]
    tally = PairInformation(pairs, 8)
    order = np.random.default_rng(0).permutation(len(digits()))
    x, y = (values(net, "relu1", digits())[order].float().flatten(0, -2) for net in (one, other))
    tally.update(x, y)
    np.testing.assert_allclose(information.information, tally.result().information, atol=1e-3)
    assert information.rows == 90 * 64
    assert (control.information < information.information).all()


def test_the_information_of_a_pass_that_was_stopped_is_that_of_one(tmp_path: Path) -> None:
    one, other, pairs = small_network(1), small_network(2), {("relu1", "relu1"): np.array([[0, 0], [2, 3]])}

    def stop(label: str, done: int, total: int) -> None:
        if label == "mutual information" and done >= 64:
            raise KeyboardInterrupt

    whole = pair_information(one, other, digits(), pairs, bins=8)["relu1", "relu1"]
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, stop, every=0):
        pair_information(one, other, digits(), pairs, bins=8)
    begun: list[int] = []
    with workspace(tmp_path, lambda label, done, total: begun.append(done)):
        again = pair_information(one, other, digits(), pairs, bins=8)["relu1", "relu1"]
    assert begun[0] == 64
    for first, second in zip(whole, again, strict=True):
        for name, value in vars(first).items():
            np.testing.assert_array_equal(value, vars(second)[name])
