"""The export: names, functional operators, tied weights, modules called twice, values that are no tensor."""

from __future__ import annotations

import pytest
import torch
import torchvision
from test_sweep import make_network
from torch import Tensor, nn

from netopsy.engine.interpreter import plan
from netopsy.errors import NetworkError
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing

SMALL = Preprocessing(size=(64, 64))


@pytest.fixture(scope="module")
def residual() -> Network:
    return make_network()


def test_names_follow_the_module_path(residual: Network) -> None:
    names = list(residual.nodes)
    assert names[0] == "input"
    assert [name for name in names if name.startswith("twice")] == ["twice", "twice_1"]  # one module, two calls
    assert {"stem", "norm", "split", "depthwise", "norm2", "first", "second", "fc"} <= set(names)
    assert {"relu", "cat"} <= {name.split("_")[0] for name in names}  # functional calls have their operator's name
    assert len(names) == len(set(names))


def test_graph_is_functional(residual: Network) -> None:
    for node in residual.graph.graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "_schema"):
            assert not node.target._schema.is_mutable, node


def test_in_place_functional_and_module_activations_are_one_operator() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.act((x - 1).relu_() + torch.nn.functional.relu(x)).mean((2, 3))

    network = Network("three", Three(), SMALL)
    kinds = [node.operator for node in network.nodes.values() if node.op == "call_function"]
    assert kinds.count("relu") == 3 and "relu_" not in kinds


def test_tied_weights_are_one_layer_with_the_first_name(residual: Network) -> None:
    layer = residual.layer("first")
    assert layer.nodes == ("first", "second")
    assert "second.weight" not in residual.tensors
    assert residual.layer("twice").nodes == ("twice", "twice_1")
    assert [layer.name for layer in residual.layers] == ["stem", "twice", "split", "depthwise", "first", "fc"]


def test_values_that_are_no_tensor_are_no_nodes_but_their_parts_are(residual: Network) -> None:
    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            values, places = x.flatten(2).max(2)
            return values + places

    network = Network("largest", Largest(), SMALL)
    pairs = [n for n in network.program.nodes if n.operator == "max" and n.op == "call_function"]
    assert len(pairs) == 1 and pairs[0].name not in network.nodes
    assert len([name for name in network.nodes if "getitem" in name]) == 2
    assert all(node.is_tensor for node in residual.nodes.values())


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", pytest.param("googlenet", marks=pytest.mark.slow)])
def test_exported_torchvision_networks_compute_what_the_module_does(name: str) -> None:
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    network = Network(name, torchvision.models.get_model(name, weights=None, **options), SMALL)
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        out = plan(network, [network.output]).run({"input": x}, batch=3)[network.output]
        torch.testing.assert_close(out, network.module(x))
    weights = [n for n, m in network.module.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert {layer.name for layer in network.layers} == set(weights)
    assert set(weights) <= set(network.nodes)
    norms = [n for n, m in network.module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(network.nodes[norm].operator == "batch_norm" for norm in norms)


def test_a_forward_that_depends_on_the_data_is_refused() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))

    with pytest.raises(NetworkError, match="Branch cannot be exported"):
        _ = Network("branch", Branch(), SMALL).graph
