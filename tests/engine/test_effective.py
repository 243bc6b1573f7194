"""Masked, parametrised and computed weights: a network holds what its operators multiply with."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import netopsy
from netopsy.network.network import Network

IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(5))


class Standardised(nn.Conv2d):
    """Weight standardisation (Qiao et al.), with a gain as in normaliser-free networks."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = self.gain * (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), w, self.bias, self.stride)


class Cosine(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x), weight=F.normalize(self.weight))


class LowRank(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.up, self.down = nn.Parameter(torch.randn(outputs, 2)), nn.Parameter(torch.randn(2, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base.weight + self.up @ self.down, self.base.bias)


class Symmetric(nn.Module):
    """A parametrisation of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    square = nn.Linear(8, 8)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 8), nn.ReLU(), square, nn.Linear(8, 4)
    )


def mask(net: nn.Sequential) -> None:
    prune.random_unstructured(net[0], "weight", 0.5)
    prune.l1_unstructured(net[0], "bias", 2)
    prune.ln_structured(net[3], "weight", 0.25, n=2, dim=0)
    prune.l1_unstructured(net[3], "weight", 0.5)  # a second mask over the first
    prune.custom_from_mask(net[6], "weight", torch.ones(4, 8).tril())


def mask_globally(net: nn.Sequential) -> None:
    prune.global_unstructured([(net[0], "weight"), (net[3], "weight")], prune.L1Unstructured, amount=0.8)


def normalise_weights(net: nn.Sequential) -> None:
    parametrizations.weight_norm(net[0])
    parametrizations.weight_norm(net[3], dim=None)


def normalise_weights_the_old_way(net: nn.Sequential) -> None:
    old_weight_norm(net[0])
    old_weight_norm(net[3], dim=None)


def normalise_spectrum(net: nn.Sequential) -> None:
    parametrizations.spectral_norm(net[0])
    parametrizations.spectral_norm(net[3])


def normalise_spectrum_the_old_way(net: nn.Sequential) -> None:
    old_spectral_norm(net[0])
    old_spectral_norm(net[3])


def make_orthogonal(net: nn.Sequential) -> None:
    parametrizations.orthogonal(net[3])
    parametrizations.orthogonal(net[5], orthogonal_map="householder")


def parametrise_twice(net: nn.Sequential) -> None:
    parametrizations.weight_norm(net[5])
    parametrize.register_parametrization(net[5], "weight", Symmetric())
    parametrize.register_parametrization(net[6], "bias", nn.Tanh())
    parametrize.register_parametrization(net[6], "weight", nn.Hardtanh())


def standardise(net: nn.Sequential) -> None:
    net[0] = Standardised(1, 6, 2)


def compare_by_cosine(net: nn.Sequential) -> None:
    net[6] = Cosine(8, 4)


def add_low_rank(net: nn.Sequential) -> None:
    net[6] = LowRank(8, 4)


KINDS = (
    *(mask, mask_globally, normalise_weights, normalise_weights_the_old_way, normalise_spectrum),
    *(normalise_spectrum_the_old_way, make_orthogonal, parametrise_twice, standardise, compare_by_cosine, add_low_rank),
)


def build(kind: object) -> nn.Sequential:
    net = plain()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old weight norm is deprecated
        kind(net)  # type: ignore[operator]
        net.train()(IMAGES)  # power iterations move the estimates
    return net.eval()


def load(module: nn.Module, weights: object = None) -> Network:
    return netopsy.load_network(module, weights=weights, size=8, channels="L", mean=0, std=1)  # type: ignore[arg-type]


@torch.no_grad()
def outputs(module: nn.Module) -> Tensor:
    return module(IMAGES)  # type: ignore[no-any-return]


class Spy(torch.overrides.TorchFunctionMode):
    """Keeps every weight that a linear map or convolution is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if getattr(func, "__name__", "") in ("linear", "conv2d"):
            self.weights.append((args[1] if len(args) > 1 else kwargs["weight"]).detach().clone())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
class TestEachKind:
    def test_holds_what_the_operators_multiply_with(self, kind: object) -> None:
        module = build(kind)
        with Spy() as spy:
            expected = outputs(module)
        network = load(module)
        assert torch.equal(outputs(network.module), expected)
        assert [layer.weight_shape for layer in network.layers] == [tuple(w.shape) for w in spy.weights]
        for layer, weight in zip(network.layers, spy.weights, strict=True):
            assert torch.equal(network.tensors[layer.weight], weight), layer.name
        listed = sum(layer.parameters for layer in network.layers)
        assert network.parameters == listed + (1 if kind is compare_by_cosine else 0)  # its temperature
        assert network.provenance["effective_weights"]

    def test_leaves_the_users_module_alone(self, kind: object) -> None:
        module = build(kind)
        expected, state = outputs(module), {name: value.clone() for name, value in module.state_dict().items()}
        classes = [type(part) for part in module.modules()]
        netopsy.list_layers(load(module))
        assert torch.equal(outputs(module), expected)
        assert [type(part) for part in module.modules()] == classes
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


# The fold of a computed weight exports a network twice, which makes these the slow ones.
FEW = (mask, normalise_weights_the_old_way, make_orthogonal, standardise)
MOST = [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", MOST, ids=lambda kind: kind.__name__)
class TestEachKindIsUsedAsAPlainOne:
    def test_edits_count_as_on_a_plain_network(self, kind: object) -> None:
        network = load(build(kind))
        samples = netopsy.load_samples((IMAGES.permute(0, 2, 3, 1).numpy(), outputs(network.module).argmax(1).numpy()))
        for name, rows in (("rounding", "formats"), ("noise", "scores")):
            settings = {"formats": ("int4_channel",), "decimals": ()} if name == "rounding" else {"repeats": 1}
            result = getattr(netopsy, name)(network, samples, **settings)
            assert np.isfinite(result.tables[rows]["loss"].to_numpy()).all()
        edited = network.with_tensors({network.layers[-1].weight: torch.zeros(network.layers[-1].weight_shape)})
        last = network.tensors.get(network.layers[-1].bias or "", torch.zeros(4))
        assert torch.allclose(outputs(edited.module), last.expand(len(IMAGES), -1), atol=1e-6)

    def test_copies_and_pickles(self, kind: object) -> None:
        network = load(build(kind))
        expected = outputs(network.module)
        assert torch.equal(outputs(copy.deepcopy(network.module)), expected)
        assert torch.equal(outputs(pickle.loads(pickle.dumps(network)).module), expected)

    def test_a_small_file_makes_it_again(self, kind: object, tmp_path: Path) -> None:
        network = load(build(kind))
        settings = {
            key: tuple(f"{layer.name}={value}" for layer in network.layers)
            for key, value in (("density", 1), ("bits", 8))
        }
        path = netopsy.compress(network, tmp_path / "small.netopsy.safetensors", **settings)
        again = load(build(kind), weights=path)
        state = netopsy.expand(path)
        assert state.keys() == network.module.state_dict().keys()
        assert all(torch.equal(again.tensors[name], value) for name, value in state.items())
        largest = float(outputs(network.module).abs().max())
        assert torch.allclose(outputs(again.module), outputs(network.module), atol=0.05 * largest)

    def test_its_own_checkpoint_fits(self, kind: object) -> None:
        module = build(kind)
        state = {name: value.clone() for name, value in module.state_dict().items()}
        other = build(kind)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1)
        assert torch.equal(outputs(load(other, weights=state).module), outputs(module))


def test_the_share_of_zeros_is_the_masks() -> None:
    network = load(build(mask_globally))
    moments = netopsy.distributions(network).tables["moments"].filter(part="weights")
    share = dict(moments.select("layer", "zeros").iter_rows())
    weights = {name: network.tensors[f"{name}.weight"] for name in ("0", "3")}
    assert share["0"] == pytest.approx(float((weights["0"] == 0).double().mean()))
    total = sum(int((w == 0).sum()) for w in weights.values()) / sum(w.numel() for w in weights.values())
    assert total == pytest.approx(0.8, abs=1e-3)


def test_a_plain_state_dict_fits_a_masked_module() -> None:
    network = load(build(mask))
    again = load(build(mask_globally), weights=dict(network.module.state_dict()))
    assert torch.equal(outputs(again.module), outputs(network.module))


def test_recurrent_and_attention_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(8, 6, batch_first=True)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
            self.out = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.rnn(x[:, 0])[0]
            return self.out(self.attention(x, x, x)[0].mean(1))  # type: ignore[no-any-return]

    module = Net().eval()
    parametrizations.weight_norm(module.rnn, "weight_hh_l0")
    parametrizations.spectral_norm(module.attention, "in_proj_weight")
    expected = outputs(module)
    network = load(module)
    assert torch.allclose(outputs(network.module), expected, atol=1e-6)
    assert network.parameters == sum(p.numel() for p in Net().parameters())
    assert network.provenance["effective_weights"] == ["rnn.weight_hh_l0", "attention.in_proj_weight"]


def test_normaliser_free_network_of_timm() -> None:
    pytest.importorskip("timm")
    network = netopsy.load_network("timm:test_nfnet", weights="random", size=64)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Spy() as spy:
        network.module(x)
    standardised = network.tensors[network.provenance["effective_weights"][0]]
    assert any(torch.equal(standardised, weight) for weight in spy.weights)
    assert not [name for name in dict(network.module.named_parameters()) if name.endswith("gain")]


def test_equal_shapes_that_cannot_be_told_apart_stay() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(64, 64)), nn.Parameter(torch.randn(64, 64))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x.flatten(1), F.normalize(self.a)), F.normalize(self.b))

    module = Two().eval()
    network = load(module)
    assert torch.equal(outputs(network.module), outputs(module))
    assert "effective_weights" not in network.provenance
