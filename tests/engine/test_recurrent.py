"""Recurrent weights, and weights in matrix products without a module, are layers like any others."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from netopsy.deep_compression.compress import compress
from netopsy.deep_compression.save import expand, storage_table
from netopsy.engine.backproject.backproject import backproject, trace
from netopsy.engine.interpreter import plan
from netopsy.engine.observe.observe import observe
from netopsy.network.listing import list_layers, other_parameters
from netopsy.network.macs import graph_macs
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.windows.field import receptive_field
from netopsy.samples.load import load_samples
from netopsy.samples.samples import Samples
from netopsy.studies.codebook import WeightCodebook
from netopsy.studies.distributions import Distributions
from netopsy.studies.noise import Noise
from netopsy.studies.parameters import Parameters
from netopsy.studies.prescribe.prescribe import Prescribe
from netopsy.studies.rounding import Rounding
from netopsy.tallies.moments import Moments
from netopsy.wording import percent

STEPS, INPUTS, HIDDEN, CLASSES = 7, 6, 5, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "ReLU": 1}


class Rows(nn.Module):
    """A recurrent network over the rows of a grey picture, averaged over its steps."""

    def __init__(self, kind: str, **settings: Any) -> None:
        super().__init__()
        plain = {"nonlinearity": "relu"} if kind == "ReLU" else {}
        self.rnn = getattr(nn, kind if kind != "ReLU" else "RNN")(INPUTS, HIDDEN, **settings, **plain)
        width = (settings.get("proj_size") or HIDDEN) * (2 if settings.get("bidirectional") else 1)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, 0] if self.rnn.batch_first else x[:, 0].transpose(0, 1)
        return self.fc(self.rnn(rows)[0].mean(1 if self.rnn.batch_first else 0))


class Steps(nn.Module):
    """A cell, called in a loop over the rows."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell, self.fc = cell, nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for row in x[:, 0].unbind(1):
            state = self.cell(row, state)
        return self.fc(state[0] if isinstance(state, tuple) else state)


def network_of(module: nn.Module) -> Network:
    return Network("rows", module, Preprocessing(size=(STEPS, INPUTS), mean=(0.0,), std=(1.0,), channels="L"))


def matrices(module: nn.Module) -> list[str]:
    """Names of the recurrent weights, as torch has them."""
    return [name for name, p in module.named_parameters() if p.ndim == 2 and not name.startswith("fc")]


@pytest.fixture(scope="module")
def samples() -> Samples:
    random = np.random.default_rng(0)
    return load_samples((random.integers(0, 256, (24, STEPS, INPUTS, 1), dtype=np.uint8), np.arange(24) % CLASSES))


def options(kind: str) -> list[dict[str, Any]]:
    """All settings of a recurrent module that change its weights or its layout."""
    choices = itertools.product((1, 2), (False, True), (True, False), (True, False), (0, 3) if kind == "LSTM" else (0,))
    names = ("num_layers", "bidirectional", "bias", "batch_first", "proj_size")
    found = [dict(zip(names, choice, strict=True)) for choice in choices]
    return found if kind == "LSTM" else [{k: v for k, v in each.items() if k != "proj_size"} for each in found]


EVERY = [(kind, settings) for kind in GATES for settings in options(kind)]
FEW = EVERY[3::9]


def formula(kind: str, settings: dict[str, Any]) -> int:
    """Multiply-accumulates of the recurrent weights: gates * hidden * (inputs + state) a step, and the projection."""
    directions, total, inputs = (2 if settings["bidirectional"] else 1), 0, INPUTS
    out = settings.get("proj_size") or HIDDEN
    for _ in range(settings["num_layers"]):
        total += directions * GATES[kind] * HIDDEN * (inputs + out)
        total += directions * HIDDEN * out if settings.get("proj_size") else 0
        inputs = directions * out
    return STEPS * total


def check(kind: str, settings: dict[str, Any]) -> None:
    module = Rows(kind, **settings).eval()
    network = network_of(module)
    names = matrices(module)
    assert [layer.name for layer in network.layers] == [*names, "fc"] and other_parameters(network) == {}
    assert sum(layer.parameters for layer in network.layers) == network.parameters
    for layer in network.layers[:-1]:
        bias = layer.weight.replace("weight", "bias")
        assert layer.bias == (bias if bias in network.tensors else None) and layer.kind == "recurrent"
    macs = [layer.macs for layer in network.layers]
    assert sum(macs[:-1]) == formula(kind, settings) and graph_macs(network.program.nodes) == sum(macs)
    images = torch.randn(3, 1, STEPS, INPUTS)
    with torch.no_grad():
        got = plan(network, [network.output]).run({"input": images}, batch=3)[network.output]
        torch.testing.assert_close(got, module(images))


@pytest.mark.parametrize(("kind", "settings"), FEW)
def test_every_recurrent_weight_is_a_layer(kind: str, settings: dict[str, Any]) -> None:
    check(kind, settings)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), EVERY)
def test_every_recurrent_weight_of_all_settings_is_a_layer(kind: str, settings: dict[str, Any]) -> None:
    check(kind, settings)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_in_a_loop_are_layers_called_at_every_step(cell: Callable[..., Any], bias: bool) -> None:
    module = Steps(cell(INPUTS, HIDDEN, bias=bias)).eval()
    network = network_of(module)
    assert [layer.name for layer in network.layers] == ["cell.weight_ih", "cell.weight_hh", "fc"]
    assert other_parameters(network) == {} and list_layers(network)["calls"].to_list() == [STEPS, STEPS, 1]
    gates = network.tensors["cell.weight_ih"].shape[0] // HIDDEN
    assert [layer.macs for layer in network.layers[:2]] == [STEPS * gates * HIDDEN * n for n in (INPUTS, HIDDEN)]
    field = receptive_field(network, "fc")
    assert field.size == (STEPS, INPUTS) and field.exact
    assert receptive_field(network, network.layers[0].nodes[0]).size == (1, INPUTS)


def test_macs_are_those_that_torch_counts() -> None:
    module = Rows("LSTM", num_layers=2, bidirectional=True, batch_first=True).eval().requires_grad_(False)
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 1, STEPS, INPUTS))
    assert graph_macs(network_of(module).program.nodes) == counter.get_total_flops() // 2


def test_only_the_last_hidden_state_may_be_read() -> None:
    class Last(Rows):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x[:, 0])[1][0][-1])

    network = network_of(Last("LSTM", batch_first=True).eval())
    assert [layer.output_shape for layer in network.layers] == [(1, HIDDEN), (1, HIDDEN), (CLASSES,)]
    assert receptive_field(network, "fc").exact and receptive_field(network, "fc").size == (STEPS, INPUTS)


NETWORKS = {
    "lstm": lambda: Rows("LSTM", num_layers=2, bidirectional=True, proj_size=3, batch_first=True),
    "gru": lambda: Rows("GRU", num_layers=2),
    "rnn": lambda: Rows("RNN", bidirectional=True, bias=False, batch_first=True),
    "cell": lambda: Steps(nn.LSTMCell(INPUTS, HIDDEN)),
}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    module = NETWORKS[request.param]().eval()
    with torch.no_grad():  # far enough from zero that each edit shows
        for parameter in module.parameters():
            parameter.mul_(3)
    return network_of(module)


def loss_of(module: nn.Module, samples: Samples, preprocessing: Preprocessing) -> float:
    (batch,) = samples.batches(preprocessing, len(samples))
    with torch.no_grad():
        return float(F.cross_entropy(module(batch.images), batch.labels))


def edited(module: nn.Module, names: list[str], edit: Callable[[Tensor], Tensor]) -> nn.Module:
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if name in names:
                parameter.copy_(edit(parameter))
    return copied


def test_formats_round_the_modules_own_matrices(network: Network, samples: Samples) -> None:
    def int4(weight: Tensor) -> Tensor:
        scale = weight.abs().amax(1, keepdim=True) / 7
        return (weight / scale).round() * scale

    before = {name: value.clone() for name, value in network.tensors.items()}
    study = Rounding(decimals=(1,), formats=("int4_channel",), layer_formats=("int4_channel",))
    table = study.run(network, samples).tables["formats"]
    by_layer = dict(zip(table["layer"].to_list(), table["loss"].to_list(), strict=True))
    names = [layer.weight for layer in network.layers]
    for layer, changed in [("all", names), *((layer.name, [layer.weight]) for layer in network.layers)]:
        by_hand = loss_of(edited(network.module, changed, int4), samples, network.preprocessing)
        assert by_layer[layer] == pytest.approx(by_hand, rel=1e-4), layer
    assert all(torch.equal(before[name], value) for name, value in network.tensors.items())


def test_noise_and_codebooks_reach_each_weight(network: Network, samples: Samples) -> None:
    plain = loss_of(network.module, samples, network.preprocessing)
    for result in (
        Noise(strengths=(1.0,), repeats=1).run(network, samples),
        WeightCodebook(sizes=(2,)).run(network, samples),
    ):
        rows = [row for row in result.tables["scores"].to_dicts() if row["changed"]]
        assert {row["layer"] for row in rows} == {"all", *(layer.name for layer in network.layers)}
        losses = [row["loss"] for row in rows[1:]]
        assert len(set(losses)) == len(losses) and all(abs(loss - plain) > 1e-6 for loss in losses)
        assert not any("of the parameters" in sentence for sentence in result.findings)


def test_compressed_files_give_back_what_pruning_by_hand_leaves(network: Network, tmp_path: Path) -> None:
    def keep_half(weight: Tensor) -> Tensor:
        order = weight.abs().flatten().argsort(descending=True)
        kept = torch.zeros(weight.numel(), dtype=torch.bool)
        kept[order[: round(weight.numel() / 2)]] = True
        return weight * kept.reshape(weight.shape)

    file = compress(network, tmp_path / "rows.netopsy.safetensors", density=0.5, bits=12)
    state = expand(file)
    for layer in network.layers:
        weight, kept = network.tensors[layer.weight].detach(), state[layer.weight]
        torch.testing.assert_close(kept, keep_half(weight))
    left = {name: value for name, value in network.tensors.items() if name not in {x.weight for x in network.layers}}
    assert all(torch.equal(value, state[name]) for name, value in left.items())
    copied = copy.deepcopy(network.module)
    copied.load_state_dict(state)
    masked = edited(network.module, [layer.weight for layer in network.layers], keep_half)
    images = torch.randn(3, 1, STEPS, INPUTS)
    torch.testing.assert_close(copied(images), masked(images))
    assert set(storage_table(file)["layer"].to_list()) >= {layer.name for layer in network.layers}


def test_weights_are_described_and_counted(network: Network) -> None:
    moments = Distributions().run(network, None).tables["moments"].to_dicts()
    for layer in network.layers:
        (row,) = (row for row in moments if row["layer"] == layer.name and row["part"] == "weights")
        assert row["std"] == pytest.approx(float(network.tensors[layer.weight].detach().std(correction=0)), rel=1e-5)
    together = torch.cat([network.tensors[layer.weight].flatten() for layer in network.layers[:-1]])
    (row,) = (row for row in moments if row["layer"] == "all recurrent" and row["part"] == "weights")
    assert row["values"] == len(together)
    findings = Parameters().run(network, None).findings
    assert any(f"{len(network.layers) - 1} recurrent weights hold" in sentence for sentence in findings)
    assert not any("norms" in sentence for sentence in findings)


def test_prescribe_stores_recurrent_weights_in_less(network: Network, samples: Samples) -> None:
    table = Prescribe(budget=20.0).run(network, samples).tables["layers"]
    assert {layer.name for layer in network.layers} <= set(table["layer"].to_list())


def test_hidden_states_are_observed_and_traced_back(samples: Samples) -> None:
    module = Rows("GRU", num_layers=2, bidirectional=True, batch_first=True).eval()
    network = network_of(module)
    hidden = network.node("rnn")
    assert hidden.shape == (STEPS, 2 * HIDDEN) and hidden.channel_axis == -1 and hidden.per_sample
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        values = module.rnn(batch.images[:, 0])[0]
    seen = observe(network, samples, {"hidden": (hidden.name, Moments(axis=-1))})["hidden"]
    torch.testing.assert_close(seen.mean.float(), values.mean((0, 1)), atol=1e-5, rtol=1e-4)
    images = batch.images[:1].clone().requires_grad_()
    (truth,) = torch.autograd.grad(module.rnn(images[:, 0])[0][0, 3, 1], images)
    torch.testing.assert_close(backproject(network, images, [(hidden.name, 1, 3)], "gradient")[0], truth[0])
    field = receptive_field(network, hidden.name)
    assert field.exact and field.size == (STEPS, INPUTS)


class Products(nn.Module):
    """Every product of the input with a parameter that torch has a function for."""

    def __init__(self) -> None:
        super().__init__()
        square = lambda *sizes: nn.Parameter(torch.randn(*sizes) / 4)  # noqa: E731
        self.products = nn.ParameterDict(
            {
                name: square(6, 6)
                for name in ("matmul", "mm", "transposed", "einsum", "linear", "inner", "tensordot", "addmm")
            }
        )
        self.pair = nn.ParameterList([square(6, 3), square(3, 6)])
        self.batched = square(1, 6, 6)
        self.bilinear = nn.Bilinear(6, 6, 6)
        self.scale = square(6)
        self.table, self.places = nn.Embedding(9, 6), nn.Embedding(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        p = self.products
        x = x[:, 0].mean(1)
        x = torch.linalg.matmul(x, p["matmul"]) + torch.mm(x, p["mm"]) + (p["transposed"] @ x[..., None])[..., 0]
        x = torch.einsum("bi,ij->bj", x, p["einsum"]) + F.linear(x, p["linear"]) + torch.inner(x, p["inner"])
        x = torch.tensordot(x, p["tensordot"], dims=1) + torch.addmm(self.scale, x, p["addmm"])
        x = torch.einsum("bi,ij,jk->bk", x, *self.pair) + torch.bmm(x[None], self.batched)[0]
        return self.bilinear(x, x) * self.scale + self.table((x[:, 0] > 0).long()) + self.places(torch.tensor([2]))


def test_every_product_with_a_parameter_is_a_layer_and_the_rest_is_named(samples: Samples) -> None:
    network = network_of(Products().eval())
    names = {f"products.{name}" for name in network.module.products} | {"pair.0", "pair.1", "batched", "bilinear"}
    names |= {"table"}
    assert {layer.name for layer in network.layers} == names
    assert set(other_parameters(network)) == {"places.weight"}  # the scale is a bias too
    macs = {layer.name: layer.macs for layer in network.layers}
    assert macs.pop("bilinear") == 6 * 6 * 6 + 6 * 6 and (macs.pop("pair.0"), macs.pop("pair.1")) == (18, 18)
    assert macs.pop("table") == 0 and network.layer("table").kind == "embedding"
    assert set(macs.values()) == {36}
    axes = {layer.name.removeprefix("products."): layer.output_axis for layer in network.layers}
    rows = {"transposed", "linear", "inner", "bilinear", "pair.0", "table"}  # of the last, no axis is one of the output
    assert {name for name, axis in axes.items() if axis == 0} == rows and axes["batched"] == 2
    findings = Noise(strengths=(0.5,), repeats=1, one_layer_at_a_time=False).run(network, samples).findings
    share = sum(other_parameters(network).values()) / network.parameters
    assert any(
        f"{percent(share)}, stay as they are" in sentence and "places.weight" in sentence for sentence in findings
    )
    assert share >= 0.05


class Turned(nn.Module):
    """Weights whose outputs are not on the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 6, 2, groups=2)
        self.down = nn.Conv2d(1, 2, 3)
        self.weight_t, self.weight = nn.Parameter(torch.randn(4, 6) ** 3), nn.Parameter(torch.randn(6, 6) ** 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.down(x)).mean((2, 3))
        return (x @ self.weight.permute(0, 1)) @ self.weight_t.transpose(0, 1)


def test_a_scale_a_channel_is_one_an_output(samples: Samples) -> None:
    network = network_of(Turned().eval())

    def int4(weight: Tensor, name: str) -> Tensor:
        axis = {"up.weight": 1, "weight": 1}.get(name, 0)
        # the two groups of the transposed convolution have three outputs each, from one input each
        over = [k for k in range(weight.ndim) if k != axis and not (name == "up.weight" and k == 0)]
        scale = weight.abs().amax(over, keepdim=True) / 7
        return (weight / scale).round() * scale

    copied = copy.deepcopy(network.module)
    with torch.no_grad():
        for layer in network.layers:
            parameter = copied.get_parameter(layer.weight)
            parameter.copy_(int4(parameter, layer.weight))
    study = Rounding(decimals=(), formats=("int4_channel",), one_layer_at_a_time=False)
    (row,) = study.run(network, samples).tables["formats"].to_dicts()
    assert row["loss"] == pytest.approx(loss_of(copied, samples, network.preprocessing), rel=1e-4)


def test_with_its_gates_held_an_lstm_is_a_product_of_matrices() -> None:
    torch.manual_seed(1)
    module = Rows("LSTM", batch_first=True, bias=False).double().eval()
    network, image, step = network_of(module), torch.randn(1, 1, STEPS, INPUTS, dtype=torch.float64), 4
    of_input, of_state = (p.detach().numpy() for p in (module.rnn.weight_ih_l0, module.rnn.weight_hh_l0))
    hidden, cell = np.zeros(HIDDEN), np.zeros(HIDDEN)
    hidden_maps, cell_maps = (np.zeros((STEPS, HIDDEN, INPUTS)) for _ in range(2))  # of the state, by step of the input
    for t, x in enumerate(image[0, 0].numpy()[: step + 1]):
        enter, forget, new, leave = (of_input @ x + of_state @ hidden).reshape(4, HIDDEN)
        enter, forget, leave = (1 / (1 + np.exp(-z)) for z in (enter, forget, leave))
        rows = slice(2 * HIDDEN, 3 * HIDDEN)
        into = of_state[rows] @ hidden_maps
        into[t] += of_input[rows]
        cell_maps = forget[:, None] * cell_maps + (enter * np.tanh(new) / new)[:, None] * into
        cell = forget * cell + enter * np.tanh(new)
        hidden_maps, hidden = (leave * np.tanh(cell) / cell)[:, None] * cell_maps, leave * np.tanh(cell)
    for unit in range(HIDDEN):
        found = trace(network, image, [("rnn.getitem", unit, step)], "gated")
        np.testing.assert_allclose(found.maps[0, 0].numpy(), hidden_maps[:, unit], atol=1e-12)
        assert float(found.values[0]) == pytest.approx(hidden[unit]) and found.untreated == {}
        assert not found.maps[0, 0, step + 1 :].any()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
        ("GRU", {"num_layers": 2, "batch_first": True}),
        ("GRU", {"bidirectional": True}),
        ("RNN", {"num_layers": 2}),
        ("ReLU", {"bidirectional": True}),
    ],
)
def test_with_gates_held_the_maps_times_the_inputs_add_up_to_the_value(kind: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(2)
    module = Rows(kind, bias=False, **settings).double().eval()
    network, images = network_of(module), torch.randn(2, 1, STEPS, INPUTS, dtype=torch.float64)
    found = trace(network, images, [("fc", 1), ("fc", 3)], "gated", of=[0, 1])
    bias = module.fc.bias.detach()[[1, 3]]
    torch.testing.assert_close((found.maps * images).sum((1, 2, 3)) + bias, found.values)
    torch.testing.assert_close(found.values, module(images)[[0, 1], [1, 3]].detach())
    gradient = backproject(network, images, [("fc", 1), ("fc", 3)], "gradient", of=[0, 1])
    assert torch.allclose(found.maps, gradient) == (kind == "ReLU")


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_gates_of_cells_in_a_loop_are_held_too(cell: Callable[..., Any]) -> None:
    torch.manual_seed(3)
    module = Steps(cell(INPUTS, HIDDEN, bias=False)).double().eval()
    network, images = network_of(module), torch.randn(1, 1, STEPS, INPUTS, dtype=torch.float64)
    found = trace(network, images, [("fc", 2)], "gated")
    torch.testing.assert_close((found.maps * images).sum() + module.fc.bias.detach()[2], found.values[0])
