"""Blocks, sections and the one layer over published architectures, with random weights."""

from __future__ import annotations

import copy

import pytest
import torch
from reference_blocks import flow_graph, gradients, is_single_entry_single_exit

import netopsy
from netopsy.blocks.find import default_blocks, find_blocks
from netopsy.blocks.fit import layer_shape
from netopsy.blocks.layer import new_layer
from netopsy.blocks.section import compressed_network, section
from netopsy.errors import NetopsyError
from netopsy.network.network import Network
from netopsy.network.windows.field import receptive_field

# name, size of the input, the blocks that are taken where none is named
EXPECTED = [
    ("netopsy:vgg16_bn", 32, [f"block{i}" for i in range(1, 6)]),
    ("netopsy:resnet56", 32, ["layer1", "layer2", "layer3"]),
    ("netopsy:lenet_300_100", 28, ["ip1:ip2"]),
    ("torchvision:resnet18", 64, ["layer1", "layer2", "layer3", "layer4"]),
    ("torchvision:resnet50", 64, ["layer1", "layer2", "layer3", "layer4"]),
    (
        "torchvision:vgg16_bn",
        64,
        [f"features.{a}:features.{b}" for a, b in ((0, 3), (7, 10), (14, 20), (24, 30), (34, 40))],
    ),
    (
        "torchvision:densenet121",
        64,
        [
            *(f"features.denseblock{i}.denselayer1.conv1:features.transition{i}.conv" for i in (1, 2, 3)),
            "features.denseblock4",
        ],
    ),
    (
        "torchvision:googlenet",
        96,
        [
            "conv2.conv:conv3.conv",
            *(
                f"inception{stage}a.branch1.conv:inception{stage}{last}.branch4.1.conv"
                for stage, last in ((3, "b"), (4, "e"), (5, "b"))
            ),
        ],
    ),
    (
        "torchvision:squeezenet1_1",
        64,
        [f"features.{a}.squeeze:features.{b}.expand3x3" for a, b in ((3, 4), (6, 7), (9, 12))],
    ),
    ("torchvision:mobilenet_v2", 64, [f"features.{i}" for i in range(1, 18)]),
    ("torchvision:mobilenet_v3_small", 64, [f"features.{i}" for i in range(1, 12)]),
    ("torchvision:convnext_tiny", 64, [f"features.{i}" for i in (1, 3, 5, 7)]),
    ("torchvision:efficientnet_b0", 64, [f"features.{i}" for i in range(1, 8)]),
    ("torchvision:swin_t", 64, [f"features.{i}" for i in (1, 3, 5, 7)]),
    ("torchvision:vit_b_16", 224, [f"encoder.layers.encoder_layer_{i}" for i in range(12)]),
    ("torchvision:regnet_y_400mf", 64, [f"trunk_output.block{i}" for i in range(1, 5)]),
    (
        "torchvision:inception_v3",
        128,
        [
            "Conv2d_1a_3x3.conv:Conv2d_2b_3x3.conv",
            "Conv2d_3b_1x1.conv:Conv2d_4a_3x3.conv",
            *(f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")),
        ],
    ),
    ("timm:vit_tiny_patch16_224", 224, [f"blocks.{i}" for i in range(12)]),
    ("timm:deit_tiny_patch16_224", 224, [f"blocks.{i}" for i in range(12)]),
    ("timm:mixer_s32_224", 224, [f"blocks.{i}" for i in range(8)]),
    ("timm:resmlp_12_224", 224, [f"blocks.{i}" for i in range(12)]),
]


def load(name: str, size: int) -> Network:
    """The network with random weights, those that begin as zeros too: a head of zeros would hide every difference."""
    network = netopsy.load_network(
        name, weights="random", size=(size, size), **({"width": 8} if "netopsy:vgg" in name else {})
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, p in network.module.named_parameters():
            if not bool(p.any()) or "scale" in key or "gamma" in key:
                p.normal_(0, 0.1, generator=generator)
    return network


def stride(network: Network, start: str, end: str) -> tuple[float, float] | None:
    """How far the receptive field moves from one place of `end` to the next, in places of `start`; None: not at all."""
    a, b = (receptive_field(network, name).stride for name in (start, end))
    return (b[0] / a[0], b[1] / a[1]) if all(a) and all(b) else None


@pytest.mark.slow
@pytest.mark.parametrize("name, size, expected", EXPECTED, ids=[name for name, *_ in EXPECTED])
def test_architecture(name: str, size: int, expected: list[str]) -> None:
    network = load(name, size)
    assert [block.name for block in default_blocks(network)] == expected
    graph = flow_graph(network)
    for block in find_blocks(network):
        assert is_single_entry_single_exit(graph, block), block.name
        if block.obstacle is not None:
            with pytest.raises(NetopsyError, match="no one layer can stand in for"):
                new_layer(network, block)
            continue
        with torch.no_grad():
            value = new_layer(network, block)(torch.randn(2, *block.input_shape))
        assert tuple(value.shape[1:]) == block.output_shape, block.name
        if block.kind == "conv" and (moved := stride(network, block.input, block.output)) is not None:
            assert layer_shape(network, block).stride == moved, block.name
    x = torch.randn(2, *network.preprocessing.input_shape, generator=torch.Generator().manual_seed(0))
    whole_section = section(network)
    with torch.no_grad():
        target, output = network.module(x), whole_section(x)
        if "vit_b" in name:  # in evaluation nn.MultiheadAttention takes a fused path of its own, which rounds otherwise
            torch.testing.assert_close(output, target, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(output, target)
    assert float(target.std()) > 0
    module, twin = copy.deepcopy(network.module), copy.deepcopy(whole_section)
    gradients_own, gradients_twin = gradients(module, x, 3), gradients(twin, x, 3)
    assert gradients_own.keys() == gradients_twin.keys()
    for key, gradient in gradients_own.items():
        missed = float((gradients_twin[key] - gradient).norm())
        assert missed <= 1e-5 * float(gradient.norm()) + 1e-9, key
    buffers = dict(twin.named_buffers())
    for key, buffer in module.named_buffers():
        if key in buffers:
            torch.testing.assert_close(buffers[key], buffer)
    blocks = default_blocks(network)[:2]
    small = compressed_network(network, [(block, new_layer(network, block)) for block in blocks])
    with torch.no_grad():
        assert small.module(x).shape == target.shape
    inside = {name for block in blocks for name in block.nodes if name in network.nodes}
    assert inside - {block.output for block in blocks} <= set(network.nodes) - set(small.nodes)
