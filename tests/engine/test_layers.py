"""Names of nodes, the table of layers, and multiply-accumulates against torch's flop counter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from netopsy.engine.interpreter import plan
from netopsy.errors import NetworkError
from netopsy.network.listing import list_layers, other_parameters
from netopsy.network.macs import graph_macs
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.sources.load import load_network
from treatable import obstacles, zero_activations

# Table I of Lorieul et al.; its fc7 row leaves out the 4,096 biases that its total counts
ALEXNET = [34944, 307456, 885120, 663936, 442624, 37752832, 16781312, 4097000]


def network_of(module: nn.Module, size: tuple[int, int] = (12, 10)) -> Network:
    return Network("test", module, Preprocessing(size=size))


def counted(network: Network, batch: int = 1) -> int:
    """Multiply-accumulates as torch counts them while the plain module runs."""
    tensor = next(network.module.parameters())
    x = torch.zeros(batch, *network.preprocessing.input_shape, dtype=tensor.dtype)
    network.module.requires_grad_(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    # the counter cannot see into the fused kernel of MultiheadAttention
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            network.module(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2 // batch


class Everything(nn.Module):
    """Each kind of product once: convolutions of every sort, linear, matmul, einsum, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, (3, 1), groups=2, padding=(1, 0), bias=False)
        self.depthwise = nn.Conv2d(8, 16, 3, groups=8, dilation=2, padding=2)
        self.up = nn.ConvTranspose2d(16, 8, 4, 2, 1, groups=2)
        self.row = nn.Conv1d(8, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mixed = nn.Parameter(torch.randn(8, 6))
        self.formula = nn.Parameter(torch.randn(4, 6, 5))
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.depthwise(self.grouped(self.stem(x).relu_())))
        tokens = self.row(x.flatten(2)).transpose(1, 2)
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        tokens = torch.relu(tokens @ self.mixed)
        tokens = self.norm(torch.einsum("bld,hde->bhle", tokens, self.formula).mean(2))
        return self.head(tokens.flatten(1))


class Standardised(nn.Conv2d):
    """Convolution with a standardised weight and a learned gain (Qiao et al. 2019)."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = self.gain * (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Awkward(nn.Module):
    """Computed, predicted, tied and reused weights, an embedding, a dictionary for an output."""

    def __init__(self) -> None:
        super().__init__()
        self.standard = Standardised(3, 4, 3)
        self.predictor = nn.Linear(4, 4 * 4)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.twin = nn.Conv2d(4, 4, 3, padding=1)
        self.twin.weight = self.shared.weight
        self.places = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 5)
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.standard(x), inplace=True)
        x = self.shared(F.relu(self.shared(x)))
        x = self.twin(x.relu())
        predicted = self.predictor(x.mean((0, 2, 3))).view(4, 4, 1, 1)
        x = F.conv2d(x, predicted).mean((2, 3)) + self.places(torch.arange(1))
        return {"logits": self.head(self.dropout(x)), "features": x}


@pytest.fixture(scope="module")
def everything() -> Network:
    return network_of(Everything())


@pytest.fixture(scope="module")
def awkward() -> Network:
    return network_of(Awkward().train())


def test_alexnet_has_the_eight_rows_of_the_paper() -> None:
    network = load_network("netopsy:alexnet", weights="random")
    table = list_layers(network)
    assert table["parameters"].to_list() == ALEXNET and sum(ALEXNET) == network.parameters == 60_965_224
    assert table["layer"].to_list() == [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8"]
    assert table["groups"].to_list() == [1, 2, 1, 2, 2, 1, 1, 1]
    assert table["weight"].to_list()[1] == "256x48x5x5" and table["output"].to_list()[4] == "256x13x13"
    assert table["field"].to_list()[:5] == ["11x11", "51x51", "99x99", "131x131", "163x163"]
    assert abs(table["share"].sum() - 1) < 1e-12 and other_parameters(network) == {}
    assert int(table["macs"].sum()) == counted(network)


def test_macs_of_every_product_agree_with_the_flop_counter(everything: Network) -> None:
    assert graph_macs(everything.program.nodes) == counted(everything)
    attention = 2 * 120 * 120 * 8
    assert sum(layer.macs for layer in everything.layers) == counted(everything) - attention


def test_every_product_with_a_parameter_is_a_layer(everything: Network) -> None:
    table = list_layers(everything)
    names = ["stem", "grouped", "depthwise", "up", "row", "attention.in_proj", "attention.out_proj", "mixed", "formula"]
    assert table["layer"].to_list() == [*names, "head"]
    assert table["kind"].to_list() == ["conv"] * 3 + ["conv_transpose", "conv"] + ["linear"] * 5
    assert set(other_parameters(everything)) == {"norm.weight", "norm.bias"}
    assert sum(other_parameters(everything).values()) + table["parameters"].sum() == everything.parameters


def test_weights_behind_computations_and_reuse(awkward: Network) -> None:
    rows = {row["layer"]: row for row in list_layers(awkward).to_dicts()}
    assert list(rows) == ["standard", "shared", "predictor", "head"]
    assert rows["standard"]["weight"] == "4x3x3x3" and rows["shared"]["calls"] == 3
    assert set(other_parameters(awkward)) == {"standard.gain", "twin.bias", "places.weight"}
    assert awkward.layer("shared").macs == 3 * 8 * 10 * 4 * 4 * 9
    assert awkward.classes == 5


def test_names_say_the_module_the_operator_and_the_count(awkward: Network, everything: Network) -> None:
    names = list(awkward.nodes)
    assert names[0] == "input" and len(set(names)) == len(names)
    assert [name for name in names if name.startswith("relu")] == ["relu", "relu_1", "relu_2"]
    assert [name for name in names if name.startswith("shared")] == ["shared", "shared_1"]
    assert list(awkward.layer("shared").nodes) == ["shared", "shared_1", "twin"]
    assert {"stem", "attention.scaled_dot_product_attention", "matmul", "einsum"} <= set(everything.nodes)


def test_relus_of_every_spelling_are_relu_nodes() -> None:
    class Spellings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True))
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(-self.act(self.block(x)))
            return F.relu(torch.relu(x - 1), inplace=True).relu_()

    network = network_of(Spellings())
    assert [network.node(n).target for n in zero_activations(network)] == [torch.ops.aten.relu.default] * 6
    assert zero_activations(network)[:3] == ("block.1", "act", "act_1")


def test_the_graph_computes_what_the_module_computes(everything: Network, awkward: Network) -> None:
    for network in (everything, awkward):
        images = torch.randn(3, *network.preprocessing.input_shape)
        with torch.no_grad():
            want = network.module(images)
            want = want["logits"] if isinstance(want, dict) else want
            actual = plan(network, [network.output]).run({"input": images}, batch=3)[network.output]
        torch.testing.assert_close(actual, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    network = network_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(320, 2)).to(dtype))
    assert list_layers(network)["layer"].to_list() == ["0", "3"]
    assert network.nodes[network.output].dtype == dtype


def test_a_moved_network_is_exported_again() -> None:
    network = network_of(nn.Sequential(nn.Flatten(), nn.Linear(360, 2)))
    before = network.nodes[network.output]
    assert before.dtype == torch.float32
    after = network.to(torch.float64).nodes[network.output]
    assert after.dtype == torch.float64 and after is not before


def test_one_input_channel() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 12 * 12, 10))
    network = Network("test", module, Preprocessing(size=(28, 28), mean=(0.0,), std=(1.0,), channels="L"))
    assert list_layers(network)["field"].to_list() == ["5x5", "28x28"]


def test_sizes_are_read_from_the_batch_of_the_input() -> None:
    class Partition(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            windows = self.linear(x.reshape(-1, 2, 6))
            return windows.view(windows.shape[0] // 30, 30, 12).mean(1)

    network = network_of(Partition())
    images = torch.randn(5, 3, 12, 10)
    actual = plan(network, [network.output]).run({"input": images}, batch=5)[network.output]
    torch.testing.assert_close(actual, network.module(images))


def test_a_wrong_size_and_a_branch_on_values_are_errors_of_one_sentence() -> None:
    network = network_of(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)))
    with pytest.raises(NetworkError, match=r"Sequential cannot take inputs of shape \(batch, 3, 12, 10\): .*shapes"):
        _ = network.graph

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu() if float(x.sum()) > 0 else x

    network = network_of(Branch())
    with pytest.raises(NetworkError, match="Branch cannot be exported to a graph") as caught:
        _ = network.graph
    assert "\n" not in str(caught.value)
    assert str(obstacles(network, "noise")).startswith("Branch cannot be exported")


def test_obstacles_name_the_reason() -> None:
    smooth = network_of(nn.Sequential(nn.Flatten(), nn.Linear(360, 4), nn.GELU(), nn.Linear(4, 2)))
    assert obstacles(smooth, "noise") is None and obstacles(smooth, "parameters") is None
    assert obstacles(smooth, "filters") == "It has no convolution."
    assert obstacles(smooth, "sparsity") == "No activation gives exact zeros: it has 1 gelu."
    plane = network_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(0, 6)))
    assert obstacles(plane, "sparsity") is None
    assert obstacles(plane, "filter-codebook") is None and obstacles(plane, "codebook") is None  # by its agreement
    bare = network_of(nn.ReLU())
    assert obstacles(bare, "parameters") == "It has no convolution or linear layer with a weight."
    signed = network_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(-1, 1)))
    assert obstacles(signed, "sparsity") is not None
