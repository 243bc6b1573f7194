"""The one vocabulary of a graph: activation functions in any spelling, joins with empty tensors, several outputs."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netopsy
from netopsy import Network, Preprocessing, backproject, load_network
from netopsy.cli import main
from netopsy.engine.backproject.backproject import trace
from netopsy.errors import NetopsyWarning, NetworkError, SettingsError
from netopsy.network.activations import rectifies
from netopsy.network.windows.field import receptive_field

SIZE = 10
Function = Callable[[Tensor], Tensor]


class Spelled(nn.Module):
    """Two convolutions with `function` between them; the first has some outputs that are exactly zero."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), function
        self.register_buffer("nought", torch.zeros(1))
        with torch.no_grad():
            self.a.weight[0], self.a.bias[0] = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(self.function(self.a(x))))


def network(function: Function) -> Network:
    torch.manual_seed(1)
    return Network("spelled", Spelled(function), Preprocessing(size=(SIZE, SIZE)))


def picture() -> Tensor:
    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def maps(net: Network, rule: str) -> Tensor:
    units = [(net.output, channel, y, y) for channel in range(4) for y in (0, 3, 5)]
    return trace(net, picture(), units, rule).maps


def below(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] = 0
    return x


def below_times(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] *= 0
    return x


def above(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[x > 0] = x[x > 0]
    return y


RECTIFIERS: dict[str, Function] = {
    "clip": lambda x: torch.clip(x, 0),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clone().clamp_(0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp by a tensor": lambda x: torch.clamp(x, min=torch.tensor(0.0)),
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "maximum with zeros_like": lambda x: torch.maximum(torch.zeros_like(x), x),
    "maximum with zeros": lambda x: torch.maximum(x, torch.zeros(x.shape)),
    "maximum with full": lambda x: torch.maximum(x, torch.full((4, 1, 1), 0.0)),
    "max of two": lambda x: torch.max(x, torch.tensor(0.0)),
    "max with itself times zero": lambda x: torch.max(x, 0 * x),
    "fmax": lambda x: torch.fmax(x, x.new_zeros(1)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where the other way": lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
    "times its sign": lambda x: x * (x > 0),
    "times its sign as a number": lambda x: x * (x > 0).float(),
    "times in place": lambda x: x.mul_((x > 0).to(x.dtype)),
    "times not below": lambda x: x * torch.logical_not(x < 0),
    "times heaviside": lambda x: x * torch.heaviside(x, torch.tensor(0.0)),
    "times half of sign and one": lambda x: x * (torch.sign(x) + 1) / 2,
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "masked_fill_": lambda x: x.clone().masked_fill_(x <= 0, 0.0),
    "a write by index": below,
    "a write by index of what is there": below_times,
    "a write by index of what is above": above,
    "mean of it and its size": lambda x: (x + x.abs()) / 2,
    "half of it and its size": lambda x: 0.5 * (torch.abs(x) + x),
    "less its negative part": lambda x: x - x.clamp(max=0),
    "minus the minimum": lambda x: -torch.minimum(-x, torch.zeros_like(x)),
    "amax of a stack": lambda x: torch.stack([x, torch.zeros_like(x)]).amax(0),
    "max of a stack": lambda x: torch.stack([torch.zeros_like(x), x], -1).max(-1).values,
    "rrelu": lambda x: F.rrelu(x, 0.0, 0.0),
    "leaky by nothing": lambda x: F.leaky_relu(x, 0.0),
    "elu of nothing": lambda x: F.elu(x, 0.0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "hardtanh": lambda x: F.hardtanh(x, 0, float("inf")),
    "relu_": lambda x: F.relu_(x.clone()),
    "twice": lambda x: torch.relu(torch.relu(x)),
}


@cache
def plain() -> Network:
    return network(F.relu)


@pytest.mark.parametrize("name", RECTIFIERS)
def test_a_rectifier_in_any_spelling_is_one(name: str) -> None:
    net = network(RECTIFIERS[name])
    assert sum(rectifies(node) for node in net.nodes.values()) >= 2
    for rule in ("guided", "masked", "deconvnet", "gradient"):
        assert torch.equal(maps(net, rule), maps(plain(), rule)), rule
    assert trace(net, picture(), [(net.output, 0, 3, 3)], "guided").untreated == {}
    assert receptive_field(net, net.output).exact


PAIRS: dict[str, tuple[Function, Function]] = {
    "clamp to six": (lambda x: x.clamp(0, 6), F.relu6),
    "minimum of relu": (lambda x: torch.minimum(torch.relu(x), torch.tensor(6.0)), F.relu6),
    "relu under a cap": (lambda x: torch.relu(x).clamp(max=0.5), lambda x: F.hardtanh(x, 0, 0.5)),
    "clip on both sides": (
        lambda x: torch.maximum(torch.minimum(x, torch.tensor(0.5)), torch.tensor(-0.5)),
        lambda x: F.hardtanh(x, -0.5, 0.5),
    ),
    "leaky by where": (lambda x: torch.where(x > 0, x, 0.1 * x), lambda x: F.leaky_relu(x, 0.1)),
    "leaky by maximum": (lambda x: torch.maximum(x, 0.3 * x), lambda x: F.leaky_relu(x, 0.3)),
    "leaky by abs": (lambda x: 0.625 * x + 0.375 * x.abs(), lambda x: F.leaky_relu(x, 0.25)),
    "randomised": (lambda x: F.rrelu(x, 0.125, 0.375), lambda x: F.leaky_relu(x, 0.25)),
    "swish": (lambda x: x * torch.sigmoid(x), F.silu),
    "gelu": (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), F.gelu),
    "gelu by tanh": (
        lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "hard swish": (lambda x: x * F.relu6(x + 3) / 6, F.hardswish),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), F.mish),
    "elu": (lambda x: torch.where(x > 0, x, torch.exp(x) - 1), F.elu),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_so_is_any_other_activation_function(name: str) -> None:
    spelled, known = map(network, PAIRS[name])
    assert [n.operator for n in spelled.nodes.values()] == [n.operator for n in known.nodes.values()]
    assert torch.equal(maps(spelled, "guided"), maps(known, "guided"))
    with torch.no_grad():
        torch.testing.assert_close(spelled.module(picture()), known.module(picture()))


LOWER = torch.tensor([0.0, 0.0, 0.0, -1.0]).reshape(4, 1, 1)
LOOKALIKES: dict[str, tuple[Function, dict[str, str]]] = {
    "sin": (torch.sin, {"sin": "sin"}),
    "abs": (torch.abs, {"abs": "abs"}),
    "square": (lambda x: torch.relu(x) ** 2, {"pow": "pow"}),
    "shifted": (lambda x: torch.maximum(x, torch.tensor(-0.25)), {"maximum": "maximum"}),
    "gate": (lambda x: torch.relu(x) * x.mean((2, 3), keepdim=True), {"mul": "mul"}),
    "a part only": (lambda x: torch.maximum(x, LOWER), {"maximum": "maximum"}),
    "another place": (lambda x: torch.relu(x.roll(1, 3)), {}),
    "scatter": (lambda x: x.new_zeros(x.shape).masked_scatter(x > 0, x), {"masked_scatter": "masked_scatter"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_is_none_is_left_as_it_is_and_named(name: str) -> None:
    function, untreated = LOOKALIKES[name]
    net = network(function)
    assert trace(net, picture(), [(net.output, 0, 3, 3)], "guided").untreated == untreated
    with torch.no_grad():
        value = trace(net, picture(), [(net.output, 1, 2, 2)], "guided").values[0]
        torch.testing.assert_close(value, net.module(picture())[0, 1, 2, 2])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        backproject(net, picture(), [(net.output, 0, 3, 3)], "guided")
    assert [f"1 {kind}" in str(w.message) for w, kind in zip(seen, untreated.values(), strict=True)] == [True] * len(
        seen
    )


def test_a_rectifier_by_a_buffer_is_known_by_its_value() -> None:
    class Floor(Spelled):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.b(torch.maximum(self.a(x), self.nought)))

    torch.manual_seed(1)
    net = Network("floor", Floor(F.relu), Preprocessing(size=(SIZE, SIZE)))
    assert torch.equal(maps(net, "guided"), maps(plain(), "guided"))
    lower = net.with_tensors({"nought": torch.tensor([-1.0])})
    assert "maximum" in {node.operator for node in lower.nodes.values()}


def test_the_studies_see_a_spelled_rectifier() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)
    samples = netopsy.load_samples((pixels, np.arange(12) % 4))

    def classifier(function: Function) -> Network:
        return Network(
            "c", nn.Sequential(network(function).module, nn.Flatten(), nn.Linear(144, 4)), plain().preprocessing
        )

    torch.manual_seed(0)
    one = classifier(RECTIFIERS["times its sign"])
    torch.manual_seed(0)
    other = classifier(F.relu)
    for study in (netopsy.sparsity, netopsy.activations, netopsy.stimuli, netopsy.field):
        found, expected = (study(net, samples) for net in (one, other))
        assert found.findings == expected.findings
        assert all(found.tables[name].equals(table) for name, table in expected.tables.items())


class Joined(Spelled):
    """Empty tensors among those that are joined, as a cache of keys and values begins."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = torch.cat([torch.tensor([]), y], dim=-2)
        y = torch.cat([y[:, :0], y, y[:, 4:]], 1)
        y = torch.concat([torch.zeros(len(x), 4, 0, 8), y], 2)
        y = torch.hstack([torch.tensor([]), y])
        y = torch.stack([y]).sum(0)
        return F.relu(self.b(F.relu(y)))


def test_a_join_gets_nothing_from_an_empty_tensor() -> None:
    torch.manual_seed(1)
    net = Network("joined", Joined(F.relu), Preprocessing(size=(SIZE, SIZE)))
    for rule in ("guided", "deconvnet", "gradient"):
        torch.testing.assert_close(maps(net, rule), maps(plain(), rule))
    field = receptive_field(net, net.output)
    assert field.exact and field.size == (5.0, 5.0)
    assert netopsy.list_layers(net)["macs"].to_list() == netopsy.list_layers(plain())["macs"].to_list()


@dataclasses.dataclass
class Answer:
    hidden: Tensor
    logits: Tensor


class Several(nn.Module):
    """Features and class scores, in whatever they are returned in."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.fc, self.wrap = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), wrap

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.a(x))
        return self.wrap(y, self.fc(y.mean((2, 3))))


def several(wrap: Callable[[Tensor, Tensor], Any], output: str | int | None = None) -> Network:
    return load_network(Several(wrap), size=SIZE, output=output)


RETURNS: dict[str, tuple[Callable[[Tensor, Tensor], Any], str, dict[str | int, str]]] = {
    "tuple": (lambda y, z: (y, z), "relu", {0: "relu", 1: "fc", "1": "fc"}),
    "list in a tuple": (lambda y, z: (z, [y]), "fc", {"1.0": "relu", 1: "relu"}),
    "dictionary with logits": (lambda y, z: {"hidden": y, "logits": z}, "fc", {"hidden": "relu", 0: "relu"}),
    "dictionary without": (lambda y, z: {"out": z, "aux": y}, "fc", {"aux": "relu"}),
    "logits further down": (lambda y, z: {"hidden": y, "head": {"logits": z}}, "fc", {"hidden": "relu"}),
    "nothing first": (lambda y, z: (None, y, z), "relu", {2: "fc", "2": "fc"}),
    "dataclass": (Answer, "fc", {"hidden": "relu"}),
}


@pytest.mark.parametrize("name", RETURNS)
def test_of_several_outputs_one_is_chosen_and_said(name: str) -> None:
    wrap, default, chosen = RETURNS[name]
    with pytest.warns(NetopsyWarning, match="returns '.*is examined"):
        assert several(wrap).output == default
    for output, node in chosen.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert several(wrap, output).output == node
    with pytest.raises(SettingsError, match=r"no output 'other'.* '"):
        _ = several(wrap, "other").output
    program = several(wrap).program
    returns = {key: node and node.name for key, node in pickle.loads(pickle.dumps(program)).returns.items()}
    assert returns == {key: node and node.name for key, node in program.returns.items()}


def test_a_training_learns_the_chosen_output() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3), dtype=np.uint8)
    samples = netopsy.load_samples((pixels, np.arange(16) % 4))
    recipe = netopsy.Recipe(epochs=1, batch_size=8, learning_rate=0.1)
    weights = []
    for wrap, output in ((lambda y, z: z, None), (lambda y, z: {"y": y, "logits": z}, None), (lambda y, z: (y, z), 1)):
        torch.manual_seed(0)
        weights.append(netopsy.fit(several(wrap, output), samples, recipe).network.tensors["fc.weight"])
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def factory() -> nn.Module:
    torch.manual_seed(0)
    return Several(lambda y, z: {"hidden": y, "scores": z})


def test_the_command_line_says_which_output_it_took(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(tmp_path / "pictures.npz", x=pixels, y=np.arange(8) % 4)
    words = ["sparsity", f"{__name__}:factory", "--samples", str(tmp_path / "pictures.npz"), "--size", str(SIZE)]
    main(words)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("netopsy: ") and "'hidden' is examined" in said[0]
    main([*words, "--output", "scores"])
    assert not capfd.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--output", "7"])
    assert "no output '7'" in capfd.readouterr().err


def test_one_output_needs_no_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for wrap in (lambda y, z: z, lambda y, z: (z,), lambda y, z: {"x": z, "y": z}):
            assert several(wrap).output == "fc"


def test_a_size_that_depends_on_values_is_one_sentence() -> None:
    with pytest.raises(NetworkError, match="depends on the values of the image"):
        _ = network(lambda x: x[x > 0].mean() + x).graph


class Sequences(nn.Module):
    def __init__(self, first: bool) -> None:
        super().__init__()
        self.a, self.block = nn.Conv2d(3, 8, 3), nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=first)
        self.fc, self.first = nn.Linear(8, 4), first

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).flatten(2)
        y = self.block(y.transpose(1, 2) if self.first else y.permute(2, 0, 1))
        return self.fc(y.mean(1 if self.first else 0))


@pytest.mark.parametrize("first", [True, False])
def test_output_shapes_leave_the_batch_out_wherever_it_is(first: bool) -> None:
    net = Network("sequences", Sequences(first), Preprocessing(size=(SIZE, SIZE)))
    shapes = {row["layer"]: row["output"] for row in netopsy.list_layers(net).to_dicts()}
    assert shapes == {
        "a": "8x8x8",
        "block.self_attn.in_proj": "64x24",
        "block.self_attn.out_proj": "64x8",
        "block.linear1": "64x12",
        "block.linear2": "64x8",
        "fc": "4",
    }
