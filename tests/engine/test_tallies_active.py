"""The tallies `ActiveCount`, `Patterns` and `JointPatterns` against plain counting in numpy."""

from __future__ import annotations

import copy
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import Tensor

import netopsy
from netopsy import Network, Samples
from netopsy.engine.observe.tally import Tally
from netopsy.errors import SettingsError
from netopsy.tallies.patterns import JointPatterns, JointPatternsResult, Patterns, mix
from netopsy.tallies.sparsity import ActiveCount
from networks import shipped

SHAPES = [(40, 5, 6, 7), (40, 48, 3, 3), (40, 30), (40, 1, 9, 9), (40, 101, 2)]


def sample(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Values whose channels differ in how often they are on; some images are copies of others."""
    generator = torch.Generator().manual_seed(seed)
    ease = torch.randn(shape[1], generator=generator).view(1, -1, *[1] * (len(shape) - 2))
    values = (torch.randn(shape, generator=generator) + ease).relu_()
    values[7] = values[3] * 2
    values[20:23] = values[0]
    return values


def count(tally: Tally, values: Tensor, order: Tensor | None = None, batch: int = 6) -> Tally:
    order = torch.arange(len(values)) if order is None else order
    for indices in order.split(batch):
        tally.update(values[indices].clone(), indices)
    return tally


def masks(values: Tensor, threshold: float = 0.0) -> np.ndarray:
    """bool (image, channel, place)."""
    return (values.numpy() > threshold).reshape(*values.shape[:2], -1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_active_counts_are_those_of_plain_numpy(shape: tuple[int, ...], threshold: float) -> None:
    values = sample(shape)
    on = masks(values, threshold)
    result = count(ActiveCount(40, threshold), values).result()
    anywhere = on.any(2)
    assert result.images == 40 and result.places == on.shape[2]
    np.testing.assert_array_equal(result.by_channels, np.bincount(anywhere.sum(1), minlength=shape[1] + 1))
    np.testing.assert_array_equal(result.by_place, np.bincount(on.sum(1).ravel(), minlength=shape[1] + 1))
    np.testing.assert_array_equal(result.channel_images, anywhere.sum(0))
    shares = on.reshape(40, -1).mean(1)
    assert result.share_mean == pytest.approx(shares.mean(), abs=1e-12)
    assert result.share_variance == pytest.approx(shares.var(), abs=1e-12)
    edges = np.flatnonzero(result.by_share)
    assert result.by_share.sum() == 40 and edges[0] / 1000 <= shares.min() <= shares.max() <= (edges[-1] + 1) / 1000
    np.testing.assert_array_equal(result.record, np.stack([anywhere.sum(1), on.sum((1, 2))], 1))
    assert result.recorded.all()


def test_active_keeps_the_figures_of_evenly_spread_images_only() -> None:
    values = sample(SHAPES[0])
    result = count(ActiveCount(40, records=15), values).result()
    on = masks(values)
    np.testing.assert_array_equal(result.record[:, 1], on.sum((1, 2))[::3])
    assert len(result.record) == 14


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_patterns_and_only_those_have_equal_hashes(shape: tuple[int, ...]) -> None:
    values = sample(shape)
    result = count(Patterns(40), values).result()
    expected = Counter(mask.tobytes() for mask in masks(values))
    np.testing.assert_array_equal(result.indices, np.arange(40))
    assert sorted(Counter(result.images.tolist()).values()) == sorted(expected.values())
    for a, b in [(3, 7), (0, 20), (20, 22)]:
        assert result.images[a] == result.images[b]


def test_one_unit_anywhere_changes_the_hash_and_moving_a_pattern_does_too() -> None:
    """All 1,728 patterns with one unit on, the empty one, and pairs that a sum without order would confuse."""
    channels, places = 48, 36
    lone = torch.eye(channels * places).view(-1, channels, 6, 6)
    swapped = torch.zeros(2, channels, 6, 6)
    swapped[0, 3, 0, 0] = swapped[0, 40, 5, 5] = swapped[1, 40, 0, 0] = swapped[1, 3, 5, 5] = 1
    values = torch.cat([lone, torch.zeros(1, channels, 6, 6), swapped])
    result = count(Patterns(len(values)), values, batch=100).result()
    assert len(result.images.unique()) == len(values)


def test_the_patterns_of_drawn_places_are_those_of_the_channels_there() -> None:
    values = sample(SHAPES[0])
    result = count(Patterns(40, places=10**6), values).result()  # more than there are: every place is drawn
    expected = Counter(column.tobytes() for mask in masks(values) for column in np.ascontiguousarray(mask.T))
    assert len(result.places) == 40 * 42
    assert sorted(Counter(result.places.tolist()).values()) == sorted(expected.values())


@pytest.mark.parametrize(("places", "count_drawn"), [(100, 80), (40, 40), (39, 20), (7, 7), (1, 1)])
def test_no_more_places_are_drawn_than_asked_for(places: int, count_drawn: int) -> None:
    result = count(Patterns(40, places=places), sample(SHAPES[0])).result()
    assert len(result.places) == count_drawn <= places


def test_a_layer_without_places_draws_none() -> None:
    assert len(count(Patterns(40), sample((40, 30))).result().places) == 0


@pytest.mark.parametrize("kind", [ActiveCount, Patterns])
@pytest.mark.parametrize("shape", [SHAPES[0], (40, 30)])
def test_the_tallies_are_commutative_monoids(kind: type[ActiveCount] | type[Patterns], shape: tuple[int, ...]) -> None:
    values = sample(shape)
    whole = count(kind(40), values).state()
    shuffled = torch.randperm(40)
    parts = [count(kind(40), values, order) for order in shuffled.split([9, 20, 11])]

    def same(tally: Tally) -> None:
        assert tally.state().keys() == whole.keys()
        for name, value in tally.state().items():
            assert torch.allclose(value, whole[name], rtol=1e-12, atol=0), name

    for order in [(0, 1, 2), (2, 0, 1)]:
        merged = copy.deepcopy(parts[order[0]])
        for index in order[1:]:
            merged.merge(parts[index])
        same(merged)
    empty = kind(40)
    empty.merge(copy.deepcopy(parts[0]))  # type: ignore[arg-type]
    empty.merge(kind(40))  # type: ignore[arg-type]
    for index in (1, 2):
        empty.merge(parts[index])  # type: ignore[arg-type]
    same(empty)
    taken_up = kind(40)
    taken_up.restore(parts[0].state())
    for index in (1, 2):
        taken_up.merge(parts[index])  # type: ignore[arg-type]
    same(taken_up)


@pytest.mark.parametrize("kind", [ActiveCount, Patterns])
def test_tokens_are_counted_along_their_last_axis(kind: type[ActiveCount] | type[Patterns]) -> None:
    values = sample((40, 30, 4))
    tokens = values.transpose(1, 2).contiguous()
    first, second = count(kind(40), values).state(), count(kind(40, axis=-1), tokens).state()
    for name in first.keys() - {"axis"}:
        assert torch.equal(first[name], second[name]), name


def test_nan_is_neither_active_nor_on() -> None:
    values = sample(SHAPES[0])
    broken = values.clone()
    broken[broken == 0] = float("nan")
    for kind in (ActiveCount, Patterns):
        first, second = count(kind(40), values).state(), count(kind(40), broken).state()
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", [ActiveCount, Patterns])
def test_nothing_counted_gives_empty_results(kind: type[ActiveCount] | type[Patterns]) -> None:
    assert kind(3).state().keys() == {n for n, v in vars(kind(3)).items() if isinstance(v, int | float)}
    assert kind(3).result() is not None
    with pytest.raises(SettingsError, match="at least 1"):
        kind(0)


def test_mixing_keeps_distinct_numbers_distinct_and_is_splitmix() -> None:
    numbers = torch.cat([torch.arange(2**14), 1 << torch.arange(63), torch.tensor([-1, -(2**63)])])
    assert len(mix(numbers.unique()).unique()) == len(numbers.unique())
    assert mix(torch.tensor([0x9E3779B97F4A7C15 - 2**64])).item() % 2**64 == 0xE220A8397B1DCDAF  # SplitMix64, seed 0


UNITS = ((2, 0), (4,))


def two_nodes(images: int = 40) -> tuple[Tensor, Tensor]:
    """A map, and tokens with their channels last whose channel 4 follows the map's channel 2."""
    a, b = sample((images, 5, 3, 3)), sample((images, 7, 3, 3), seed=1)
    b[:, 4] = a[:, 2] * (torch.rand(images, 3, 3, generator=torch.Generator().manual_seed(2)) < 0.8)
    return a, b.flatten(2).mT


def joint(values: tuple[Tensor, Tensor], threshold: float, each_place: bool) -> np.ndarray:
    """bool (row, unit) by plain numpy."""
    a, b = masks(values[0], threshold), masks(values[1].mT, threshold)
    on = np.stack([a[:, 2], a[:, 0], b[:, 4]], 1)  # (image, unit, place)
    return np.moveaxis(on, 1, 2).reshape(-1, 3) if each_place else on.any(2)


def count_joint(tally: JointPatterns, values: tuple[Tensor, Tensor], part: slice = slice(None)) -> JointPatterns:
    for rows in torch.arange(len(values[0]))[part].split(7):
        tally.update(tuple(v[rows] for v in values), rows)
    return tally


@pytest.mark.parametrize("each_place", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_joint_patterns_are_those_of_plain_counting(each_place: bool, threshold: float) -> None:
    values = two_nodes()
    on = joint(values, threshold, each_place)
    tally = JointPatterns(UNITS, threshold, (1, -1), each_place=each_place)
    found = count_joint(tally, values).result()
    expected = Counter(map(tuple, on.tolist()))
    assert dict(zip(map(tuple, found.patterns.tolist()), found.counts.tolist(), strict=True)) == expected
    assert found.counts.tolist() == sorted(expected.values(), reverse=True) and found.rows == len(on)
    np.testing.assert_allclose(found.active, on.mean(0), atol=1e-12)
    shares = np.array(list(expected.values())) / len(on)
    assert found.entropy == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-12)
    information = [[mutual_info_score(one, other) for other in on.T] for one in on.T]
    np.testing.assert_allclose(found.information, information, atol=1e-12)
    codes = [mutual_info_score(np.packbits(on, axis=1)[:, 0], np.packbits(on, axis=1)[:, 0])]
    assert found.entropy == pytest.approx(codes[0], abs=1e-9)


@pytest.mark.parametrize("cuts", [(0, 40), (0, 13, 13, 40), (0, 1, 20, 40)])
def test_parts_of_joint_patterns_are_the_whole_in_any_order(cuts: tuple[int, ...]) -> None:
    values = two_nodes()
    whole = count_joint(JointPatterns(UNITS, axes=(1, -1)), values).result()
    merged = JointPatterns(UNITS, axes=(1, -1))
    for first, last in reversed(list(itertools.pairwise(cuts))):
        merged.merge(count_joint(JointPatterns(UNITS, axes=(1, -1)), values, slice(first, last)))
    resumed = JointPatterns(UNITS, axes=(1, -1))
    resumed.restore({name: value.clone() for name, value in merged.state().items()})
    for found in (merged.result(), resumed.result()):
        assert torch.equal(found.patterns, whole.patterns) and torch.equal(found.counts, whole.counts)


def joint_of_two_networks() -> tuple[Network, Network, Samples, JointPatternsResult]:
    """Two units of each shipped network on 100 digits."""
    one, other = shipped("a"), shipped("b")
    digits = netopsy.load_samples("digits", count=100)
    tallies = {"joint": (("block5.relu3", (other, "block5.relu3")), JointPatterns(((6, 1), (6, 2))))}
    return one, other, digits, netopsy.observe(one, digits, tallies, batch_size=10)["joint"]


@pytest.mark.slow
def test_joint_patterns_over_workers_are_those_of_one_pass() -> None:
    with netopsy.workers(2, threads=1):
        parts = joint_of_two_networks()[-1]
    whole = joint_of_two_networks()[-1]
    assert torch.equal(whole.patterns, parts.patterns) and torch.equal(whole.counts, parts.counts)


def test_joint_patterns_of_two_networks_in_one_pass() -> None:
    one, other, digits, whole = joint_of_two_networks()
    on = []
    with torch.inference_mode():
        for network, channels in ((one, [6, 1]), (other, [6, 2])):
            images = next(iter(digits.batches(network.preprocessing, 100))).images
            held: list[Tensor] = []
            handle = network.module.get_submodule("block5.relu3").register_forward_hook(
                lambda m, i, y, h=held: h.append(y)
            )
            network.module(images)
            handle.remove()
            on.append(masks(held[-1])[:, channels].any(2))
    expected = Counter(map(tuple, np.concatenate(on, 1).tolist()))
    assert dict(zip(map(tuple, whole.patterns.tolist()), whole.counts.tolist(), strict=True)) == expected


def test_many_joint_patterns_are_put_together_as_they_come() -> None:
    """More patterns than wait to be combined, each twice; 62 units."""
    rng = np.random.default_rng(0)
    on = rng.integers(0, 2, (9000, 62)).astype(np.float32)
    values = torch.from_numpy(np.concatenate([on, on[::-1]]).copy())
    tally = JointPatterns((tuple(range(62)),))
    for rows in torch.arange(len(values)).split(500):
        tally.update(values[rows], rows)
    found = tally.result()
    assert found.counts.tolist() == [2] * 9000 and set(map(tuple, found.patterns.tolist())) == set(map(tuple, on > 0))
    assert tally.codes is not None and len(tally.codes) < 18_000
    assert found.entropy == pytest.approx(np.log(9000))


def test_no_rows_have_no_joint_patterns_and_nan_is_not_active() -> None:
    empty = JointPatterns(((0, 1),)).result()
    assert empty.patterns.shape == (0, 2) and empty.rows == 0 and empty.active.isnan().all()
    values = torch.tensor([[float("nan"), 1.0], [0.0, -1.0]])
    tally = JointPatterns(((0, 1),))
    tally.update(values, torch.arange(2))
    assert tally.result().patterns.tolist() == [[False, False], [False, True]]
    assert tally.result().information.tolist() == [[0, 0], [0, pytest.approx(np.log(2))]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"channels": ()}, "channels name 0 units"),
        ({"channels": (range(63),)}, "channels name 63 units"),
        ({"channels": ((0,), (1,)), "axes": (1,)}, "an axis for each node"),
    ],
)
def test_units_of_joint_patterns_have_limits(settings: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        JointPatterns(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tally", "values", "said"),
    [
        (JointPatterns(((5,),)), torch.zeros(2, 5, 3, 3), r"channels \(5,\) must be 0 to 4"),
        (JointPatterns(((-1,),)), torch.zeros(2, 5), "must be 0 to 4"),
        (JointPatterns(((0,), (0,))), torch.zeros(2, 5), "of 2 nodes, but 1 are watched"),
        (
            JointPatterns(((0,), (0,)), each_place=True),
            (torch.zeros(2, 5, 3), torch.zeros(2, 5, 4)),
            "3, 4 places, so they cannot",
        ),
    ],
)
def test_nodes_that_joint_patterns_cannot_count(tally: JointPatterns, values: Tensor, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        tally.update(values, torch.arange(2))
