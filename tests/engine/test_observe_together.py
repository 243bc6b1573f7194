"""Tallies over several nodes, of one network or two: against a loop by hand, stopped, in parts, and side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import netopsy
from netopsy import Network, Preprocessing, Samples, observe, workspace
from netopsy.engine.observe.observe import observe_ahead
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.tallies import LABELS, Moments, Tally, ZeroShare
from networks import branching, branching_values, noise_images, shipped
from processes import Stop, stopping


@pytest.fixture(scope="module")
def network() -> Network:
    return branching(0)


@pytest.fixture(scope="module")
def other() -> Network:
    """Another network, which sees the images otherwise."""
    return branching(1, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def samples() -> Samples:
    return noise_images(50, 12, 4)


class Kept(Tally):
    """All rows of all values, flattened, side by side; with the samples' indices in front."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None

    def update(self, values: tuple[Tensor, ...], indices: Tensor) -> None:
        assert isinstance(values, tuple)
        rows = torch.cat([indices[:, None].double(), *(v.reshape(len(v), -1).double() for v in values)], 1)
        self.rows = rows if self.rows is None else torch.cat([self.rows, rows])

    def merge(self, other: Kept) -> None:
        if other.rows is not None:
            self.rows = other.rows if self.rows is None else torch.cat([self.rows, other.rows])

    def result(self) -> Tensor:
        return torch.zeros(0, 0) if self.rows is None else self.rows


def means(maps: Tensor) -> Tensor:
    """Of each channel over its places, in double precision."""
    return maps.flatten(2).mean(2).double()


class Products(Tally):
    """Sum of products of the channel means of two maps."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def update(self, values: tuple[Tensor, Tensor], indices: Tensor) -> None:
        a, b = map(means, values)
        self.total = a.T @ b if self.total is None else self.total + a.T @ b

    def merge(self, other: Products) -> None:
        if other.total is not None:
            self.total = other.total if self.total is None else self.total + other.total

    def result(self) -> Tensor:
        assert self.total is not None
        return self.total


def test_nodes_that_a_later_step_overwrites_are_shown_whole(network: Network, samples: Samples) -> None:
    """`bn` and `add` are overwritten by their ReLUs when nobody keeps them."""
    nodes = ("bn", "relu", "add", "relu_1", "head")
    rows = observe(network, samples, {"all": (nodes, Kept())}, batch_size=8)["all"]
    values = branching_values(network, samples, 8)
    expected = [values[name].flatten(1).double() for name in nodes]
    assert torch.equal(rows[:, 0], torch.arange(50).double())
    assert torch.allclose(rows[:, 1:], torch.cat(expected, 1), atol=1e-5)
    assert (rows[:, 1 : 1 + 6 * 144] < 0).any(), "the operand of a ReLU was shown after it was overwritten"


def test_a_pair_of_nodes_is_what_a_loop_by_hand_gives(network: Network, samples: Samples) -> None:
    pairs = {"pair": (("relu", "relu_1"), Products()), "alone": ("relu", Moments())}
    results = observe(network, samples, pairs, batch_size=8)
    values = branching_values(network, samples, 8)
    expected = means(values["relu"]).T @ means(values["relu_1"])
    assert torch.allclose(results["pair"], expected, rtol=1e-6)
    assert torch.equal(
        results["alone"].mean, observe(network, samples, {"m": ("relu", Moments())}, batch_size=8)["m"].mean
    )


def test_two_networks_see_the_same_samples_each_in_its_own_way(
    network: Network, other: Network, samples: Samples
) -> None:
    tallies = {
        "two": (("relu_1", (other, "relu_1")), Products()),
        "other": ((other, "relu"), Moments()),
        "inputs": (("input", (other, "input")), Kept()),
        "itself": (((network, "relu"), "relu"), Products()),
    }
    results = observe(network, samples, tallies, batch_size=8)
    values, others = (branching_values(one, samples, 8) for one in (network, other))
    expected = means(values["relu_1"]).T @ means(others["relu_1"])
    assert torch.allclose(results["two"], expected, rtol=1e-6)
    alone = observe(other, samples, {"m": ("relu", Moments())}, batch_size=8)["m"]
    assert torch.equal(results["other"].mean, alone.mean)
    assert not torch.equal(results["inputs"][:, 1:433], results["inputs"][:, 433:])
    assert torch.equal(results["itself"], results["itself"].T)


def test_labels_come_as_values_do(network: Network, samples: Samples) -> None:
    rows = observe(network, samples, {"r": (("head", LABELS), Kept())}, batch_size=8)["r"]
    assert rows[:, -1].tolist() == samples.labels.tolist()


def test_samples_are_visited_in_the_order_given(network: Network, samples: Samples) -> None:
    order = [7, 3, 3, 49, 0]
    rows = observe(network, samples, {"r": (("head", LABELS), Kept())}, order=order, batch_size=2)["r"]
    every = observe(network, samples, {"r": (("head", LABELS), Kept())}, batch_size=2)["r"]
    assert rows[:, 0].tolist() == order and torch.allclose(rows, every[order], atol=1e-6)


def test_folding_the_norms_changes_rounding_only(network: Network, samples: Samples) -> None:
    norm, folded = (
        observe(network, samples, {"m": ("relu", Moments())}, folded=folded)["m"].mean for folded in (False, True)
    )
    assert torch.allclose(norm, folded, rtol=1e-4, atol=1e-6)


def pairs_of(other: Network) -> dict:
    return {"two": (("relu_1", (other, "relu_1")), Products()), "rows": (("head", LABELS), Kept())}


def test_a_stopped_pass_over_two_networks_goes_on(
    network: Network, other: Network, samples: Samples, tmp_path: Path
) -> None:
    order = np.random.default_rng(1).permutation(50)
    whole = observe(network, samples, pairs_of(other), batch_size=8, order=order)
    with pytest.raises(Stop), workspace(tmp_path, stopping(24), every=0):
        observe(network, samples, pairs_of(other), batch_size=8, order=order)
    calls: list[int] = []
    with workspace(tmp_path, lambda _label, done, _total: calls.append(done)):
        again = observe(network, samples, pairs_of(other), batch_size=8, order=order)
        assert calls[0] == 24 and all(torch.equal(whole[name], again[name]) for name in whole)
        for changed in (branching(2), Network("x", other.module, Preprocessing(size=(12, 12), scale=1.0))):
            calls.clear()
            observe(network, samples, pairs_of(changed), batch_size=8, order=order)
            assert calls[0] == 0, "the checkpoint of another second network was taken up"
        calls.clear()
        observe(network, samples, pairs_of(other), batch_size=8, order=order[::-1])
        assert calls[0] == 0, "the checkpoint of another order was taken up"


def test_parts_over_workers_are_one_pass(network: Network, samples: Samples) -> None:
    """Networks of the zoo, since a module of a test file cannot be found by a worker."""
    first, second = shipped("a"), shipped("b")
    digits = netopsy.load_samples("digits", count=120)
    order = np.random.default_rng(0).permutation(120)[:100]
    tallies = {"rows": ((first.output, (second, second.output), LABELS), Kept())}
    one = observe(first, digits, tallies, order=order, batch_size=8)
    with netopsy.workers(2, threads=1):
        many = observe(first, digits, tallies, order=order, batch_size=8)
    assert many["rows"][:, 0].tolist() == order.tolist() and torch.allclose(one["rows"], many["rows"], atol=1e-5)


@pytest.mark.parametrize("nodes", [(), ("relu", 3), ["relu", "head"], ("relu", ("x", "head")), None])
def test_what_is_no_node_is_explained(network: Network, samples: Samples, nodes: object) -> None:
    with pytest.raises(SettingsError, match=r"tally 'a' watches .* give \(node name, tally\)"):
        observe(network, samples, {"a": (nodes, Kept())})  # type: ignore[dict-item]


def test_a_node_of_the_other_network_that_is_not_there_is_named(
    network: Network, other: Network, samples: Samples
) -> None:
    with pytest.raises(UnknownLayer, match="no node 'rleu' in branching1; nearest: relu"):
        observe(network, samples, {"a": (("relu", (other, "rleu")), Kept())})


class Failing(Kept):
    def update(self, values: tuple[Tensor, ...], indices: Tensor) -> None:
        if 40 in indices:
            raise ArithmeticError("no")


def test_sets_counted_ahead_are_found_finished(network: Network, samples: Samples, tmp_path: Path) -> None:
    sets = [{"m": ("relu", Moments(4))}, {"m": ("relu_1", ZeroShare())}, {"bad": (("head",), Failing())}]
    alone = [observe(network, samples, tallies)["m"] for tallies in sets[:2]]  # type: ignore[arg-type]
    calls: list[int] = []
    with workspace(tmp_path, lambda _label, done, _total: calls.append(done)):
        observe_ahead(network, samples, sets)  # type: ignore[arg-type]
        assert calls == [0, 32, 50]
        calls.clear()
        ahead = [observe(network, samples, tallies)["m"] for tallies in sets[:2]]  # type: ignore[arg-type]
        assert calls == [50, 50], "a set that was counted ahead was counted again"
        with pytest.raises(ArithmeticError):
            observe(network, samples, sets[2])  # type: ignore[arg-type]
    for one, two in zip(alone, ahead, strict=True):
        torch.testing.assert_close(vars(one), vars(two), rtol=0, atol=0)


def test_sets_that_stopped_at_different_places_go_on_together(samples: Samples, tmp_path: Path) -> None:
    network = shipped("a")
    digits = netopsy.load_samples("digits", count=160)
    sets: list[dict] = [{"m": ("block5.relu3", Moments(4))}, {"z": ("block5.relu3", ZeroShare())}]
    whole = [observe(network, digits, tallies) for tallies in sets]
    with pytest.raises(Stop), workspace(tmp_path, stopping(64), every=0):
        observe(network, digits, sets[0])
    calls: list[int] = []
    with workspace(tmp_path, lambda _label, done, _total: calls.append(done)):
        observe_ahead(network, digits, sets)
        calls.clear()
        resumed = [observe(network, digits, tallies) for tallies in sets]
    assert calls == [160, 160]
    for one, two in zip(whole, resumed, strict=True):
        torch.testing.assert_close([vars(v) for v in one.values()], [vars(v) for v in two.values()], rtol=0, atol=0)
