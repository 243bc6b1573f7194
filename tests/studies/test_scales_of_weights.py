"""Weights of every scale through the studies that edit them: no NaN, no infinite loss, no traceback."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import netopsy
from netopsy.studies.prescribe.compensate import Rounder

IMAGES = np.random.default_rng(0).random((80, 8, 8, 1)).astype("float32")


def denormal_filter(w: Tensor) -> None:
    w[3] = 0
    w[3, 0, 0, 0] = 1e-44


KINDS: dict[str, Callable[[Tensor], object]] = {
    "a denormal filter": denormal_filter,
    "all denormal": lambda w: w.mul_(1e-42),
    "all tiny": lambda w: w.mul_(1e-30),
    "all equal": lambda w: w.fill_(0.02),
    "all zero": lambda w: w.zero_(),
    "one huge": lambda w: w[0, 0, 0, 0].fill_(1e30),
    "two values": lambda w: w.copy_(torch.where(w > 0, 0.1, -0.1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_study_gives_numbers(kind: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(384, 4),
    )
    with torch.no_grad():
        KINDS[kind](module[2].weight)
        labels = module(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).argmax(1).numpy()
    network = netopsy.load_network(module, size=8, channels="L", mean=0, std=1)
    samples = netopsy.load_samples((IMAGES, labels))
    formats = ("fp8_e4m3_tensor", "fp8_e5m2_channel", "int8_tensor", "int8_channel", "int6_channel", "int4_tensor")
    results = [
        netopsy.rounding(network, samples, formats=formats, decimals=(1, 4), one_layer_at_a_time=False),
        netopsy.noise(network, samples, repeats=1, strengths=(0.1,)),
        netopsy.codebook(network, samples, sizes=(4, 16), one_layer_at_a_time=False),
        netopsy.prescribe(network, samples, budget=30),
        netopsy.distributions(network),
    ]
    for result in results:
        for name, table in result.tables.items():
            for column in table.columns:
                if table[column].dtype.is_float():
                    assert np.isfinite(table[column].drop_nulls().to_numpy()).all(), (result.study, name, column)
    if kind in ("a denormal filter", "all denormal", "all tiny"):
        costs = results[0].tables["formats"].filter(layer="all")
        assert costs.filter(format="int8_channel")["drop"].item() < 0.1


@pytest.mark.parametrize("largest", (1.0, 1e8, 1e16))
def test_rounding_with_compensation_survives_inputs_of_very_different_size(largest: float) -> None:
    inputs = np.random.default_rng(1).standard_normal((200, 12)).astype(np.float32)
    inputs[:, 0] *= largest
    inputs[:, 1] = inputs[:, 0] * 1.0001
    products = (inputs.T @ inputs).astype(np.float64)
    weight = np.random.default_rng(2).standard_normal((5, 12)).astype(np.float32)
    _, upper = Rounder(weight, products)._upper()
    assert np.isfinite(upper).all()
    assert (np.diag(upper) > 0).all()
