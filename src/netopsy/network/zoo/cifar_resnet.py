"""The residual networks for CIFAR."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from netopsy.network.preprocessing import Preprocessing
from netopsy.network.zoo import Architecture


class PaddingShortcut(nn.Module):
    """Every second pixel, with channels of zeros on both sides (option A of the paper; it has no parameters)."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) to (batch, c + added, h / 2, w / 2)."""
        half = self.added // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.added - half))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, depth: int, filters: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(depth, filters, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.relu2 = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if depth != filters:
            self.downsample = (
                nn.Sequential(nn.Conv2d(depth, filters, 1, stride=stride, bias=False), nn.BatchNorm2d(filters))
                if projection
                else PaddingShortcut(filters - depth)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, depth, h, w) to (batch, filters, h / stride, w / stride)."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + (x if self.downsample is None else self.downsample(x)))


class CifarResNet(nn.Module):
    """The residual network of 6n + 2 layers for CIFAR.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Section 4.2 and Table 6 (0.27, 0.46,
    0.66, 0.85 and 1.7 million parameters for n = 3, 5, 7, 9, 18). Names follow akamaster/pytorch_resnet_cifar10, with
    option A shortcuts; `projection=True` gives 1x1 convolutions instead and calls the classifier `fc`, as torchvision.
    """

    def __init__(self, n: int, num_classes: int = 10, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        depth = 16
        for stage, filters in enumerate((16, 32, 64), start=1):
            blocks = []
            for index in range(n):
                stride = 2 if index == 0 and stage > 1 else 1
                blocks.append(BasicBlock(depth, filters, stride, projection))
                depth = filters
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = "fc" if projection else "linear"
        self.add_module(self.classifier, nn.Linear(64, num_classes))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, 32, 32)."""
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.classifier)(self.avgpool(x).flatten(1))


PREPROCESSING = Preprocessing(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALVES = Preprocessing(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

RESNET_20 = Architecture(partial(CifarResNet, 3), PREPROCESSING)
RESNET_32 = Architecture(partial(CifarResNet, 5), PREPROCESSING)
RESNET_44 = Architecture(partial(CifarResNet, 7), PREPROCESSING)
RESNET_56 = Architecture(partial(CifarResNet, 9), PREPROCESSING)
RESNET_110 = Architecture(partial(CifarResNet, 18), PREPROCESSING)
RESNET_20_PROJECTION = Architecture(partial(CifarResNet, 3, projection=True), HALVES)
