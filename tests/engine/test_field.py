"""Receptive fields from the graph against the experiment of changing one pixel at a time."""

from __future__ import annotations

import random

import pytest
import torch
from reference_field import box, positive, seen
from torch import Tensor, nn
from torch.nn import functional as F

from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.windows.field import receptive_field
from networks import loaded


class Branches(nn.Module):
    """Runs branches on one input and joins them."""

    def __init__(self, join: str, *branches: nn.Module) -> None:
        super().__init__()
        self.join, self.branches = join, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        values = [branch(x) for branch in self.branches]
        if self.join == "cat":
            return torch.cat(values, 1)
        return values[0] + values[1] if self.join == "add" else values[0] * values[1]


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class ChannelsLast(nn.Module):
    """A linear map over the channels with the channels last, as in ConvNeXt, scaled by their mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.permute(0, 2, 3, 1))
        return (x * x.mean(-1, keepdim=True)).permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Attention inside windows of w x w, written with views, transposes and matrix products."""

    def __init__(self, channels: int, w: int) -> None:
        super().__init__()
        self.w, self.qkv = w, nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, v = x.shape
        w = self.w
        x = x.view(n, c, h // w, w, v // w, w).permute(0, 2, 4, 3, 5, 1).reshape(-1, w * w, c)
        q, k, value = self.qkv(x).chunk(3, -1)
        x = (q @ k.transpose(1, 2) * 1e-3).softmax(-1) @ value + x
        return x.view(n, h // w, v // w, w, w, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, v)


class Tokens(nn.Module):
    """Scaled dot-product attention over all places and a class token, back to a plane."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token, self.qkv = nn.Parameter(torch.ones(1, 1, channels)), nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = torch.cat([self.token.expand(n, -1, -1), x.flatten(2).transpose(1, 2)], 1)
        q, k, v = (1e-4 * self.qkv(tokens)).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)[:, 1:].transpose(1, 2).reshape(n, c, h, w)


def network_of(module: nn.Module, size: tuple[int, int]) -> Network:
    preprocessing = Preprocessing(size=size, mean=(0.0,), std=(1.0,), channels="L")
    return Network("test", positive(module), preprocessing)


def compare(module: nn.Module, size: tuple[int, int], *, holes: bool = False, bound: bool = False) -> bool:
    """Assert that the fields of all outputs are right, or hold the right ones if they are bounds; return `exact`.

    holes: dilated windows that hang over the edge may leave a margin of pixels between their taps.
    """
    network = network_of(module, size)
    field = receptive_field(network, network.output)
    truth = seen(module, (1, *size))
    rows, columns = truth.shape[:2]
    assert field.grid == (rows, columns)
    for y in range(rows):
        for x in range(columns):
            true = box(truth[y, x])
            if true is None:
                continue
            box_here, whole = field.at(y, x), field.at(y, x, cut=False)
            if field.exact and not bound and (box_here == whole or not holes):
                assert box_here == true, (y, x, field)
            else:
                assert (
                    box_here[0] <= true[0]
                    and box_here[1] <= true[1]
                    and box_here[2] >= true[2]
                    and box_here[3] >= true[3]
                ), (
                    y,
                    x,
                    field,
                )
    return field.exact


EXACT = {
    "dilated": (nn.Conv2d(1, 2, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 3)), (17, 13)),
    "grouped": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4, padding=1)), (9, 9)),
    "same": (nn.Sequential(nn.Conv2d(1, 2, 4, padding="same"), nn.Conv2d(2, 2, 3, padding="same")), (9, 9)),
    "uneven stem": (nn.Sequential(nn.Conv2d(1, 2, 5, stride=4), nn.Conv2d(2, 2, 3, padding=1)), (24, 23)),
    "ceil": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(2, 2, 2)), (15, 16)),
    "dilated pool": (nn.MaxPool2d(3, 2, 1, dilation=2), (14, 15)),
    "adaptive": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d((4, 2))), (14, 14)),
    "norms": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LocalResponseNorm(3), nn.Conv2d(4, 2, 3)),
        (9, 8),
    ),
    "group norm": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)), (8, 8)),
    "residual": (Branches("add", nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(1, 2, 1, 2)), (11, 12)),
    "inception": (Branches("cat", nn.Conv2d(1, 2, 5, padding=2), nn.MaxPool2d(3, 1, 1), nn.Conv2d(1, 1, 1)), (10, 9)),
    "squeeze-excite": (
        Branches("mul", nn.Conv2d(1, 2, 3, padding=1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 2, 1))),
        (8, 7),
    ),
    "asymmetric pad": (nn.Sequential(nn.ZeroPad2d((2, 0, 1, 3)), nn.Conv2d(1, 1, 3, stride=2)), (10, 11)),
    "crop": (nn.Sequential(nn.Conv2d(1, 1, 3), Apply(lambda x: x[:, :, 2:-1, 1::2]), nn.Conv2d(1, 1, 2)), (12, 13)),
    "focus": (
        nn.Sequential(
            Apply(lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)),
            nn.Conv2d(4, 2, 3),
        ),
        (12, 12),
    ),
    "nearest": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2)), (9, 8)),
    "transposed, disjoint": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 1, 2, stride=2)), (9, 8)),
    "pixel shuffle": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2)), (8, 8)),
    "pixel unshuffle": (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, 1, 3)), (12, 10)),
    "channels last": (nn.Sequential(nn.Conv2d(1, 4, 3), ChannelsLast(4), nn.Conv2d(4, 4, 3, 2)), (11, 11)),
    "unfold": (Apply(lambda x: F.unfold(x, 3, padding=1, stride=2).view(-1, 9, 5, 4)), (10, 8)),
    "axis means": (nn.Sequential(nn.Conv2d(1, 2, 3), Apply(lambda x: x * x.mean(2, keepdim=True))), (8, 9)),
    "window attention": (nn.Sequential(nn.Conv2d(1, 4, 2, 2), WindowAttention(4, 3)), (12, 18)),
}
BOUNDS = {
    "adaptive, uneven": (nn.AdaptiveAvgPool2d((3, 4)), (11, 10)),
    "bilinear": (nn.Sequential(nn.Conv2d(1, 1, 3), nn.Upsample(scale_factor=2, mode="bilinear")), (9, 8)),
    "bicubic corners": (nn.Upsample(size=(13, 7), mode="bicubic", align_corners=True), (9, 8)),
    "transposed": (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 4, 2, 1)), (9, 8)),
    "transposed, gaps": (nn.ConvTranspose2d(1, 1, 2, 3, 1, dilation=2, output_padding=1), (7, 8)),
    "roll": (nn.Sequential(nn.Conv2d(1, 1, 3), Apply(lambda x: x.roll((1, 2), (2, 3))), nn.Conv2d(1, 1, 2)), (9, 8)),
    "reflection": (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReflectionPad2d(2), nn.Conv2d(1, 1, 3)), (9, 8)),
    "nearest then conv": (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3, padding=1)), (7, 8)),
    "unknown operator": (Apply(lambda x: x.cumsum(2).sort(3).values.flip(2)), (6, 5)),
}


@pytest.mark.parametrize("name", EXACT)
def test_fields_are_the_boxes_of_the_pixels_that_matter(name: str) -> None:
    assert compare(*EXACT[name], holes="dilated" in name)


@pytest.mark.parametrize("name", BOUNDS)
def test_fields_that_are_bounds_hold_the_pixels_that_matter(name: str) -> None:
    compare(*BOUNDS[name], bound=True)


def test_attention_over_all_tokens_sees_the_whole_image() -> None:
    network = network_of(nn.Sequential(nn.Conv2d(1, 4, 4, 4), Tokens(4), nn.Conv2d(4, 2, 1)), (16, 12))
    field = receptive_field(network, network.output)
    assert field.at() == (0, 0, 16, 12)
    assert seen(network.module, (1, 16, 12)).all()


def random_stack(draw: random.Random) -> nn.Sequential:
    """Two to five blocks drawn at random."""

    def conv(channels: int) -> nn.Module:
        kernel = (draw.randint(1, 4), draw.randint(1, 4))
        padding = (draw.randint(0, kernel[0]), draw.randint(0, kernel[1]))
        stride, dilation = (draw.randint(1, 2), draw.randint(1, 2)), (draw.randint(1, 2), draw.randint(1, 2))
        return nn.Conv2d(channels, 2, kernel, stride, padding, dilation)

    def block(channels: int) -> nn.Module:
        kind = draw.choice(["conv", "conv", "max", "average", "add", "cat", "pad", "slice", "linear"])
        if kind == "conv":
            return conv(channels)
        if kind == "max":
            return nn.Sequential(nn.MaxPool2d(2, draw.randint(1, 2), draw.randint(0, 1), ceil_mode=draw.random() < 0.5))
        if kind == "average":
            return nn.AvgPool2d((3, 2), draw.randint(1, 2), (1, 0), ceil_mode=draw.random() < 0.5)
        if kind == "add":
            return Branches("add", nn.Conv2d(channels, 2, 3, padding=1), nn.Conv2d(channels, 2, (5, 1), padding=(2, 0)))
        if kind == "cat":
            parts = nn.Conv2d(channels, 1, 3, padding=1), nn.Conv2d(channels, 1, (1, 3), padding=(0, 1))
            return Branches("cat", *parts)
        if kind == "pad":
            return nn.ZeroPad2d(tuple(draw.randint(0, 2) for _ in range(4)))
        if kind == "slice":
            begin = draw.randint(0, 1)
            return Apply(lambda x: x[:, :, begin:, : x.shape[3] - begin])
        return ChannelsLast(channels)

    first = nn.Conv2d(1, 2, draw.randint(1, 3), padding=draw.randint(0, 1))
    return nn.Sequential(first, *(block(2) for _ in range(draw.randint(2, 4))))


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 40))])
def test_fields_of_random_stacks(seed: int) -> None:
    draw = random.Random(seed)
    module = random_stack(draw)
    assert compare(module, (draw.randint(16, 21), draw.randint(16, 21)), holes=True)


@pytest.mark.slow
def test_known_fields_of_published_networks() -> None:
    # Araujo et al., "Computing receptive fields of convolutional neural networks", Distill 2019, table of results
    network = loaded("netopsy:vgg_m")
    assert receptive_field(network, "conv1").size == (7, 7)
    network = loaded("netopsy:resnet20")
    last = [layer for layer in network.layers if layer.kind == "conv"][-1]
    # 1 + 2 * (7 + 2 * 6 + 4 * 6): stages of 7, 6 and 6 convolutions 3x3 at strides 1, 2 and 4, strided ones included
    assert receptive_field(network, last.nodes[0]).size[0] == 1 + 2 * (1 + 6) + 2 * (1 + 2 * 5) + 2 * (2 + 4 * 5)


def test_units_outside_the_grid_and_unknown_nodes_are_errors() -> None:
    network = network_of(nn.Sequential(nn.Conv2d(1, 2, 3)), (8, 9))
    field = receptive_field(network, "0")
    assert field.grid == (6, 7) and field.at(5, 6) == (5, 6, 8, 9)
    with pytest.raises(SettingsError, match="rows are 0 to 5, columns 0 to 6"):
        field.at(6, 0)
    with pytest.raises(UnknownLayer):
        receptive_field(network, "conv9")


def test_boxes_may_reach_over_the_edge_when_not_cut() -> None:
    network = network_of(nn.Sequential(nn.Conv2d(1, 2, 7, stride=2, padding=3)), (16, 16))
    field = receptive_field(network, "0")
    assert field.start == (-3, -3) and field.stride == (2, 2)
    assert field.at(0, 1, cut=False) == (-3, -1, 4, 6) and field.at(0, 1) == (0, 0, 4, 6)
