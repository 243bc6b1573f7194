"""Pictures from the network's input space."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from netopsy import Preprocessing, Samples
from netopsy.pictures.mosaic import draw_frame, fit_side, map_pictures, pictures
from netopsy.samples.images import ArrayImages
from netopsy.stats.describe import spread_indices

CAFFE = Preprocessing(size=(6, 7), mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), channels="BGR", scale=1.0)
USUAL = Preprocessing(size=(6, 7), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize("preprocessing", [CAFFE, USUAL])
def test_pictures_undo_the_preprocessing(preprocessing: Preprocessing) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    samples = Samples("noise", ArrayImages(pixels), np.zeros(5, np.int64), ("a",))
    (batch,) = samples.batches(preprocessing, 5)
    np.testing.assert_array_equal(pictures(batch.images, preprocessing), pixels)


def test_gray_becomes_three_equal_channels() -> None:
    gray = Preprocessing(size=(2, 2), mean=(0.0,), std=(1.0,), channels="L")
    shown = pictures(torch.tensor([[[[0.0, 1.0], [0.4, 2.0]]]]), gray)
    assert shown.shape == (1, 2, 2, 3) and shown[0, :, :, 2].tolist() == [[0, 255], [102, 255]]


def test_maps_have_zero_at_mid_gray_and_their_largest_at_the_end() -> None:
    maps = torch.zeros(2, 3, 6, 7)
    maps[0, 2, 1, 1], maps[0, 0, 2, 2] = -4.0, 2.0
    shown = map_pictures(maps, CAFFE)
    assert (shown[1] == 128).all() and shown[0, 1, 1].tolist() == [1, 128, 128]  # the last channel of BGR is red
    assert shown[0, 2, 2].tolist() == [128, 128, 192]


def test_clipping_draws_the_rest_stronger() -> None:
    maps = torch.full((1, 3, 10, 10), 0.5)
    maps[0, 0, 0, 0] = 50.0
    plain, clipped = (map_pictures(maps, USUAL, clip=c)[0, 5, 5, 0] for c in (0.0, 0.01))
    assert plain == 129 and clipped == 255


def test_a_frame_is_drawn_on_a_copy_inside_the_box() -> None:
    picture = np.zeros((8, 9, 3), np.uint8)
    marked = draw_frame(picture, (2, 3, 6, 8), (9, 9, 9))
    assert not picture.any() and marked[2:6, 3:8].any(2).sum() == 14 and not marked[3:5, 4:7].any()


@pytest.mark.parametrize("shape, side, expected", [((8, 4, 3), 32, (32, 16, 3)), ((30, 90), 30, (10, 30))])
def test_a_fitted_picture_has_its_longer_side_as_asked(
    shape: tuple[int, ...], side: int, expected: tuple[int, ...]
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    shown = fit_side(picture, side)
    assert shown.shape == expected and fit_side(picture[:1], 1).shape[:2] == (1, 1)
    if side > max(shape):
        np.testing.assert_array_equal(shown, picture.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 50])
@pytest.mark.parametrize("most", [0, 1, 2, 5, 7])
def test_spread_indices_are_distinct_and_reach_both_ends(count: int, most: int) -> None:
    indices = spread_indices(count, most)
    assert len(indices) == min(count, most) and sorted(set(indices)) == indices
    if most > 1 and count > 1:
        assert (indices[0], indices[-1]) == (0, count - 1) and np.ptp(np.diff(indices)) <= 1
