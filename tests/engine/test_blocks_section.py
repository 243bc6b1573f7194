"""Sections: a part of a network as a module that trains, with blocks replaced."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from reference_blocks import gradients
from torch import Tensor, nn

import netopsy
from netopsy.blocks.find import default_blocks, find_block, find_blocks
from netopsy.blocks.layer import new_layer
from netopsy.blocks.section import compressed_network, layer_path, section
from netopsy.engine.sweep.sweep import Variant, sweep
from netopsy.errors import SettingsError
from netopsy.network.listing import list_layers
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.tallies.moments import Moments
from networks import loaded


def network_of(module: nn.Module, size: int = 16) -> Network:
    return Network("test", module, Preprocessing(size=(size, size)))


class Mixed(nn.Module):
    """Norms that do more than norm, dropout as a module and as a function, a residual sum, statistics of the batch."""

    class NormAct(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.leaky_relu(super().forward(x), 0.1)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), Mixed.NormAct(6, momentum=None)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, affine=False, momentum=0.3)
        self.conv3, self.norm3 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, track_running_stats=False)
        self.drop = nn.Dropout2d(0.3)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(6 * 64, 7), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x))
        x = self.drop(x)
        y = F.relu(self.norm2(self.conv2(x)), inplace=True)
        y = F.dropout(self.norm3(self.conv3(y)), 0.2, self.training)
        return self.head(F.max_pool2d(F.relu(x + y), 2))


@pytest.fixture(scope="module")
def mixed() -> Network:
    torch.manual_seed(0)
    module = Mixed()
    with torch.no_grad():
        module.norm1.running_mean.normal_(), module.norm1.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return network_of(module)


@pytest.fixture(scope="module")
def digits() -> Network:
    return loaded("netopsy:digits-a")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_in_evaluation_it_equals_the_module_bit_for_bit(mixed: Network, digits: Network, images: Tensor) -> None:
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(section(mixed)(x), mixed.module(x))
        assert torch.equal(section(digits)(images), digits.module(images))


def test_in_training_its_gradients_and_statistics_are_the_module_s(mixed: Network) -> None:
    x = torch.randn(5, 3, 16, 16)
    module, whole_section = copy.deepcopy(mixed.module), copy.deepcopy(section(mixed))
    expected, result = gradients(module, x, 3), gradients(whole_section, x, 3)
    assert expected.keys() == result.keys() and len(expected) == 12
    for name, gradient in expected.items():
        torch.testing.assert_close(result[name], gradient, rtol=1e-5, atol=1e-6)
    buffers = dict(whole_section.named_buffers())
    assert any("running_mean" in name for name in buffers)
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(buffers[name], buffer)
    assert not torch.equal(buffers["norm1.running_mean"], mixed.tensors["norm1.running_mean"])


def test_every_dropout_is_there_and_draws_anew(mixed: Network) -> None:
    whole_section = section(mixed)
    dropouts = [m for m in whole_section.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    assert sorted(m.p for m in dropouts) == [0.1, 0.2, 0.3, 0.5]
    whole_section = copy.deepcopy(whole_section).train()
    x = torch.ones(64, 3, 16, 16)
    dropped = float((whole_section(x) == 0).float().mean())
    assert 0.03 < dropped < 0.2  # the last dropout, of 0.1 of the outputs


class DropPath(nn.Module):
    """Stochastic depth as timm has it: a share of the images of a batch does without a branch."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        keep = torch.empty(len(x), 1, 1, 1).bernoulli_(1 - self.drop_prob)
        return x * keep / (1 - self.drop_prob) if self.training else x


def test_stochastic_depth_is_the_module_s() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 4, 1), nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
            self.never, self.often = DropPath(0.0), DropPath(0.6)
            self.rows = torchvision.ops.StochasticDepth(0.4, "row")
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for layer, drop in zip(self.body, (self.often, self.rows, self.often), strict=True):
                x = x + drop(layer(x).relu())
            return self.head(x.mean((2, 3)))

    network = network_of(Deep())
    whole_section, x = section(network), torch.randn(12, 3, 16, 16)
    for seed in range(3):
        expected, result = (gradients(copy.deepcopy(one), x, seed) for one in (network.module, whole_section))
        assert all(torch.equal(result[name], gradient) for name, gradient in expected.items())
    assert not torch.equal(expected["stem.weight"], gradients(copy.deepcopy(whole_section), x, 0)["stem.weight"])
    assert not network.module.often._forward_hooks and not network.module.training
    with torch.no_grad():
        assert torch.equal(whole_section.eval()(x), network.module(x))


def test_gradients_of_a_whole_network_in_training() -> None:
    network = loaded("netopsy:resnet20")  # of the others, tests/test_blocks_architectures.py
    x = torch.randn(4, *network.preprocessing.input_shape)
    expected, result = gradients(copy.deepcopy(network.module), x, 0), gradients(copy.deepcopy(section(network)), x, 0)
    assert expected.keys() == result.keys()
    for key, gradient in expected.items():
        assert float((result[key] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-9, key


def test_channels_last_values_and_weights_work(mixed: Network) -> None:
    whole_section = copy.deepcopy(section(mixed)).to(memory_format=torch.channels_last)
    x = torch.randn(3, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(whole_section(x), mixed.module(x))
    whole_section.train()(x).sum().backward()


def test_weights_are_the_parent_s_own_until_they_are_trained(digits: Network, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in digits.tensors.items()}
    block = find_block(digits, "block3")
    replaced = section(digits, replaced=[(block, new_layer(digits, block))])
    parameters = {name: p for name, p in replaced.named_parameters() if not name.startswith("block3.")}
    assert len(parameters) == sum(not name.startswith("block3.") for name, _ in digits.module.named_parameters())
    assert all(p is digits.tensors[name] for name, p in parameters.items())
    assert all(b.data_ptr() == digits.tensors[n].data_ptr() for n, b in replaced.named_buffers() if "block3" not in n)
    trained = copy.deepcopy(replaced).train()
    optimizer = torch.optim.SGD(trained.parameters(), 0.1)
    trained(images).square().sum().backward()
    optimizer.step()
    changed = dict(trained.named_parameters())
    assert not torch.equal(changed["block1.conv1.weight"], digits.tensors["block1.conv1.weight"])
    assert all(torch.equal(digits.tensors[name], tensor) for name, tensor in before.items())


def test_parts_in_a_row_are_the_whole(digits: Network, images: Tensor) -> None:
    blocks = default_blocks(digits)
    with torch.no_grad():
        value = section(digits, end=blocks[1].after)(images)
        inside = section(digits, start=blocks[1].after, end=blocks[2].output)(value)
        behind = section(digits, start=blocks[2].output)(inside)
        assert torch.equal(behind, digits.module(images))
    names = {name.split(".")[0] for name, _ in section(digits, start=blocks[1].after).named_parameters()}
    assert names == {"block3", "block4", "block5", "fc"}


def test_a_replaced_block_is_the_new_module(digits: Network, images: Tensor) -> None:
    blocks = default_blocks(digits)
    layers = {block.name: new_layer(digits, block, seed=i) for i, block in enumerate(blocks)}
    replaced = section(digits, replaced=[(block, layers[block.name]) for block in blocks[1:3]])
    value = images
    with torch.no_grad():
        value = F.max_pool2d(section(digits, end=blocks[0].output)(value), 2)
        for block in blocks[1:3]:
            value = F.max_pool2d(layers[block.name](value), 2)
        assert torch.equal(replaced(images), section(digits, start=blocks[2].after)(value))


def test_new_layers_lie_where_layer_path_says(digits: Network) -> None:
    block = find_block(digits, "block2.conv1:block2.conv2")
    assert block.name == "block2"  # the same nodes
    part = find_block(digits, "block3.conv1:block3.conv2")
    layer = new_layer(digits, part)
    replaced = section(digits, replaced=[(part, layer)])
    assert layer_path(part) == "block3.conv1_to_block3_conv2"
    assert replaced.get_submodule(layer_path(part)) is layer
    assert layer_path(block) == "block2"


def test_what_does_not_fit_is_said(digits: Network) -> None:
    resnet = loaded("netopsy:resnet20")
    with pytest.raises(
        SettingsError, match="needs a value that is made before it; begin at a node that all paths pass"
    ):
        section(resnet, start="layer1.0.conv1")
    block, inner = find_block(digits, "block2"), find_block(digits, "block2.conv1:block2.bn1")
    with pytest.raises(SettingsError, match=r"block2 and block2.conv1:block2.bn1 overlap"):
        section(digits, replaced=[(block, nn.Identity()), (inner, nn.Identity())])
    with pytest.raises(SettingsError, match=r"needs 'block2.relu1', which is inside the replaced block block2"):
        section(digits, end="block2.relu1", replaced=[(block, new_layer(digits, block))])


def test_it_survives_pickle_and_copy(mixed: Network) -> None:
    x = torch.randn(2, 3, 16, 16)
    whole_section = section(mixed)
    there = pickle.loads(pickle.dumps(whole_section))
    again = copy.deepcopy(pickle.loads(pickle.dumps(there)))
    with torch.no_grad():
        for twin in (there, again, copy.deepcopy(whole_section)):
            assert torch.equal(twin(x), whole_section(x))
            assert twin.meta == whole_section.meta
    assert gradients(there, x, 5).keys() == gradients(copy.deepcopy(whole_section), x, 5).keys()


def _in_a_process(pickled: bytes, x: Tensor, path: Path) -> None:
    module = pickle.loads(pickled).train()
    module(x).sum().backward()
    first = next(p.grad for p in module.parameters())
    torch.save({"output": module.eval()(x).detach(), "gradient": first}, path)


@pytest.mark.slow
def test_it_runs_and_trains_in_a_spawned_process(digits: Network, images: Tensor, tmp_path: Path) -> None:
    block = find_block(digits, "block2")
    replaced = section(digits, replaced=[(block, new_layer(digits, block))])
    before = {name: tensor.clone() for name, tensor in replaced.state_dict().items()}
    pickled = pickle.dumps(replaced)  # given to `Process` as a module, its tensors would be one memory here and there
    arguments = (pickled, images, tmp_path / "got")
    process = multiprocessing.get_context("spawn").Process(target=_in_a_process, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    spawned = torch.load(tmp_path / "got", weights_only=True)
    _in_a_process(pickled, images, tmp_path / "here")
    here = torch.load(tmp_path / "here", weights_only=True)
    torch.testing.assert_close(spawned["output"], here["output"])
    torch.testing.assert_close(spawned["gradient"], here["gradient"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in replaced.state_dict().items())


def test_pickled_it_trains_as_before(mixed: Network) -> None:
    whole_section, x = section(mixed), torch.randn(5, 3, 16, 16)
    for training in (False, True):
        assert pickle.loads(pickle.dumps(whole_section.train(training))).training is training
    twins = [copy.deepcopy(whole_section), pickle.loads(pickle.dumps(whole_section))]
    for seed in (1, 2):  # the dropouts' draws, and the second step's statistics after the first's
        expected, result = (gradients(twin, x, seed) for twin in twins)
        assert all(torch.equal(result[name], gradient) for name, gradient in expected.items())
    states = [twin.state_dict() for twin in twins]
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
    assert int(states[0]["norm1.num_batches_tracked"]) == 2
    with torch.no_grad():
        assert torch.equal(twins[0].eval()(x), twins[1].eval()(x))


def test_compressed_network_keeps_the_parent_s_names(digits: Network) -> None:
    block = find_block(digits, "block3")
    small = compressed_network(digits, [(block, new_layer(digits, block))])
    assert small.name == "netopsy:digits-a with block3 as one layer"
    assert set(digits.nodes) - set(small.nodes) == set(block.nodes)
    assert set(small.nodes) - set(digits.nodes) == {"block3.conv", "block3.norm", "block3.act"}
    assert list_layers(small)["layer"].to_list() == [
        "block3.conv" if layer.name == "block3.conv1" else layer.name
        for layer in digits.layers
        if layer.name not in ("block3.conv2", "block3.conv3")
    ]
    assert [b.name for b in find_blocks(small)] == ["block1", "block2", "block4", "block5"]
    assert find_block(small, "block3").output == "block3.act"
    copied = small.with_tensors({})
    assert list(copied.nodes) == list(small.nodes) and copied.structure == small.structure
    assert small.parameters == digits.parameters - block.parameters + sum(
        p.numel() for p in small.module.get_submodule("block3").parameters()
    )


def test_ways_of_running_a_network_work_on_a_compressed_one(digits: Network) -> None:
    samples = netopsy.load_samples("digits", count=40)
    block = find_block(digits, "block4")
    small = compressed_network(digits, [(block, new_layer(digits, block))])
    result = netopsy.observe(small, samples, {"x": ("block4.act", Moments()), "y": ("block2.relu1", Moments())})
    same = netopsy.observe(digits, samples, {"y": ("block2.relu1", Moments())})
    torch.testing.assert_close(result["y"].mean, same["y"].mean)
    table = sweep(small, samples, [Variant({"edit": "none"}, None)])
    assert table["images"].to_list() == [40]
    twice = compressed_network(small, [(find_block(small, "block5"), new_layer(small, find_block(small, "block5")))])
    assert "block5.conv" in twice.nodes and "block4.conv" in twice.nodes
    with torch.no_grad():
        x = torch.zeros(1, *digits.preprocessing.input_shape)
        assert torch.equal(section(twice)(x), twice.module(x))
