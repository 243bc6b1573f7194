"""Small networks and samples that several test files share, and what their modules put out, by hooks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, load_network
from netopsy.samples.images import ArrayImages


@cache
def loaded(name: str) -> Network:
    """A network of the zoo, with random weights where it is not a shipped one.

    It is exported once for all test files of a process; none of them changes it.
    """
    return load_network(name, **({} if "digits" in name else {"weights": "random"}))


def shipped(letter: str) -> Network:
    """`netopsy:digits-a` or `-b`."""
    return loaded(f"netopsy:digits-{letter}")


@cache
def trained_resnet20(shared: Path) -> Network:
    """The public ResNet-20 for CIFAR-10, exported once too."""
    return load_network("netopsy:resnet20", weights=shared / "data/networks/cifar10-resnet20.safetensors")


class Branching(nn.Module):
    """A residual block with in-place ReLUs, one module called twice, and a head.

    The interpreter's own in-place twins overwrite `bn` and `add` as well, where nobody keeps them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv1(x)))
        x = self.relu(self.conv2(x) + x)
        return self.head(x.mean((2, 3)))


def branching(seed: int = 0, **preprocessing: object) -> Network:
    """`Branching` for images of 12 x 12 pixels, with random weights."""
    torch.manual_seed(seed)
    return Network(f"branching{seed}", Branching(), Preprocessing(size=(12, 12), **preprocessing))  # type: ignore[arg-type]


def branching_values(network: Network, samples: Samples, batch_size: int) -> dict[str, Tensor]:
    """Values of the nodes of `Branching` on all samples, by its own code written out."""
    module = network.module
    assert isinstance(module, Branching)
    values: dict[str, list[Tensor]] = {name: [] for name in ("conv1", "bn", "relu", "add", "relu_1", "head")}
    with torch.no_grad():
        for batch in samples.batches(network.preprocessing, batch_size):
            conv1 = module.conv1(batch.images)
            bn = module.bn(conv1)
            first = bn.relu()
            added = module.conv2(first) + first
            second = added.relu()
            steps = (conv1, bn, first, added, second, module.head(second.mean((2, 3))))
            for name, value in zip(values, steps, strict=True):
                values[name].append(value)
    return {name: torch.cat(parts) for name, parts in values.items()}


class Tokens(nn.Module):
    """A patch embedding, then a perceptron over tokens: the units are on the last axis."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.embed, self.inner, self.activation = nn.Conv2d(3, 7, 4, 4), nn.Linear(7, 11), activation
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.activation(self.inner(tokens)).mean(1))


def sequential(*modules: nn.Module, outputs: int = 5, size: int = 8) -> Network:
    """A chain of modules for images of size x size pixels, and a linear head behind it."""
    body = nn.Sequential(*modules)
    with torch.no_grad():
        features = body(torch.zeros(1, 3, size, size)).flatten(1).shape[1]
    head = nn.Sequential(body, nn.Flatten(), nn.Linear(features, outputs))
    return Network("test", head, Preprocessing(size=(size, size), mean=(0.5,) * 3, std=(0.5,) * 3))


def noise_images(count: int, size: int, classes: int, seed: int = 0) -> Samples:
    """Images of random pixels with random labels."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, size, size, 3), np.uint8)
    return Samples("noise", ArrayImages(pixels), generator.integers(0, classes, count), tuple("abcdefghij"[:classes]))


def module_outputs(network: Network, samples: Samples, *modules: nn.Module) -> list[Tensor]:
    """What the modules put out on all samples, each time that one is called, by hooks on the plain module."""
    values: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _given, value: values.append(value.detach().clone()))
        for module in modules
    ]
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        network.module(batch.images)
    for hook in hooks:
        hook.remove()
    return values
