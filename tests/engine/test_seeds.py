"""Controls and random weights are nobody's own start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import netopsy
from netopsy.network.network import fresh
from netopsy.settings import stream


def build() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4))


def seeded(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return build()


def load(module: nn.Module) -> netopsy.Network:
    return netopsy.load_network(module, size=8, channels="L", mean=0, std=1)


def test_streams_differ_and_repeat() -> None:
    seeds = {stream(purpose, seed, draw) for purpose in ("weights", "start") for seed in range(50) for draw in range(5)}
    assert len(seeds) == 500
    assert min(seeds) >= 2**62  # beyond any seed that is typed
    assert max(seeds) < 2**63
    assert stream("weights", 3, 1) == stream("weights", 3, 1)


@pytest.mark.parametrize("seed", (0, 1, 42, 1234))
def test_weights_drawn_again_are_not_those_of_the_same_seed(seed: int) -> None:
    network = load(seeded(seed))
    draws = [fresh(network, seed, draw).tensors["0.weight"] for draw in range(3)]
    assert not any(torch.equal(weight, network.tensors["0.weight"]) for weight in draws)
    assert len({tuple(weight.flatten().tolist()) for weight in draws}) == 3
    assert torch.equal(draws[1], fresh(network, seed, 1).tensors["0.weight"])


def test_random_weights_are_not_those_of_a_users_seed() -> None:
    import torchvision

    torch.manual_seed(0)
    own = torchvision.models.squeezenet1_1().state_dict()
    drawn = netopsy.load_network("torchvision:squeezenet1_1", weights="random", seed=0).tensors
    assert not torch.equal(own["features.0.weight"], drawn["features.0.weight"])


def test_the_untrained_control_is_drawn_several_times() -> None:
    images = np.random.default_rng(3).random((60, 8, 8, 1)).astype("float32")
    samples = netopsy.load_samples((images, np.zeros(60, int)))
    network = load(seeded(0))  # untrained itself, from the seed of the study
    result = netopsy.correspondence(network, samples, other=load(seeded(1)), top=0, images=20, untrained_draws=4)
    draws = result.tables["draws"].filter(layer_a="1")
    row = result.tables["layers"].filter(layer_a="1", of="untrained").row(0, named=True)
    assert draws["draw"].to_list() == [0, 1, 2, 3]
    assert row["draws"] == 4
    for name in ("semi", "bipartite", "cka"):
        assert draws[name].n_unique() == 4
        assert row[name] == pytest.approx(float(draws[name].mean()))
        assert row[f"{name}_std"] == pytest.approx(float(draws[name].std()))
    assert draws["semi"].max() < 0.99
    assert "over 4 draws" in " ".join(result.findings)
