"""Patches: against slices of a padded image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from netopsy import Network, Preprocessing, Samples
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.windows.field import receptive_field
from netopsy.pictures.patches import patches, window
from netopsy.samples.images import ArrayImages

SIZE = 24


@pytest.fixture(scope="module")
def network() -> Network:
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 5, padding=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(5 * 12 * 12, 6),
    )  # fmt: skip
    return Network("test", layers, Preprocessing(size=(SIZE, SIZE), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))


class Counting(ArrayImages):
    """Images that say how often each was read."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.reads: list[int] = []

    def load(self, rows, preprocessing):  # type: ignore[no-untyped-def]
        self.reads += rows.tolist()
        return super().load(rows, preprocessing)


@pytest.fixture
def samples() -> Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (10, SIZE, SIZE, 3), np.uint8)
    return Samples("noise", Counting(pixels), np.zeros(10, np.int64), ("a", "b"))


def test_patches_are_slices_of_the_image_with_gray_around(network: Network, samples: Samples) -> None:
    pad = 16
    images, places = [3, 0, 3, 9], [0, 143, 7 * 12 + 5, 11]
    tiles = patches(network, samples, {"4": (images, places)})["4"]
    field = receptive_field(network, "4")
    side = int(field.size[0])
    assert tiles.shape == (4, side, side, 3)
    for patch, image, place in zip(tiles, images, places, strict=True):
        whole = np.pad(samples.image(image), [(pad, pad), (pad, pad), (0, 0)], constant_values=128)
        top, left = (int(start + 2 * k) + pad for start, k in zip(field.start, divmod(place, 12), strict=True))
        np.testing.assert_array_equal(patch, whole[top : top + side, left : left + side])


def test_a_neuron_sees_the_whole_image_and_tiles_are_bounded(network: Network, samples: Samples) -> None:
    tiles = patches(network, samples, {"6": ([2], [0])})["6"]
    np.testing.assert_array_equal(tiles[0], samples.image(2))
    assert patches(network, samples, {"6": ([2], [0])}, tile=8)["6"].shape == (1, 8, 8, 3)


def test_each_image_is_read_once_over_all_nodes(network: Network, samples: Samples) -> None:
    tiles = patches(
        network, samples, {"1": ([1, 4, 1], [0, 1, 2]), "4": (torch.tensor([4, -1]), torch.tensor([0, -1]))}
    )
    assert sorted(samples.records.reads) == [1, 4]  # type: ignore[attr-defined]
    assert (tiles["4"][1] == 128).all() and tiles["1"].shape == (3, 3, 3, 3)


def test_nothing_wanted_reads_nothing(network: Network, samples: Samples) -> None:
    assert patches(network, samples, {"1": ([], [])})["1"].shape == (0, 3, 3, 3)
    assert patches(network, samples, {"1": ([-1], [-1])})["1"].shape == (1, 3, 3, 3)


def test_mistakes_are_named(network: Network, samples: Samples) -> None:
    with pytest.raises(UnknownLayer):
        patches(network, samples, {"nope": ([0], [0])})
    with pytest.raises(SettingsError):
        patches(network, samples, {"4": ([0], [144])})


def test_places_of_tokens_that_no_field_tells_apart_show_the_whole_image(samples: Samples) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.token = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.zeros(1, 1, 8))
            self.act, self.head = nn.GELU(), nn.Linear(8, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            return self.head(self.act(torch.cat([self.token.expand(len(x), -1, -1), x], 1)))[:, 0]

    network = Network("tokens", Tokens(), Preprocessing(size=(SIZE, SIZE)))
    assert window(network, "act").size == (SIZE, SIZE)
    assert window(network, "embed").size == (8, 8)
    assert window(network, "embed").box(4) == (8, 8, 16, 16)
    np.testing.assert_array_equal(patches(network, samples, {"act": ([5], [9])})["act"][0], samples.image(5))
