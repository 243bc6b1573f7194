"""The zoo: parameter counts and shapes against the papers, pieces against slow twins, baselines of real weights."""

from __future__ import annotations

import csv
import importlib.util
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from netopsy.errors import NetworkError
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.sources.load import load_network
from netopsy.network.zoo import ZOO, architecture
from netopsy.network.zoo.papers import INCEPTIONS, PaddingShortcut
from netopsy.samples.load import load_samples

COUNTS = {
    "alexnet": 60_965_224,  # Lorieul et al., Table I
    "googlenet": 6_998_552,  # Caffe's bvlc_googlenet without its auxiliary heads
    "lenet5": 431_080,  # Han et al.: 431K
    "lenet_300_100": 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10,
    "mnist_mlp": 784 * 400 + 400 * 200 + 200 * 100 + 100 * 10,
    "resnet20": 269_722,
    "resnet20_projection": 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64),
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "vgg16_bn": 14_728_266,
    "vgg_m": 102_908_520,
}


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return architecture(name).build(**options)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_papers(name: str) -> None:
    assert count(on_meta(name)) == COUNTS[name]


def test_alexnet_layers_hold_what_table_i_says() -> None:
    # the table's fc7 row leaves out the 4,096 biases that its total counts
    want = [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_777_216 + 4_096, 4_097_000]
    names = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    module = on_meta("alexnet")
    assert [count(module.get_submodule(name)) for name in names] == want


@pytest.mark.parametrize(
    ("name", "million"),
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85), ("resnet110", 1.7)],
)
def test_residual_networks_have_the_depth_of_their_name_and_table_6s_size(name: str, million: float) -> None:
    module = on_meta(name)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules()) == int(name.removeprefix("resnet"))
    assert count(module) / 1e6 == pytest.approx(million, rel=0.025)


def test_vgg_has_13_convolutions_in_5_blocks_and_its_width_scales_them() -> None:
    for width in (64, 8):
        module = on_meta("vgg16_bn", width=width)
        blocks = [
            [m.out_channels for m in getattr(module, f"block{i}") if isinstance(m, nn.Conv2d)] for i in range(1, 6)
        ]
        assert blocks == [[width * f] * n for f, n in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))]


def test_each_inception_feeds_the_next() -> None:
    outputs = [c1 + c3 + c5 + pool for _, c1, _, c3, _, c5, pool in INCEPTIONS.values()]
    inputs = [filters[0] for filters in INCEPTIONS.values()]
    assert outputs[:-1] == inputs[1:]
    assert outputs == [256, 480, 512, 512, 512, 528, 832, 832, 1024]  # Szegedy et al., Table 1


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("alexnet", {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv5": 13, "pool5": 6}),
        pytest.param(
            "vgg_m",
            {"conv1": 109, "pool1": 54, "conv2": 26, "pool2": 13, "conv5": 13, "pool5": 6},
            marks=pytest.mark.slow,
        ),
        ("googlenet", {"conv1": 112, "pool1": 56, "conv2": 56, "pool2": 28, "pool3": 14, "pool4": 7, "pool5": 1}),
    ],
)
def test_maps_have_caffes_sizes(name: str, sizes: dict[str, int]) -> None:
    network = load_network(f"netopsy:{name}")
    assert {key: network.node(key).shape[-1] for key in sizes} == sizes
    assert network.node(next(iter(sizes))).shape[-2] == next(iter(sizes.values()))


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"alexnet", "vgg_m", "googlenet"}))
def test_logits_have_one_number_a_class(name: str) -> None:
    entry = architecture(name)
    logits = entry.build(num_classes=7).eval()(torch.zeros(2, *entry.preprocessing.input_shape))
    assert logits.shape == (2, 7)


def caffe_lrn(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """Caffe's formula, channel by channel: x / (k + alpha / size * sum of squares over `size` channels) ** beta."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        near = x[:, max(0, c - size // 2) : c + size // 2 + 1]
        y[:, c] = x[:, c] / (k + alpha / size * (near**2).sum(1)) ** beta
    return y


@pytest.mark.parametrize(
    ("name", "constants"),
    [("alexnet", (5, 1e-4, 0.75, 1.0)), ("vgg_m", (5, 5e-4, 0.75, 2.0)), ("googlenet", (5, 1e-4, 0.75, 1.0))],
)
def test_local_response_normalisation_is_caffes(name: str, constants: tuple[int, float, float, float]) -> None:
    x = torch.randn(2, 12, 3, 3, dtype=torch.float64) * 100
    want = caffe_lrn(x.numpy(), *constants)
    np.testing.assert_allclose(on_meta(name).get_submodule("norm1")(x).numpy(), want, rtol=1e-12)
    assert np.abs(want / x.numpy() - 1).max() > 0.01


def test_padding_shortcut_takes_every_second_pixel_between_channels_of_zeros() -> None:
    x = torch.randn(2, 16, 8, 8)
    y = PaddingShortcut(16)(x)
    for channel in range(32):
        want = x[:, channel - 8, ::2, ::2] if 8 <= channel < 24 else torch.zeros(2, 4, 4)
        assert torch.equal(y[:, channel], want)


def test_dashes_and_capitals_do_not_matter_and_unknown_names_bring_the_nearest() -> None:
    assert architecture("LeNet-300-100") is architecture("lenet_300_100")
    with pytest.raises(NetworkError, match="no network 'netopsy:resnet21'; nearest: resnet"):
        architecture("resnet21")


@pytest.mark.parametrize("letter", ["a", "b"])
def test_shipped_network_is_small_and_names_98_of_100_held_out_digits(letter: str) -> None:
    network = load_network(f"netopsy:digits-{letter}")
    path = (
        Path(str(importlib.util.find_spec("netopsy.network").origin)).parent
        / f"shipped/digits-vgg-{letter}.safetensors"
    )  # type: ignore[union-attr]
    samples = load_samples("digits")
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.inference_mode():
        right = (network.module(batch.images).argmax(1) == batch.labels).double().mean().item()
    with safe_open(path, "pt") as file:
        documented = float(file.metadata()["accuracy"].split()[0])
    assert path.stat().st_size < 1_000_000
    assert right >= 0.98
    assert right == pytest.approx(documented, abs=0.004)
    assert sum(isinstance(m, nn.Conv2d) for m in network.module.modules()) == 13


def test_shipped_networks_are_two_different_trainings() -> None:
    a, b = (load_network(f"netopsy:digits-{letter}").tensors for letter in "ab")
    assert [t.shape for t in a.values()] == [t.shape for t in b.values()]
    assert not torch.equal(a["block3.conv1.weight"], b["block3.conv1.weight"])


def top1(network: Network, x: Tensor, y: Tensor) -> float:
    """Share of uint8 images (n, channel, height, width), channels in the network's own order, that it names rightly."""
    p: Preprocessing = network.preprocessing
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (p.mean, p.std))
    with torch.inference_mode():
        predictions = [network.module((part.float() * p.scale - mean) / std).argmax(1) for part in x.split(100)]
    return (torch.cat(predictions) == y).double().mean().item()


@pytest.mark.real
def test_mnist_mlps_have_their_published_accuracy(shared: Path) -> None:
    data = np.load(shared / "data/images/mnist/test.npz")
    x, y = torch.from_numpy(data["x"])[:, None], torch.from_numpy(data["y"])
    scores = [
        top1(
            load_network("netopsy:mnist-mlp", weights=shared / f"data/networks/mnist-mlp-seed{seed}.safetensors"), x, y
        )
        for seed in (0, 1)
    ]
    assert scores == pytest.approx([0.9772, 0.9775], abs=1e-4)


def unpack(shared: Path) -> object:
    spec = importlib.util.spec_from_file_location("unpack", shared / "data/unpack.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.real
def test_residual_networks_come_near_their_published_accuracy(shared: Path) -> None:
    x, y = unpack(shared).sheets("cifar10", "test", 1)  # type: ignore[attr-defined]
    images, labels = torch.from_numpy(x[:1000]).permute(0, 3, 1, 2), torch.from_numpy(y[:1000])
    for name, file, want in (
        ("resnet20", "cifar10-resnet20.th", 0.9173),
        ("resnet20_projection", "cifar10-resnet20-projection-run0.safetensors", 0.9171),
    ):
        network = load_network(f"netopsy:{name}", weights=shared / "data/networks" / file)
        # three standard errors of a sample of 1,000 are 2.6 points
        assert top1(network, images, labels) == pytest.approx(want, abs=0.026)


def centre(picture: Image.Image, size: int) -> Tensor:
    """The central square of a picture, uint8 (3, size, size)."""
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return torch.from_numpy(np.array(picture.crop((left, top, left + size, top + size)))).permute(2, 0, 1)


@pytest.mark.slow
@pytest.mark.real
def test_googlenet_names_most_of_the_first_24_imagenet_pictures(shared: Path) -> None:
    network = load_network("netopsy:googlenet", weights=shared / "data/networks/imagenet-googlenet-bvlc.safetensors")
    folder = shared / "data/images/imagenet-sample"
    with (folder / "labels.csv").open() as file:
        rows = list(islice(csv.DictReader(file), 24))
    labels = torch.tensor([int(row["label"]) for row in rows])
    images = torch.stack([centre(Image.open(folder / row["file"]), 224) for row in rows])
    right, turned = top1(network, images.flip(1), labels), top1(network, images, labels)
    assert right > 0.55
    assert right > turned
