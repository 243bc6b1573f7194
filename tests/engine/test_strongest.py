"""The tally of the strongest images: against a slow twin, in any order, in any number of parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_strongest import strongest
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.tallies.top_images import TopImages, TopImagesResult, telling_units

INF = float("inf")


def entries(tally: TopImages) -> list[list[tuple[float, int, int]]]:
    result = tally.result()
    parts = (result.values.tolist(), result.images.tolist(), result.places.tolist())
    return [list(zip(*rows, strict=True)) for rows in zip(*parts, strict=True)]


def counted(values: Tensor, k: int = 3, batch: int = 4, axis: int = 1, order: Tensor | None = None) -> TopImages:
    tally = TopImages(k, axis)
    order = torch.arange(len(values)) if order is None else order
    for part in order.split(batch):
        tally.update(values[part], part)
    return tally


@pytest.mark.parametrize("levels", [2, 5, 10**6])
@pytest.mark.parametrize("shape", [(6, 7, 5), (40, 30, 40), (3, 1, 1), (4,)])
def test_entries_are_those_of_the_slow_twin(shape: tuple[int, ...], levels: int) -> None:
    """Few levels make many ties."""
    generator = torch.Generator().manual_seed(levels)
    values = torch.randint(-levels, levels, (11, *shape), generator=generator).float() / 2
    expected = strongest(values.flatten(2).numpy() if len(shape) > 1 else values[..., None].numpy(), range(11), 3)
    assert entries(counted(values)) == expected
    assert entries(counted(values, order=torch.randperm(11, generator=generator))) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 5), st.integers(0, 10**6))
def test_merging_halves_equals_one_pass(images: int, cut: int, k: int, seed: int) -> None:
    values = torch.randint(0, 3, (images, 4, 6), generator=torch.Generator().manual_seed(seed)).float()
    cut, every = min(cut, images), torch.arange(images)
    first, second = counted(values, k, order=every[:cut]), counted(values, k, order=every[cut:])
    other = counted(values, k, order=every[cut:])
    other.merge(counted(values, k, order=every[:cut]))
    first.merge(second)
    whole = counted(values, k) if images else TopImages(k)
    assert entries(first) == entries(other) == entries(whole)


def test_tokens_have_their_channels_last() -> None:
    values = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = strongest(values.transpose(1, 2).numpy(), range(7), 4)
    assert entries(counted(values, 4, axis=-1)) == expected


def test_fewer_images_leave_entries_empty() -> None:
    tally = counted(torch.tensor([[[1.0, 3.0]], [[2.0, 0.0]]]), 4)
    assert entries(tally) == [[(3.0, 0, 1), (2.0, 1, 0), (-INF, -1, -1), (-INF, -1, -1)]]


def test_nan_and_minus_infinity_never_enter_and_infinity_does() -> None:
    nan = float("nan")
    values = torch.tensor([[[nan, 1.0]], [[nan, nan]], [[-INF, -INF]], [[0.0, INF]], [[-0.0, -3.0]], [[0.0, -3.0]]])
    assert entries(counted(values, 5)) == [[(INF, 3, 1), (1.0, 0, 1), (0.0, 4, 0), (0.0, 5, 0), (-INF, -1, -1)]]


def test_half_integers_and_booleans_are_counted() -> None:
    assert entries(counted(torch.tensor([[1.5], [2.5]], dtype=torch.half), 1)) == [[(2.5, 1, 0)]]
    assert entries(counted(torch.tensor([[True], [False]]), 1)) == [[(1.0, 0, 0)]]
    assert entries(counted(torch.tensor([1.0, 4.0]), 1)) == [[(4.0, 1, 0)]]


def test_a_restored_state_goes_on() -> None:
    values = torch.randn(10, 3, 8, generator=torch.Generator().manual_seed(1))
    first = counted(values[:6])
    fresh = TopImages(3)
    fresh.restore({name: value.clone() for name, value in first.state().items()})
    fresh.update(values[6:], torch.arange(6, 10))
    assert entries(fresh) == entries(counted(values))


def test_the_state_is_twelve_bytes_an_entry_whatever_was_seen() -> None:
    tally = counted(torch.randn(50, 8, 5, 5), 9)
    size = sum(value.nbytes for value in tally.state().values() if value.ndim)
    assert size == 12 * 8 * 9


def test_an_empty_tally_is_neutral_and_k_is_checked() -> None:
    tally, values = TopImages(3), torch.randn(5, 2, 4)
    assert tally.result().values.shape == (0, 3)
    tally.merge(counted(values))
    tally.merge(TopImages(3))
    assert entries(tally) == entries(counted(values))
    with pytest.raises(SettingsError, match="at least 1"):
        TopImages(0)


@pytest.mark.parametrize("channel", [None, 2])
def test_the_strongest_at_a_place_merges_and_prefers_the_first_image(channel: int | None) -> None:
    values = torch.randn(30, 4, 3, 3)
    values[7, 2, 1, 1] = values[19, 2, 1, 1] = 9.0
    values[3, 1, 1, 1] = float("nan")
    whole, first, second = (TopImages(2, channel=channel, place=4) for _ in range(3))
    whole.update(values, torch.arange(30))
    first.update(values[:12], torch.arange(12))
    second.update(values[12:], torch.arange(12, 30))
    second.merge(first)
    plain = values[:, :, 1, 1].nan_to_num(-torch.inf)
    expected = plain.sort(dim=0, descending=True, stable=True)
    rows = slice(None) if channel is None else slice(channel, channel + 1)
    for tally in (whole, second):
        result = tally.result()
        assert torch.equal(result.values, expected.values[:2].T[rows])
        assert torch.equal(result.images, expected.indices[:2].T[rows]) and (result.places == 4).all()
    assert expected.indices[:2, 2].tolist() == [7, 19]


@pytest.mark.parametrize("axis", [1, -1])
def test_the_strongest_mean_has_no_place(axis: int) -> None:
    values = torch.randn(30, 4, 6, generator=torch.Generator().manual_seed(2))
    tally = TopImages(1, axis, mean=True)
    tally.update(values, torch.arange(30))
    best, image = values.mean(2 if axis == 1 else 1).max(0)
    result = tally.result()
    assert torch.allclose(result.values[:, 0], best) and torch.equal(result.images[:, 0], image)
    assert (result.places == -1).all()


def test_one_channel_alone_is_that_row_of_all() -> None:
    values = torch.randn(9, 5, 4, 3, generator=torch.Generator().manual_seed(3))
    alone, every = TopImages(4, channel=3), counted(values, 4)
    alone.update(values, torch.arange(9))
    assert entries(alone) == entries(every)[3:4]
    with pytest.raises(SettingsError, match="exclude one another"):
        TopImages(1, place=0, mean=True)


def test_rows_that_are_no_images_are_refused() -> None:
    with pytest.raises(SettingsError, match="8 rows came for 2 images"):
        TopImages(3).update(torch.zeros(8, 4, 5), torch.arange(2))


def test_telling_units_are_selective_ones_of_many_classes_from_the_last_node_up() -> None:
    labels = np.repeat(np.arange(4), 9)

    def node(kinds: list[int | None]) -> TopImagesResult:
        """Channels whose nine strongest images are all of one class, or of mixed ones."""
        rows = [np.arange(9) * 4 if kind is None else np.flatnonzero(labels == kind) for kind in kinds]
        values = torch.arange(9.0, 0.0, -1).expand(len(kinds), 9) + torch.arange(len(kinds))[:, None]
        return TopImagesResult(values, torch.from_numpy(np.stack(rows)), torch.zeros(len(kinds), 9).long())

    nodes = {"early": node([3, 2]), "late": node([0, None, 0, 1])}
    # within a node the strongest of a class first, then other classes from nodes before, then the rest
    assert telling_units(nodes, labels, 8) == [
        ("late", 3), ("late", 2), ("early", 1), ("early", 0), ("late", 0), ("late", 1),
    ]  # fmt: skip
    assert telling_units(nodes, labels, 3) == [("late", 3), ("late", 2), ("early", 1)]
    assert [unit for unit in telling_units(nodes, None, 2)] == [("late", 3), ("late", 2)]  # those that answer most
    assert telling_units({}, labels, 8) == []
