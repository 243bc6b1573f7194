"""Blocks: which stretches of a network have one input and one output."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from reference_blocks import flow_graph, is_single_entry_single_exit, on_every_path
from torch import Tensor, nn

import netopsy
from netopsy.blocks.block import Block
from netopsy.blocks.find import default_blocks, find_block, find_blocks, list_blocks
from netopsy.blocks.section import cut_before
from netopsy.cli.main import main
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from networks import loaded


def network_of(module: nn.Module, size: int = 16) -> Network:
    return Network("test", module, Preprocessing(size=(size, size)))


def convs(*depths: int) -> list[nn.Module]:
    return [m for a, b in pairwise(depths) for m in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]


@pytest.fixture(scope="module")
def digits() -> Network:
    return loaded("netopsy:digits-a")


@pytest.fixture(scope="module")
def resnet() -> Network:
    return loaded("netopsy:resnet20")


class Awkward(nn.Module):
    """A weight that two places share, a module of two inputs, one that enlarges the map, and a list of outputs."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.relu(self.a(x) + self.b(y))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.shared = nn.Sequential(*convs(4, 4, 4))
        self.two = Awkward.Two()
        self.wide = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.shared(x)
        x = self.two(x, y)
        x = self.wide(x)
        x = F.conv2d(x, self.shared[0].weight, padding=1)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def awkward() -> Network:
    return network_of(Awkward())


def test_vgg_has_its_five_blocks_without_their_poolings(digits: Network) -> None:
    blocks = default_blocks(digits)
    assert [b.name for b in blocks] == [f"block{i}" for i in range(1, 6)]
    for block, count in zip(blocks, (2, 2, 3, 3, 3), strict=True):
        module = digits.module.get_submodule(block.name)
        assert (block.output, block.after) == (f"{block.name}.relu{count}", f"{block.name}.pool")
        assert block.layers == tuple(f"{block.name}.conv{i}" for i in range(1, count + 1))
        assert block.parameters == sum(p.numel() for p in module.parameters())
        assert f"{block.name}.pool" not in block.nodes
    assert blocks[0].input == "input" and blocks[1].input == "block1.pool"


def test_vgg_without_modules_has_the_same_blocks_as_stretches() -> None:
    layers = [*convs(3, 4, 4), nn.MaxPool2d(2), *convs(4, 8, 8, 8), nn.AvgPool2d(2)]
    network = network_of(nn.Sequential(nn.Sequential(*layers), nn.Flatten(), nn.Linear(8 * 16, 10)))
    assert [b.name for b in default_blocks(network)] == ["0.0:0.2", "0.5:0.9"]
    first, second = default_blocks(network)
    assert (first.output, first.after, second.input, second.output, second.after) == (
        "0.3",
        "0.4",
        "0.4",
        "0.10",
        "0.11",
    )
    assert find_blocks(network)[0].name == "0" and first.parent == second.parent == "0"
    assert find_blocks(network)[0].output == "0.10"


def test_residual_network_has_three_stages_each_with_its_blocks(resnet: Network) -> None:
    assert [b.name for b in default_blocks(resnet)] == ["layer1", "layer2", "layer3"]
    blocks = {b.name: b for b in find_blocks(resnet)}
    assert [n for n, b in blocks.items() if b.parent == "layer2"] == ["layer2.0", "layer2.1", "layer2.2"]
    whole = blocks["conv1:layer3.2.conv2"]
    assert whole.parent is None and blocks["layer1"].parent == whole.name and len(whole.layers) == 19
    assert (blocks["layer2.0"].input_shape, blocks["layer2.0"].output_shape) == ((16, 32, 32), (32, 16, 16))
    assert blocks["layer3"].after == blocks["layer3"].output  # the average over the whole map is the head's


def test_macs_and_parameters_are_those_of_the_layers_inside(resnet: Network) -> None:
    for block in find_blocks(resnet):
        layers = resnet.select(block.layers)
        assert block.macs == sum(layer.macs for layer in layers)
        norms = [n for n in resnet.tensors if "bn" in n and n.rpartition(".")[0] in block.nodes]
        learned = sum(resnet.tensors[n].numel() for n in norms if n.endswith(("weight", "bias")))
        assert block.parameters == sum(layer.parameters for layer in layers) + learned


def test_chain_of_linear_maps_is_a_block_without_its_classifier() -> None:
    network = loaded("netopsy:lenet_300_100")
    (block,) = find_blocks(network)
    assert (block.name, block.kind, block.input_shape, block.output_shape) == ("ip1:ip2", "linear", (784,), (100,))
    assert default_blocks(network) == (block,)


def test_transformer_layers_are_the_default_blocks() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.patch(x).flatten(2).mT)[:, 0])

    network = network_of(Tiny())
    blocks = default_blocks(network)
    assert [b.name for b in blocks] == [f"encoder.layers.{i}" for i in range(3)]
    assert {b.kind for b in blocks} == {"tokens"} and blocks[0].output_shape == (16, 8)
    assert all(b.obstacle is None for b in blocks)


def test_a_stretch_of_nearly_the_whole_network_gives_way_to_its_blocks() -> None:
    parts = [nn.Sequential(*convs(4, 4, 4)) for _ in range(4)]
    network = network_of(
        nn.Sequential(*convs(3, 4, 4), nn.MaxPool2d(2), *parts, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 2))
    )
    assert [b.name for b in find_blocks(network) if b.parent is None] == ["0:2", "5.0:8.2"]  # 2 and 8 of 11 layers
    assert [b.name for b in default_blocks(network)] == ["0:2", "5", "6", "7", "8"]


def test_listed_blocks_have_one_entry_and_one_exit(digits: Network, resnet: Network, awkward: Network) -> None:
    for network in (digits, resnet, awkward):
        graph = flow_graph(network)
        assert find_blocks(network)
        for block in find_blocks(network):
            assert is_single_entry_single_exit(graph, block), block.name


def test_cut_is_the_last_value_that_all_paths_pass(resnet: Network) -> None:
    graph, names = flow_graph(resnet), list(resnet.nodes)
    for block in find_blocks(resnet):
        cut = cut_before(resnet, block)
        assert on_every_path(graph, cut)
        between = names[names.index(cut) + 1 : names.index(block.input) + 1]
        assert not any(on_every_path(graph, name) for name in between)
    inner = find_block(resnet, "layer1.0.conv1:layer1.0.conv2")
    assert cut_before(resnet, inner) == "relu"
    branch = replace(inner, input="layer1.0.bn1")  # beside the shortcut: what comes behind needs more than this
    assert cut_before(resnet, branch) == "relu"


def test_a_shared_weight_and_an_enlarged_map_are_obstacles(awkward: Network) -> None:
    blocks = {b.name: b for b in find_blocks(awkward)}
    assert blocks["shared"].obstacle is not None
    assert blocks["shared"].obstacle.startswith("Its parameter shared.0.weight is read outside it too; ")
    assert (
        blocks["wide"].obstacle is not None
        and "enlarges the map, from 4 x 16 x 16 to 4 x 32 x 32" in blocks["wide"].obstacle
    )
    assert "two" not in blocks
    with pytest.raises(SettingsError, match=r"it reads stem, shared.3 and gives two.relu; a block reads one value"):
        find_block(awkward, "two")


def test_stretch_by_name_grows_until_it_has_one_input_and_one_output(resnet: Network) -> None:
    branch = find_block(resnet, "layer1.0.conv1:layer1.0.conv2")
    assert (branch.input, branch.output) == ("relu", "layer1.0.bn2")  # the norm behind it, not the sum
    block = find_block(resnet, "layer1.0.conv1:layer1.1.conv1")
    assert (block.input, block.output) == ("relu", "layer1.1.relu2")  # closed over the shortcut
    assert find_block(resnet, "layer2.0:layer2.2") == find_block(resnet, "layer2")
    exact = find_block(resnet, "layer1.0.conv1:layer1.0.bn1")
    assert (exact.output, exact.layers) == ("layer1.0.bn1", ("layer1.0.conv1",))
    whole = find_block(resnet, "conv1:layer3.2.conv2")
    assert whole in find_blocks(resnet)


def test_unknown_names_say_what_is_near(resnet: Network) -> None:
    with pytest.raises(UnknownLayer, match=r"no block 'layer9' in netopsy:resnet20; nearest: layer\d"):
        find_block(resnet, "layer9")
    with pytest.raises(UnknownLayer, match=r"no layer, module or node 'conv9' in netopsy:resnet20; nearest: "):
        find_block(resnet, "conv1:conv9")
    with pytest.raises(SettingsError, match=r"conv1 does not follow layer1.0.conv1"):
        find_block(resnet, "layer1.0.conv1:conv1")
    with pytest.raises(SettingsError, match="holds no layer"):
        find_block(resnet, "layer1.0.relu2")


def test_table_tells_what_the_block_holds_and_what_the_one_layer_would(resnet: Network) -> None:
    table = list_blocks(resnet)
    rows = {row["block"]: row for row in table.to_dicts()}
    assert rows["layer2"]["layer"] == "conv 3x3 /2, norm, relu"
    assert rows["layer2"]["layer_parameters"] == 16 * 32 * 9 + 2 * 32
    assert rows["layer2"]["layer_macs"] == 16 * 32 * 9 * 16 * 16
    assert rows["layer2"]["share"] == pytest.approx(rows["layer2"]["parameters"] / resnet.parameters)
    assert table.filter(table["default"])["block"].to_list() == ["layer1", "layer2", "layer3"]


def test_command_lists_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    main(["blocks", "netopsy:digits-a"])
    shown = capsys.readouterr().out
    assert "conv 3x3, norm, relu" in shown
    assert "Taken where none is named: block1, block2, block3, block4, block5." in shown
    main(["blocks", "netopsy:lenet_300_100", "--weights", "random", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["block"], row["default"], row["layer_parameters"]) == ("ip1:ip2", True, 784 * 100 + 100)
    for wrong, message in (
        (["netopsy:digits-a", "--colour", "3"], "Unknown option: --colour"),
        (["netopsy:digits-x"], "no network 'netopsy:digits-x'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["blocks", *wrong])
        shown = capsys.readouterr()
        assert stopped.value.code == 2 and message in shown.err and shown.err.count("\n") == 1
    main(["blocks", "netopsy:lenet5", "--weights", "random"])
    assert "name one as FIRST:LAST" in capsys.readouterr().out


def test_blocks_of_another_device_type_are_found_anew() -> None:
    network = netopsy.load_network("netopsy:lenet_300_100", weights="random")
    (block,) = find_blocks(network)
    network.to(torch.float64)
    assert isinstance(block, Block) and find_blocks(network) == (block,)
