"""The architectures that the papers use and torchvision lacks; each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from torch import nn

from netopsy.errors import NetworkError, nearest
from netopsy.network.preprocessing import Preprocessing

ZOO: dict[str, str] = {
    "alexnet": "papers:ALEXNET",
    "digits_a": "vgg:DIGITS_A",
    "digits_b": "vgg:DIGITS_B",
    "googlenet": "papers:GOOGLENET",
    "lenet5": "papers:LENET_5",
    "lenet_300_100": "papers:LENET_300_100",
    "mnist_mlp": "papers:MNIST_MLP",
    "resnet20": "papers:RESNET_20",
    "resnet20_projection": "papers:RESNET_20_PROJECTION",
    "resnet32": "papers:RESNET_32",
    "resnet44": "papers:RESNET_44",
    "resnet56": "papers:RESNET_56",
    "resnet110": "papers:RESNET_110",
    "vgg16_bn": "vgg:VGG_16_BN",
    "vgg_m": "vgg:VGG_M",
}


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and what its input looks like.

    build: makes the module with freshly drawn weights; its parameters are the options of the architecture.
    preprocessing: what the published weights of this architecture expect.
    shipped: file under `netopsy/network/shipped` with trained weights, if the package holds them.
    """

    build: Callable[..., nn.Module]
    preprocessing: Preprocessing
    shipped: str | None = None


def architecture(name: str) -> Architecture:
    """The entry of the zoo called `name`; `-` and `_` are alike.

    Raises NetworkError with the nearest names.
    """
    key = name.lower().replace("-", "_")
    if key not in ZOO:
        raise NetworkError(f"no network 'netopsy:{name}'; nearest: {nearest(key, ZOO)}; all: {', '.join(ZOO)}.")
    module, constant = ZOO[key].split(":")
    entry: Architecture = getattr(import_module(f"{__name__}.{module}"), constant)
    return entry
