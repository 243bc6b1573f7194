"""The one layer: its shape, and the ways in which its weights begin."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_blocks import fitted, mean_slice, patches
from torch import Tensor, nn

import netopsy
from netopsy.blocks.block import Block
from netopsy.blocks.find import default_blocks, find_block, find_blocks
from netopsy.blocks.fit import layer_shape
from netopsy.blocks.layer import OneLayer, mean_of_parent, new_layer
from netopsy.blocks.least_squares import least_squares
from netopsy.blocks.section import section
from netopsy.engine.interpreter import plan
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.samples import Samples
from networks import loaded


def network_of(module: nn.Module, size: int = 16) -> Network:
    return Network("test", module, Preprocessing(size=(size, size)))


class Shapes(nn.Module):
    """Blocks of every shape: unpadded, strided, of even kernels, pooled inside, joined, gated, ending in odd ways."""

    class Join(nn.Module):
        def __init__(self, act: nn.Module) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(6, 4, 1), act)
            self.b = nn.Sequential(nn.Conv2d(6, 4, (1, 5), padding=(0, 2)), act)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.a(x), self.b(x)], 1)

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.b(F.relu(self.a(x.mean((2, 3), keepdim=True)))).sigmoid()

    def __init__(self) -> None:
        super().__init__()
        self.valid = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU6(), nn.Conv2d(4, 4, 3), nn.GELU("tanh"))
        self.strided = nn.Sequential(
            nn.Conv2d(4, 5, 3, 2, 1), nn.BatchNorm2d(5, 1e-3, 0.2), nn.Conv2d(5, 5, (4, 2), (2, 1))
        )
        self.even = nn.Sequential(nn.Conv2d(5, 5, 4, padding=2), nn.LeakyReLU(0.2), nn.Conv2d(5, 6, 4, padding=1))
        self.join = Shapes.Join(nn.SiLU())
        self.gate = Shapes.Gate()
        self.pooled = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(8, 9, 3, padding=1), nn.PReLU()
        )
        self.flat = nn.Flatten()
        self.mlp = nn.Sequential(nn.Linear(9 * 24, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.even(self.strided(self.valid(x)))
        return self.head(self.mlp(self.flat(self.pooled(self.gate(self.join(x))))))


@pytest.fixture(scope="module")
def shapes() -> Network:
    return network_of(Shapes(), 40)


@pytest.fixture(scope="module")
def digits() -> Network:
    return loaded("netopsy:digits-a")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return netopsy.load_samples("digits", count=60)


def value(network: Network, samples: Samples, *names: str) -> list[Tensor]:
    """Values of nodes for all samples."""
    batch = next(iter(samples.batches(network.preprocessing, len(samples))))
    with torch.no_grad():
        values = plan(network, names).run({"input": batch.images}, batch=len(samples))
    return [values[name] for name in names]


def test_layer_gives_exactly_the_block_s_shape(shapes: Network) -> None:
    blocks = {b.name: b for b in find_blocks(shapes)}
    assert {"valid", "strided", "even", "join", "gate", "pooled", "mlp"} <= blocks.keys()
    for block in blocks.values():
        layer = new_layer(shapes, block)
        x = torch.randn(3, *block.input_shape)
        assert tuple(layer(x).shape[1:]) == block.output_shape, block.name


def test_layer_takes_the_block_s_kernel_stride_norm_and_activation(shapes: Network) -> None:
    shapes_of = {b.name: layer_shape(shapes, b) for b in find_blocks(shapes)}
    assert (shapes_of["valid"].kernel, shapes_of["valid"].stride) == ((5, 5), (1, 1))
    assert shapes_of["valid"].padding == (-1, -1, -1, -1)  # two 5x5 and 3x3 windows see one place more on each side
    assert shapes_of["valid"].act == ("gelu", ("tanh",))
    assert (shapes_of["strided"].kernel, shapes_of["strided"].stride) == ((4, 3), (4, 2))
    assert shapes_of["strided"].norm == (1e-3, 0.2) and shapes_of["strided"].act is None
    assert shapes_of["join"].act == ("silu", ()) and shapes_of["join"].kernel == (1, 5)
    assert shapes_of["gate"].act is None and shapes_of["gate"].kernel == (1, 1)
    assert shapes_of["pooled"].stride == (2, 2) and shapes_of["pooled"].act is None  # PReLU learns its slope
    assert shapes_of["mlp"].norm == (1e-5, 0.1) and shapes_of["mlp"].act == ("tanh", ())


def test_a_join_of_different_activations_leaves_none() -> None:
    class Join(Shapes.Join):
        def __init__(self) -> None:
            super().__init__(nn.ReLU())
            self.b[1] = nn.SiLU()

    network = network_of(nn.Sequential(nn.Conv2d(3, 6, 1), Join(), nn.Conv2d(8, 2, 16), nn.Flatten()))
    assert layer_shape(network, find_block(network, "1")).act is None


def test_a_norm_without_momentum_is_taken_over() -> None:
    inner = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, momentum=None), nn.GELU()]
    network = network_of(nn.Sequential(nn.Sequential(*inner), nn.Flatten(), nn.Linear(4 * 256, 2)))
    layer = new_layer(network, find_block(network, "0")).train()
    batches = [torch.randn(3, 3, 16, 16) + i for i in range(3)]
    with torch.no_grad():
        means = [layer.map(x).mean((0, 2, 3)) for x in batches]
        for x in batches:
            layer(x)
    assert layer.norm is not None
    torch.testing.assert_close(layer.norm.running_mean, torch.stack(means).mean(0))


def test_padding_keeps_the_layer_centred(shapes: Network) -> None:
    for block in find_blocks(shapes):
        layer = new_layer(shapes, block)
        if layer.conv is None:
            continue
        for axis, pads in ((0, layer.shape.padding[2:]), (1, layer.shape.padding[:2])):
            size, expected = block.input_shape[1 + axis], block.output_shape[1 + axis]
            span = (expected - 1) * layer.shape.stride[axis] + layer.shape.kernel[axis]
            before, after = pads[0], span - size - pads[0]  # places beyond the map on either side
            assert abs(before - after) <= layer.shape.stride[axis]


def test_a_map_that_slices_make_smaller_is_seen_whole() -> None:
    class Merge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)[:, :, ::4, 1::4])

    class Unpadded(nn.Sequential):  # its windows, not a stride, use up the map
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(6, 6, 3, dilation=2), nn.MaxPool2d(2, 1), nn.Conv2d(6, 6, 2))

    network = network_of(nn.Sequential(Merge(), Unpadded(), nn.Flatten(), nn.Linear(6 * 16, 2)), 40)
    merge, unpadded = (layer_shape(network, find_block(network, name)) for name in "01")
    assert (merge.stride, merge.kernel, merge.padding) == ((4, 4), (3, 3), (1, 1, 1, 1))
    assert (unpadded.stride, unpadded.kernel, unpadded.padding) == ((1, 1), (3, 3), (-2, -2, -2, -2))


def test_obstacle_is_the_error() -> None:
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 1)), nn.Flatten()
    )
    network = network_of(nn.Sequential(module, nn.Linear(4 * 32 * 32, 2)))
    block = find_block(network, "0.0")
    with pytest.raises(SettingsError, match=r"no one layer can stand in for 0 of test. It enlarges the map"):
        new_layer(network, block)


def test_random_start_is_glorot_uniform_and_drawn_by_the_seed(digits: Network) -> None:
    block = find_block(digits, "block5")
    before = torch.random.get_rng_state()
    layer = new_layer(digits, block, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    weight = layer.map.weight.detach()
    bound = math.sqrt(6 / (64 * 9 + 64 * 9))
    assert float(weight.abs().max()) <= bound
    sorted_weights = weight.flatten().sort().values / bound
    uniform = torch.linspace(-1, 1, len(sorted_weights))
    assert float((sorted_weights - uniform).abs().max()) < 2 * 1.95 / math.sqrt(len(uniform))  # Kolmogorov, 0.1 %
    assert torch.equal(weight, new_layer(digits, block, seed=3).map.weight)
    assert not torch.equal(weight, new_layer(digits, block, seed=4).map.weight)
    assert layer.map.bias is not None and not layer.map.bias.any()
    assert not layer.training and layer.norm is not None and not layer.norm.training


def test_mean_of_parent_is_the_mean_of_all_slices(digits: Network) -> None:
    block = find_block(digits, "block3")
    layer = new_layer(digits, block)
    mean_of_parent(digits, block, layer)
    weights = [digits.tensors[f"{name}.weight"] for name in block.layers]
    expected = mean_slice(weights)
    actual = layer.map.weight.detach().numpy()
    np.testing.assert_allclose(actual, np.broadcast_to(expected, actual.shape), rtol=1e-6)
    mean_of_parent(digits, block, layer, each="filter")
    for j in (0, 17, 31):
        expected = mean_slice([w[j : j + 1] for w in weights])
        np.testing.assert_allclose(
            layer.map.weight[j].detach().numpy(), np.broadcast_to(expected, (16, 3, 3)), rtol=1e-6
        )
    assert layer.map.bias is not None and not layer.map.bias.any()
    with pytest.raises(SettingsError, match="each 'block' must be 'layer'"):
        mean_of_parent(digits, block, layer, each="block")  # type: ignore[arg-type]


def test_smaller_filters_count_as_larger_ones_amid_zeros(shapes: Network) -> None:
    block = find_block(shapes, "join")
    layer = new_layer(shapes, block)
    mean_of_parent(shapes, block, layer)
    first, second = (shapes.tensors[f"join.{name}.0.weight"].detach() for name in "ab")
    expected = mean_slice([F.pad(first, (2, 2)), second])
    np.testing.assert_allclose(layer.map.weight[3, 2].detach().numpy(), expected, rtol=1e-5, atol=1e-8)
    with pytest.raises(SettingsError, match="no layer of join has 8 filters"):
        mean_of_parent(shapes, block, layer, each="filter")


def test_mean_of_linear_layers_is_the_mean_of_their_weights(shapes: Network) -> None:
    block = find_block(shapes, "mlp")
    layer = new_layer(shapes, block)
    mean_of_parent(shapes, block, layer)
    both = torch.cat([shapes.tensors[f"mlp.{i}.weight"].flatten() for i in (0, 3)])
    torch.testing.assert_close(layer.map.weight.detach(), both.mean().expand(8, 9 * 24), rtol=1e-5, atol=1e-8)


def oracle(network: Network, samples: Samples, block: Block, layer: OneLayer, before: str) -> tuple[np.ndarray, ...]:
    x, y = value(network, samples, block.input, before)
    rows = patches(x, layer.shape.kernel, layer.shape.stride, layer.shape.padding)
    weight, bias, r2 = fitted(rows, y.double().flatten(2).mT.reshape(len(rows), -1).numpy())
    return weight, bias, np.array(r2), rows @ weight + bias


@pytest.mark.parametrize("name, before", [("block1", "block1.bn2"), ("block3", "block3.bn3")])
def test_least_squares_is_lstsq_on_unfolded_patches(digits: Network, samples: Samples, name: str, before: str) -> None:
    samples = samples.subset(20) if name == "block1" else samples
    block = find_block(digits, name)
    layer = new_layer(digits, block)
    result = least_squares(digits, block, layer, samples, rows=10**9)
    weight, _, r2, fit = oracle(digits, samples, block, layer, before)
    np.testing.assert_allclose(layer.map.weight.detach().flatten(1).T.numpy(), weight, rtol=1e-3, atol=1e-4)
    assert result["r2"] == pytest.approx(float(r2), abs=1e-6)
    assert (result["share"], result["rows"], result["images"]) == (1.0, len(fit), len(samples))
    (x,) = value(digits, samples, block.input)
    with torch.no_grad():
        for training in (False, True):  # in training the norm sees just the images of the fit
            actual = layer.train(training)(x).flatten(2).mT.reshape(len(fit), -1).numpy()
            np.testing.assert_allclose(actual, np.maximum(fit, 0), atol=2e-4)


def test_least_squares_of_strides_and_cut_edges_is_lstsq(shapes: Network) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 40, 40, 3), np.uint8)
    samples = netopsy.load_samples((images, np.arange(30) % 3))
    for name, before in (("valid", "valid.2"), ("strided", "strided"), ("even", "even")):
        block = find_block(shapes, name)
        layer = new_layer(shapes, block)
        result = least_squares(shapes, block, layer, samples, rows=10**9)
        before = before if before in shapes.nodes else block.output
        _, _, r2, _ = oracle(shapes, samples, block, layer, before)
        assert result["r2"] == pytest.approx(float(r2), abs=1e-5), name
    join = find_block(shapes, "join")
    layer = new_layer(shapes, join)
    least_squares(shapes, join, layer, samples)
    x, a, b = value(shapes, samples, join.input, "join.a.0", "join.b.0")
    with torch.no_grad():  # two linear branches, joined before their activation: a linear map, found whole
        torch.testing.assert_close(layer.map(x), torch.cat([a, b], 1), rtol=1e-3, atol=1e-4)


def test_a_linear_block_is_recovered() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.Conv2d(5, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
    with torch.no_grad():
        inner[2].running_mean.normal_(), inner[2].running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        inner[2].weight.normal_(), inner[2].bias.normal_()  # type: ignore[union-attr]
    network = network_of(nn.Sequential(inner, nn.Flatten(), nn.Linear(6 * 64, 4)))
    block = find_block(network, "0")
    layer = new_layer(network, block)
    images = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), np.uint8)
    result = least_squares(network, block, layer, netopsy.load_samples((images, np.arange(50) % 4)))
    assert result["r2"] == pytest.approx(1, abs=1e-9)
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), network.module[0](x), rtol=1e-4, atol=1e-5)  # type: ignore[index]
        replaced = section(network, replaced=[(block, layer)])
        torch.testing.assert_close(replaced(x), network.module(x), rtol=1e-4, atol=1e-5)


def test_tokens_and_vectors_are_fitted_by_a_linear_map() -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).mT
            return self.head((x + self.block(x)).mean(1))

    network = network_of(Tiny())
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    samples = netopsy.load_samples((images, np.arange(40) % 4))
    block = find_block(network, "block")
    layer = new_layer(network, block)
    result = least_squares(network, block, layer, samples)
    x, y = value(network, samples, block.input, block.output)
    weight, bias, r2 = fitted(x.flatten(0, 1).double().numpy(), y.flatten(0, 1).double().numpy())
    np.testing.assert_allclose(layer.map.weight.detach().T.numpy(), weight, atol=1e-4)
    np.testing.assert_allclose(layer.map.bias.detach().numpy(), bias, atol=1e-4)
    assert result["r2"] == pytest.approx(r2, abs=1e-6)


def test_singular_equations_are_solved_with_a_ridge(digits: Network, samples: Samples) -> None:
    block = find_block(digits, "block5")
    layer = new_layer(digits, block)
    few = samples.subset(20)  # 80 rows for 576 unknowns
    result = least_squares(digits, block, layer, few)
    assert result["ridge"] > 0 and result["r2"] == pytest.approx(1, abs=1e-3)
    assert bool(layer.map.weight.isfinite().all()) and float(layer.map.weight.detach().abs().max()) < 100


def test_fewer_rows_are_drawn_evenly_and_give_nearly_the_same_fit(digits: Network, samples: Samples) -> None:
    block = find_block(digits, "block2")
    whole, part, same = (new_layer(digits, block) for _ in range(3))
    all_rows = least_squares(digits, block, whole, samples, rows=10**9)
    some = least_squares(digits, block, part, samples, rows=60 * 64)
    assert (some["rows"], some["share"]) == (60 * 64, 0.25)
    assert some["r2"] == pytest.approx(all_rows["r2"], abs=0.02)
    least_squares(digits, block, same, samples, rows=60 * 64, batch_size=7)
    assert not torch.equal(part.map.weight, whole.map.weight)


def test_too_many_unknowns_are_refused() -> None:
    network = network_of(
        nn.Sequential(nn.Sequential(nn.Conv2d(3, 300, 1), nn.Conv2d(300, 300, 7)), nn.Conv2d(300, 2, 10))
    )
    assert new_layer(network, find_block(network, "0")).map.weight[0].numel() == 3 * 49
    inner = find_block(network, "0.1:0.1")
    images = np.zeros((4, 16, 16, 3), np.uint8)
    with pytest.raises(SettingsError, match="14,700 unknowns an output, more than 12,000"):
        least_squares(network, inner, new_layer(network, inner), netopsy.load_samples((images, np.arange(4) % 2)))


def test_starts_leave_the_network_alone(digits: Network, samples: Samples) -> None:
    before = {name: tensor.clone() for name, tensor in digits.tensors.items()}
    for block in default_blocks(digits)[2:]:
        layer = new_layer(digits, block)
        mean_of_parent(digits, block, layer)
        least_squares(digits, block, layer, samples.subset(20))
    assert all(torch.equal(digits.tensors[name], tensor) for name, tensor in before.items())


def test_a_fit_that_was_stopped_draws_the_places_that_it_would_have(
    digits: Network, samples: Samples, tmp_path: Path
) -> None:
    block = find_block(digits, "block1")

    def stop(label: str, done: int, total: int) -> None:
        if label.startswith("least squares") and done:
            raise KeyboardInterrupt

    def fit() -> tuple[dict, Tensor]:
        layer = new_layer(digits, block)
        return least_squares(digits, block, layer, samples, rows=2000, batch_size=8), layer.map.weight.detach().clone()

    whole, weight = fit()
    assert whole["share"] < 1
    with pytest.raises(KeyboardInterrupt), netopsy.workspace(tmp_path, stop, every=0):
        fit()
    begun: list[int] = []
    with netopsy.workspace(tmp_path, lambda label, done, total: begun.append(done)):
        again, same = fit()
    assert begun[0] == 8 and again == whole and torch.equal(weight, same)
