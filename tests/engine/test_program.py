"""The records of a network: what they say, that asking changes nothing, and that they travel."""

from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
import torchvision
from test_sweep import make_network
from torch import Tensor, nn

import netopsy
from netopsy.blocks.find import list_blocks
from netopsy.engine.interpreter import plan
from netopsy.network.activations import activations
from netopsy.network.listing import list_layers
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.units import channels, places, unit_nodes
from netopsy.network.windows.field import receptive_field

SOURCE = Path(netopsy.__file__).parent
# the export, the reading of it, and modules that keep the names of the nodes that they were made from
READERS = {f"network/{name}.py" for name in ("graph", "canonical", "capture", "origins", "program")}


class Tokens(nn.Module):
    """Attention with the batch in the second axis, windows that mix the batch with places, a split, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.mix = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).permute(2, 0, 1)
        x = x + self.mix(x, x, x)[0]
        left, right = x.transpose(0, 1).reshape(-1, 2, 8).chunk(2, 1)
        x = (left + right * torch.tensor([0.5])).reshape(-1, 8, 8)
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def tokens() -> Network:
    torch.manual_seed(0)
    return Network("tokens", Tokens(), Preprocessing(size=(16, 16)))


@pytest.fixture(scope="module", params=["residual", "tokens", "swin"])
def network(request: pytest.FixtureRequest, tokens: Network) -> Network:
    if request.param == "swin":
        torch.manual_seed(0)
        swin = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 4], [2, 2], num_classes=5)
        return Network("swin", swin, Preprocessing(size=(16, 16)))
    return tokens if request.param == "tokens" else make_network()


def values(network: Network, batch: int) -> dict[str, Tensor]:
    """What every node gives for a batch of `batch`."""
    by_node: dict[str, Tensor] = {}
    whole = plan(network, [network.output], watched=list(network.nodes))
    images = torch.randn(batch, *network.preprocessing.input_shape, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        whole.run({"input": images}, batch=batch, visit=lambda name, value: by_node.update({name: value.clone()}))
    return by_node


def test_records_say_the_shape_and_type_that_a_run_gives(network: Network) -> None:
    one, three = values(network, 1), values(network, 3)
    for name, node in network.nodes.items():
        assert node.full_shape == tuple(one[name].shape), name
        assert node.dtype == one[name].dtype
        grown = [i for i, (a, b) in enumerate(zip(one[name].shape, three[name].shape, strict=True)) if a != b]
        counts = len(grown) == 1 and three[name].shape[grown[0]] == 3
        assert node.batch_axis == (grown[0] if counts else None), name
        assert node.shape == (tuple(one[name].shape)[1:] if node.per_sample else node.full_shape)


def test_the_batch_is_found_in_any_axis(tokens: Network) -> None:
    axes = {node.batch_axis for node in tokens.nodes.values()}
    assert {0, 1, None} < axes  # images first; tokens first; windows of several images in one axis


def test_inputs_and_users_are_each_others(network: Network) -> None:
    nodes = network.program.nodes
    for position, node in enumerate(nodes):
        assert all(operand in nodes[:position] for operand in node.inputs)
        assert all(node in user.inputs for user in node.users)
        assert all(node in operand.users for operand in node.inputs)
    assert nodes[-1] is network.program.output and network.program.output.op == "output"


def test_a_node_names_its_layer_and_what_it_reads(tokens: Network) -> None:
    head = tokens.node("head")
    assert head.parameters == ("head.weight", "head.bias") and head.weight == "head.weight" and head.layer == "head"
    assert tokens.nodes["input"].layer == "" and tokens.nodes["patch"].layer == "patch"
    assert {layer.name: layer.nodes for layer in tokens.layers} == {
        layer.name: tuple(n.name for n in tokens.nodes.values() if n.weight == layer.weight) for layer in tokens.layers
    }


def test_a_record_cannot_be_changed(tokens: Network) -> None:
    node: Any = tokens.node("head")
    with pytest.raises(dataclasses.FrozenInstanceError):
        node.full_shape = (2, 5)
    with pytest.raises((TypeError, NotImplementedError, RuntimeError)):
        node.kwargs["bias"] = None


QUESTIONS: list[Callable[[Network], Any]] = [
    lambda network: [repr(node) for node in network.program.nodes],
    lambda network: [repr(receptive_field(network, name)) for name in network.nodes],
    lambda network: list_layers(network).write_json(),
    lambda network: list_blocks(network).write_json(),
    lambda network: [(name, channels(node), places(node)) for name, node in unit_nodes(network).items()],
    lambda network: list(activations(network)),
    lambda network: network.classes,
    lambda network: [list(map(str, plan(network, [name], folded=True).targets)) for name in network.nodes],
]


def metadata(network: Network) -> list[dict[str, str]]:
    return [{key: str(value) for key, value in node.meta.items()} for node in network.graph.graph.nodes]


def test_asking_changes_nothing_and_answers_do_not_depend_on_the_order(network: Network) -> None:
    """Backwards, each question is asked before every other that was asked before it."""
    again = Network("again", network.module, network.preprocessing)
    expected, before = [ask(network) for ask in QUESTIONS], metadata(again)
    assert [ask(again) for ask in reversed(QUESTIONS)] == expected[::-1]
    assert metadata(again) == before and any("val" in entry for entry in before)


@pytest.mark.parametrize("send", [pickle, cloudpickle])
def test_the_program_travels_with_its_network(network: Network, send: Any) -> None:
    expected = values(network, 2)
    arrived = pickle.loads(send.dumps(network))
    assert "graph" not in vars(arrived)
    by_node = values(arrived, 2)
    assert list(by_node) == list(expected) and all(torch.equal(by_node[name], expected[name]) for name in by_node)
    assert "graph" not in vars(arrived)  # an export takes seconds
    assert [repr(node) for node in arrived.program.nodes] == [repr(node) for node in network.program.nodes]


def test_a_deep_program_travels() -> None:
    """A pickle that followed the inputs would go four calls deeper a node, and stop at 1,000."""
    deep = Network("deep", nn.Sequential(*(nn.ReLU() for _ in range(400)), nn.Flatten()), Preprocessing(size=(2, 2)))
    assert len(pickle.loads(pickle.dumps(deep)).nodes if deep.nodes else ()) == 402


def test_a_copy_with_other_weights_has_the_same_program(network: Network) -> None:
    layer, before = network.layers[-1], values(network, 2)
    other = network.with_tensors({layer.weight: torch.zeros(layer.weight_shape)})
    assert other.program is network.program and other.nodes[layer.nodes[-1]] is network.nodes[layer.nodes[-1]]
    assert torch.count_nonzero(values(other, 2)[other.output] - before[network.output])
    with torch.no_grad():
        images = torch.randn(2, *network.preprocessing.input_shape)
        run = plan(other, [other.output]).run({"input": images}, batch=2)[other.output]
        assert torch.equal(run, copy.deepcopy(other.module)(images))


def test_metadata_of_the_export_is_read_in_one_place() -> None:
    for path in SOURCE.rglob("*.py"):
        if str(path.relative_to(SOURCE)) not in READERS:
            reads = [
                n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute) and n.attr == "meta"
            ]
            assert not reads, f"{path}:{reads[0].lineno} reads the export's metadata; ask the record of the node"


def test_nodes_are_equal_only_where_they_are_one() -> None:
    assert Node("a", "call_function", "relu", None) != Node("a", "call_function", "relu", None)
