"""What a checkpoint depends on, and single images by number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from netopsy import Network, Preprocessing, Samples
from netopsy.engine.workspace.workspace import conditions
from netopsy.errors import SettingsError
from netopsy.samples.images import ArrayImages
from netopsy.samples.samples import read_images

PLAIN = Preprocessing(size=(4, 4))


def opened(activation: nn.Module, preprocessing: Preprocessing = PLAIN) -> Network:
    torch.manual_seed(0)
    return Network("test", nn.Sequential(nn.Flatten(), nn.Linear(48, 3), activation), preprocessing)


def noise(seed: int) -> Samples:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 4, 3), np.uint8)
    return Samples("noise", ArrayImages(pixels), np.zeros(5, np.int64), ("a", "b"))


def test_conditions_differ_wherever_the_outcome_can() -> None:
    network, samples = opened(nn.ReLU()), noise(0)
    same = conditions(network, samples)
    assert same == conditions(opened(nn.ReLU()), noise(0)) and conditions(network)["samples"] is None
    other = [
        conditions(opened(nn.GELU()), samples),
        conditions(opened(nn.ReLU(), replace(PLAIN, mean=(0.1, 0.2, 0.3))), samples),
        conditions(network, noise(1)),
    ]
    with torch.no_grad():
        changed = opened(nn.ReLU())
        changed.module[1].weight[0, 0] += 1  # type: ignore[index]
    assert all(entry != same for entry in [*other, conditions(changed, samples)])


def test_images_are_read_in_the_order_of_their_numbers() -> None:
    network, samples = opened(nn.ReLU()), noise(0)
    (batch,) = samples.batches(network.preprocessing, 5)
    assert torch.equal(read_images(network, samples, [3, 0, 3]), batch.images[[3, 0, 3]])
    with pytest.raises(SettingsError, match="no image 5, -1 in noise; give 0 to 4"):
        read_images(network, samples, [5, 1, -1])
