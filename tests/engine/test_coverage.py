"""Real architectures: their layers, their multiply-accumulates, and which studies can treat them."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from netopsy.network.listing import list_layers, other_parameters
from netopsy.network.macs import graph_macs
from netopsy.network.sources.load import load_network
from netopsy.studies.table import STUDIES
from treatable import obstacles

FEW = ["torchvision:squeezenet1_1", "timm:test_vit", "timm:test_convnext"]


def check(name: str) -> None:
    """The table has each weight of the module once, and its products are those that torch counts."""
    network = load_network(name, weights="random")
    table = list_layers(network)
    listed = set(table["layer"].to_list())
    modules = network.module.named_modules()
    apart = ("aux", "AuxLogits")  # run in training alone
    used = {n for n, m in modules if isinstance(m, nn.Conv2d | nn.Linear) and not n.startswith(apart)}
    used = {n for n in used if ".cpb_mlp." not in n}  # Swin v2 makes its position biases of constants, not of the image
    attention = {n for n, m in network.module.named_modules() if isinstance(m, nn.MultiheadAttention)}
    assert used <= listed and {f"{n}.in_proj" for n in attention} <= listed
    assert sum(other_parameters(network).values()) + table["parameters"].sum() == network.parameters
    network.module.requires_grad_(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            network.module(torch.zeros(1, *network.preprocessing.input_shape))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert graph_macs(network.program.nodes) == counter.get_total_flops() // 2
    assert obstacles(network, "parameters") is None


@pytest.mark.parametrize("name", FEW)
def test_layers_and_macs_of_a_few(name: str) -> None:
    check(name)


def test_what_studies_say_of_a_transformer() -> None:
    network = load_network("timm:test_vit", weights="random")
    reasons = {study: obstacles(network, study) for study in STUDIES}
    assert reasons.pop("sparsity", "No activation").startswith("No activation")  # type: ignore[union-attr]
    assert not any(reasons.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_classification_network_of_torchvision(name: str) -> None:
    check(f"torchvision:{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(timm.list_models("test_*")))
def test_the_test_networks_of_timm(name: str) -> None:
    check(f"timm:{name}")
