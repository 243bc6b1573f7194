"""The backward flow through every classification network of torchvision, against autograd on the plain module."""

from __future__ import annotations

import gc

import pytest
import torch
import torchvision
from reference_backward import by_autograd

from netopsy import load_network
from netopsy.engine.backproject.backproject import trace
from netopsy.network.activations import activations
from netopsy.network.units import unit_nodes

_LARGE = 150e6  # parameters: in float64, with the graph and the twin, more than a small machine holds
NAMES = torchvision.models.list_models(module=torchvision.models)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_flow_is_autograds(name: str) -> None:
    network = load_network(f"torchvision:{name}", weights="random")
    if network.parameters > _LARGE:
        pytest.skip(f"{network.parameters:,} parameters")
    network.to(torch.float64)
    image = torch.randn(1, *network.preprocessing.input_shape, dtype=torch.float64)
    # a logit against the module itself: nothing of the graph is in the oracle
    (map_,) = trace(network, image, [(network.output, 7)], "gradient").maps
    leaf = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network.module(leaf)[0, 7], leaf)
    torch.testing.assert_close(map_, expected[0], rtol=1e-6, atol=1e-9 * float(expected.abs().max()))
    # a unit in the middle, cut to its field, under a rule
    nodes = list(unit_nodes(network))
    node = nodes[len(nodes) // 2]
    rule = "guided" if set(activations(network, mixing=False)) & set(nodes[: len(nodes) // 2]) else "gradient"
    middle = [n // 2 for n in network.nodes[node].full_shape[1:]]
    maps = network.nodes[node].channel_axis == 1
    unit = (node, *middle) if maps else (node, middle[-1], *middle[:-1])
    (map_,) = trace(network, image, [unit], rule).maps  # type: ignore[arg-type]
    expected = by_autograd(network, image, (node, *middle), rule)
    torch.testing.assert_close(map_, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))
    del network, map_, expected
    gc.collect()
