"""The tallies against definitions, scipy and merging."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_tallies import buckets, moments, zeros
from torch import Tensor

from netopsy.engine.observe.tally import Tally
from netopsy.errors import SettingsError
from netopsy.tallies.moments import Histogram, Moments
from netopsy.tallies.sparsity import ZeroShare


def count(tally: Tally, values: Tensor, batch: int = 7) -> Tally:
    """`tally` after `values`, in batches."""
    for part, indices in zip(values.split(batch), torch.arange(len(values)).split(batch), strict=True):
        tally.update(part.clone(), indices)
    return tally


def check_moments(tally: Moments, values: Tensor, axis: int = 1, scale: float = 1.0, tolerance: float = 2e-5) -> None:
    """Within `tolerance`, relative for the variance, in standard deviations for the mean."""
    result, expected = tally.result(), moments(values, axis)
    spread = np.sqrt(expected["variance"])
    assert result.count == values.numel() // values.shape[axis]
    np.testing.assert_array_less(np.abs(result.mean.numpy() - expected["mean"]), tolerance * spread + 1e-12 * scale)
    np.testing.assert_allclose(result.variance.numpy(), expected["variance"], rtol=tolerance, atol=1e-30)
    np.testing.assert_array_equal(result.min.numpy(), expected["min"])
    np.testing.assert_array_equal(result.max.numpy(), expected["max"])
    if result.skewness is not None and result.kurtosis is not None:
        np.testing.assert_allclose(
            result.skewness.numpy(), expected["skewness"], rtol=tolerance * 20, atol=tolerance * 20
        )
        np.testing.assert_allclose(
            result.kurtosis.numpy(), expected["kurtosis"], rtol=tolerance * 50, atol=tolerance * 50
        )


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("shape", [(20, 5, 9, 9), (20, 5), (20, 5, 300), (6, 3, 80, 70)])
def test_moments_of_rectified_values_follow_their_definitions(shape: tuple[int, ...], order: int) -> None:
    values = torch.randn(shape).relu_()
    check_moments(count(Moments(order), values), values)


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("ratio", [1e1, 1e4, 1e5, 1e6])
def test_moments_hold_where_the_mean_dwarfs_the_spread(ratio: float, order: int) -> None:
    values = (torch.rand(30, 4, 32, 32) * 3 + torch.tensor([1, -1, 2, 0.5]).view(4, 1, 1) * ratio).float()
    check_moments(count(Moments(order), values), values, scale=ratio)


def test_naive_float32_sums_would_have_failed_that_test() -> None:
    values = torch.rand(30, 4, 32, 32) * 3 + 1e4
    naive = (values.square().mean((0, 2, 3)) - values.mean((0, 2, 3)).square()).numpy()
    exact = moments(values)["variance"]
    assert (np.abs(naive / exact - 1) > 0.01).any()


def test_moments_follow_values_that_move_away_during_the_pass() -> None:
    """Dead at first, then far from zero, then another place still: each needs a shift of its own."""
    parts = [torch.zeros(14, 3, 8, 8), torch.randn(14, 3, 8, 8) + 1e5, torch.randn(14, 3, 8, 8) * 1e-2 - 40]
    values = torch.cat(parts)
    check_moments(count(Moments(4), values), values, scale=1e5)


def test_a_constant_channel_has_no_variance_and_no_skewness() -> None:
    values = torch.stack([torch.full((9, 6, 6), 0.1), torch.zeros(9, 6, 6)], 1)
    result = count(Moments(4), values).result()
    assert result.mean.tolist() == pytest.approx([float(np.float32(0.1)), 0.0], rel=1e-7)
    assert result.variance.tolist() == pytest.approx([0.0, 0.0], abs=1e-15)
    assert result.skewness is not None and math.isnan(result.skewness[1])


def test_long_planes_of_one_value_do_not_drift() -> None:
    """A float32 running sum of squares over 200,000 equal values drifts by more than 1e-4."""
    values = torch.full((2, 1, 400, 500), 0.1)
    values[:, :, ::2] = -0.1
    assert count(Moments(), values).result().variance[0] == pytest.approx(float(np.float32(0.1)) ** 2, rel=1e-6)


@pytest.mark.parametrize("make", [Moments, ZeroShare], ids=["moments", "sparsity"])
def test_channels_may_be_the_last_axis(make: Callable[..., Tally]) -> None:
    values = torch.randn(10, 50, 6).relu_()
    last, first = count(make(axis=-1), values).result(), count(make(), values.movedim(-1, 1).contiguous()).result()
    for name, value in vars(first).items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(getattr(last, name), value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(11, 4, 5, 5), (11, 4), (3, 2, 9)])
def test_sparsity_counts_zeros_one_by_one(shape: tuple[int, ...], threshold: float) -> None:
    values = torch.randn(shape).relu_() * torch.randint(-1, 2, shape)
    result = count(ZeroShare(threshold), values, batch=4).result()
    assert result.zeros.tolist() == zeros(values, threshold)
    assert result.seen == values.numel() // shape[1]
    assert result.share.tolist() == pytest.approx([z / result.seen for z in result.zeros.tolist()])


def test_negative_zero_is_zero_and_nan_is_not() -> None:
    values = torch.tensor([[0.0, math.nan], [-0.0, 1.0], [1e-45, 0.0]])
    assert count(ZeroShare(), values).result().zeros.tolist() == [2, 1]


def test_counts_are_exact_where_float32_cannot_count() -> None:
    values = torch.zeros(1, 1, 4100, 4100)
    assert count(ZeroShare(), values).result().zeros.tolist() == [4100 * 4100]


def test_softmax_sparsity_sees_probabilities() -> None:
    values = torch.tensor([[0.0, 5.0, 200.0], [0.0, 0.0, 0.0]])
    assert count(ZeroShare(softmax=True), values).result().zeros.tolist() == [0, 0, 0]
    assert count(ZeroShare(1e-3, softmax=True), values).result().zeros.tolist() == [1, 1, 0]


def test_histogram_counts_each_value_in_its_bucket() -> None:
    values = torch.randn(40, 3, 5, 5).mul(torch.logspace(-6, 6, 75).view(3, 5, 5))
    result = count(Histogram(None), values).result()
    expected = buckets(values.flatten().tolist())
    assert {
        (a, b): n for a, b, n in zip(*(x.tolist() for x in (result.left, result.right, result.count)), strict=True)
    } == (expected)
    assert (result.left.diff() > 0).all()


def test_histogram_holds_zeros_at_zero_and_infinities_at_the_ends() -> None:
    result = count(Histogram(None), torch.tensor([[0.0, 0.0, math.inf, -math.inf, 1.0]])).result()
    assert result.count.tolist() == [1, 2, 1, 1]
    assert result.left[1] == 0 and result.right[1] < 1e-38
    assert result.left[0] == -math.inf and result.right[-1] == math.inf


def test_sampled_histogram_takes_the_same_values_of_a_sample_whatever_the_batch() -> None:
    values = torch.randn(12, 16, 20, 20)
    a, b = (count(Histogram(500), values, batch).result() for batch in (1, 12))
    assert a.stride == 13 and torch.equal(a.count, b.count) and torch.equal(a.left, b.left)
    assert int(a.count.sum()) == 12 * math.ceil(6400 / 13)


TALLIES: dict[str, Callable[[], Tally]] = {
    "sparsity": ZeroShare,
    "moments": Moments,
    "four moments": lambda: Moments(4),
    "histogram": lambda: Histogram(64),
}


def check_same(one: object, other: object) -> None:
    for name, value in vars(one).items():
        value_of_other = getattr(other, name)
        if isinstance(value, Tensor) and value.dtype == torch.float64:
            torch.testing.assert_close(value_of_other, value, rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)
        elif isinstance(value, Tensor):
            assert torch.equal(value_of_other, value), name
        else:
            assert value_of_other == value, name


@pytest.mark.parametrize("kind", TALLIES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_merged_tallies_equal_one_pass(kind: str, data: st.DataObject) -> None:
    """Any split into parts, merged in any order, with offsets that need a shift; an empty part is neutral."""
    total = data.draw(st.integers(1, 24), "samples")
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=4), "cuts"))
    offset = data.draw(st.sampled_from([0.0, -0.5, 100.0, 1e4]), "offset")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed"))
    values = (torch.randn(total, 3, 6, 6, generator=generator) + 0.3).relu_() + offset
    bounds = [0, *cuts, total]
    parts = [values[a:b] for a, b in itertools.pairwise(bounds)]
    order = data.draw(st.permutations(range(len(parts))), "order")
    merged = TALLIES[kind]()
    for position in order:
        part = TALLIES[kind]()
        merged.merge(count(part, parts[position], 5) if len(parts[position]) else part)
    check_same(count(TALLIES[kind](), values, 9).result(), merged.result())


@pytest.mark.parametrize("kind", TALLIES)
def test_merging_leaves_the_other_tally_as_it_was(kind: str) -> None:
    one, other = (count(TALLIES[kind](), torch.randn(9, 3, 4, 4) + 50) for _ in range(2))
    before = copy.deepcopy(other.result())
    empty = TALLIES[kind]()
    empty.merge(other)
    empty.merge(one)
    check_same(before, other.result())


@pytest.mark.parametrize("kind", TALLIES)
def test_a_restored_tally_goes_on_bit_for_bit(kind: str) -> None:
    values = torch.randn(20, 3, 6, 6) + 5
    whole = count(TALLIES[kind](), values, 5)
    stopped, resumed = count(TALLIES[kind](), values[:10], 5), TALLIES[kind]()
    resumed.restore({name: value.clone() for name, value in stopped.state().items()})
    assert vars(resumed).keys() == vars(whole).keys()
    for name, value in count(resumed, values[10:], 5).state().items():
        assert torch.equal(value, whole.state()[name]), name


@pytest.mark.parametrize("kind", TALLIES)
def test_an_empty_tally_has_an_empty_result(kind: str) -> None:
    assert all(v.numel() == 0 for v in vars(TALLIES[kind]().result()).values() if isinstance(v, Tensor))


@pytest.mark.parametrize(
    "make", [lambda: Moments(3), lambda: ZeroShare(-1), lambda: ZeroShare(math.nan), lambda: Histogram(0)]
)
def test_settings_out_of_range_are_refused(make: Callable[[], Tally]) -> None:
    with pytest.raises(SettingsError, match="must be"):
        make()
