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
READERS = {f"network/{name}.py" for name in ("graph", "canonical", "capture", "program")}
READERS.add("network/sources/torchvision.py")  # what torchvision says of its weights


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
        assert node.shape == tuple(n for i, n in enumerate(one[name].shape) if i != node.batch_axis)


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
    assert head.parameters == ("head.weight", "head.bias") and head.weights == ("head.weight",) and head.layer == "head"
    assert tokens.nodes["input"].layer == "" and tokens.nodes["patch"].layer == "patch"
    assert {layer.name: layer.nodes for layer in tokens.layers} == {
        layer.name: tuple(n.name for n in tokens.nodes.values() if layer.weight in n.weights) for layer in tokens.layers
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


def rows(x: Tensor) -> Tensor:
    return x.flatten(2)


SEVERAL: dict[str, Callable[[Tensor], Tensor]] = {
    "topk": lambda x: rows(x).topk(5, 2).values,
    "sort": lambda x: rows(x).sort(2)[0],
    "max": lambda x: rows(x).max(2).values,
    "min": lambda x: rows(x).min(2).values,
    "median": lambda x: rows(x).median(2).values,
    "nanmedian": lambda x: rows(x).nanmedian(2).values,
    "mode": lambda x: rows(x).mode(2).values,
    "kthvalue": lambda x: rows(x).kthvalue(3, 2).values,
    "cummax": lambda x: rows(x).cummax(2).values,
    "cummin": lambda x: rows(x).cummin(2).values,
    "aminmax": lambda x: sum(torch.aminmax(rows(x), dim=2)),
    "var_mean": lambda x: sum(torch.var_mean(rows(x), 2)),
    "std_mean": lambda x: sum(torch.std_mean(rows(x), 2)),
    "unbind": lambda x: sum(x.unbind(3)),
    "split": lambda x: x.split([2, 4], 3)[1],
    "chunk": lambda x: x.chunk(2, 1)[0],
    "tensor_split": lambda x: x.tensor_split(3, 1)[0],
    "hsplit": lambda x: x.hsplit(2)[1],
    "dsplit": lambda x: x.dsplit(2)[1],
    "meshgrid": lambda x: x * torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")[0],
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, torch.zeros(1))[0] * 2,
    "frexp": lambda x: torch.frexp(x)[0],
    "slogdet": lambda x: torch.linalg.slogdet(x + 9 * torch.eye(6))[1],
    "qr": lambda x: torch.linalg.qr(x)[1],
    "svd": lambda x: torch.linalg.svd(x)[1],
    "eigh": lambda x: torch.linalg.eigh(x)[0],
    "inv_ex": lambda x: torch.linalg.inv_ex(x + 9 * torch.eye(6))[0],
    "cholesky_ex": lambda x: torch.linalg.cholesky_ex(x @ x.mT + torch.eye(6))[0],
    "lu": lambda x: torch.linalg.lu(x)[2],
    "max_pool with indices": lambda x: nn.functional.max_pool2d(x, 2, return_indices=True)[0],
    "max_unpool": lambda x: nn.functional.max_unpool2d(*nn.functional.max_pool2d(x, 2, return_indices=True), 2),
    "adaptive_max_pool": lambda x: nn.functional.adaptive_max_pool2d(x, 2, return_indices=True)[0],
    "native_layer_norm": lambda x: torch.native_layer_norm(x, (6, 6), None, None, 1e-5)[0],
    "native_group_norm": lambda x: torch.native_group_norm(x, None, None, x.shape[0], 4, 36, 2, 1e-5)[0],
    "attention": lambda x: nn.functional.scaled_dot_product_attention(rows(x), rows(x), rows(x)),
}


class Giving(nn.Module):
    """Two convolutions, operators that return several tensors, a linear layer; recurrent layers and attention too."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names, self.a, self.b = names, nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
        self.lstm, self.gru = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True), nn.GRU(6, 5, batch_first=True)
        self.rnn, self.mix = nn.RNN(6, 5, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True)
        with torch.no_grad():
            self.fc = nn.Linear(self.read(torch.rand(2, 4, 6, 6)).shape[1], 4)

    def read(self, x: Tensor) -> Tensor:
        parts = [SEVERAL[name](x).flatten(1) for name in self.names if name in SEVERAL]
        y = x.mean(1)
        parts += [getattr(self, name)(y)[0][:, -1] for name in ("lstm", "gru", "rnn") if name in self.names]
        parts += [sum(part.flatten(1)[:, :36] for part in self.mix(y, y, y))] if "mix" in self.names else []
        return torch.cat(parts, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.read(torch.relu(self.b(torch.relu(self.a(x))))))


PIXELS = torch.randint(0, 256, (12, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SAMPLES = netopsy.load_samples((PIXELS, torch.arange(12) % 4))
STUDIES: dict[str, Callable[[Network], Any]] = {
    "layers": lambda net: list_layers(net).to_dicts(),
    "blocks": lambda net: str(list_blocks(net)),
    "parameters": lambda net: netopsy.parameters(net),
    "distributions": lambda net: netopsy.distributions(net),
    "filters": lambda net: netopsy.filters(net),
    "sparsity": lambda net: netopsy.sparsity(net, SAMPLES),
    "activations": lambda net: netopsy.activations(net, SAMPLES),
    "field": lambda net: netopsy.field(net, SAMPLES),
    "stimuli": lambda net: netopsy.stimuli(net, SAMPLES),
    "reconstruct": lambda net: netopsy.reconstruct(net, SAMPLES),
    "facets": lambda net: netopsy.facets(net, SAMPLES),
    "maximize": lambda net: netopsy.maximize(net, SAMPLES, way="plain", steps=2, runs=1),
    "noise": lambda net: netopsy.noise(net, SAMPLES, strengths=(0.1,), repeats=1),
    "rounding": lambda net: netopsy.rounding(net, SAMPLES, decimals=(1,)),
    "codebook": lambda net: netopsy.codebook(net, SAMPLES, sizes=(2,)),
    "prescribe": lambda net: netopsy.prescribe(net, SAMPLES),
    "graph": lambda net: settle(net.graph),
}


def settle(graph: torch.fx.GraphModule) -> list[int]:
    """Turn the symbolic batch of an exported graph into a number, as `int` of any of its sizes does."""
    return [int(size) for node in graph.graph.nodes for size in getattr(node.meta.get("val"), "shape", ())][:1]


def answers(module: nn.Module, questions: list[str]) -> dict[str, str]:
    """What each question is answered, asked in this order of one network."""
    net = Network("asked", copy.deepcopy(module), Preprocessing(size=(8, 8)))
    found = {}
    for question in questions:
        answer = STUDIES[question](net)
        if isinstance(answer, netopsy.Result):
            tables = {name: table.to_dict(as_series=False) for name, table in answer.tables.items()}
            answer = tables, [one for one in answer.findings if "/" not in one]  # folders have names of their own
        found[question] = repr(answer)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        list(SEVERAL)[:20],
        list(SEVERAL)[20:],
        ["lstm", "gru", "rnn", "mix"],
        *(pytest.param([name], marks=pytest.mark.slow) for name in (*SEVERAL, "lstm", "gru", "rnn", "mix")),
    ],
    ids=lambda names: f"{names[0]} and more" if len(names) > 1 else names[0],
)
def test_what_is_answered_does_not_depend_on_what_was_asked_before(names: list[str]) -> None:
    module = Giving(names).eval()
    quick = ["graph", "layers", "field", "sparsity", "stimuli", "noise", "blocks"]
    asked = list(STUDIES) if len(names) == 1 else quick
    assert answers(module, asked) == answers(module, asked[::-1])


def test_a_network_gives_nothing_out_that_can_be_changed(tokens: Network) -> None:
    with pytest.raises(TypeError):
        tokens.nodes["input"] = tokens.nodes[tokens.output]  # type: ignore[index]
    with pytest.raises(TypeError):
        tokens.program.constants["x"] = torch.zeros(1)  # type: ignore[index]
    node = next(node for node in tokens.nodes.values() if node.operator == "permute")
    with pytest.raises((TypeError, NotImplementedError)):
        node.args[1][0] = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        node.name = "x"  # type: ignore[misc]
