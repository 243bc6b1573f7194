"""Words and pictures on one sheet."""

from __future__ import annotations

import numpy as np
import pytest

from netopsy.pictures.mosaic import below, beside, caption


def test_a_caption_is_dark_on_white_and_as_wide_as_asked() -> None:
    free, narrow = caption("a layer's name"), caption("a layer's name" * 9, 120)
    assert free.shape[0] == narrow.shape[0] == 19 and narrow.shape[1] == 120
    for line in (free, narrow):
        assert line.min() < 80 and line.max() == 255 and (line[:, -2:] == 255).all()
    assert (caption("", 50) == 255).all()


@pytest.mark.parametrize("gap", [0, 5])
def test_parts_stand_under_or_beside_one_another_on_white(gap: int) -> None:
    a, b = np.full((4, 9, 3), 10, np.uint8), np.full((6, 3, 3), 20, np.uint8)
    under, side = below([a, b], gap), beside([a, b], gap)
    assert under.shape == (10 + gap, 9, 3) and side.shape == (6, 12 + gap, 3)
    assert (under[:4] == 10).all() and (under[4 + gap :, :3] == 20).all() and (under[4 + gap :, 3:] == 255).all()
    assert (side[:4, :9] == 10).all() and (side[:, 9 + gap :] == 20).all() and (side[4:, :9] == 255).all()
    assert (under[4 : 4 + gap] == 255).all() and (side[:, 9 : 9 + gap] == 255).all()
