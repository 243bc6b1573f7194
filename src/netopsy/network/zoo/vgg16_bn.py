"""VGG-16 with batch normalisation for images of 32x32."""

from __future__ import annotations

from torch import Tensor, nn

from netopsy.network.preprocessing import Preprocessing
from netopsy.network.zoo.entry import Architecture

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Convolutions per block: configuration D of the paper."""


class VGG16BN(nn.Module):
    """VGG-16 with batch normalisation; five blocks of 3x3 convolutions, then one linear classifier.

    Source: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
    configuration D, with the batch normalisation of Ioffe & Szegedy (2015). On 32x32 the five poolings leave 1x1, so
    one linear layer stands in for the three of the ImageNet version: 14,728,266 parameters for 10 classes.

    width: filters in the first block; the blocks hold width x (1, 2, 4, 8, 8).
    """

    def __init__(self, num_classes: int = 10, width: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        depth = in_channels
        for number, count in enumerate(CONVOLUTIONS, start=1):
            filters = width * min(2 ** (number - 1), 8)
            block = nn.Sequential()
            for index in range(1, count + 1):
                block.add_module(f"conv{index}", nn.Conv2d(depth, filters, 3, padding=1))
                block.add_module(f"bn{index}", nn.BatchNorm2d(filters))
                block.add_module(f"relu{index}", nn.ReLU(inplace=True))
                depth = filters
            block.add_module("pool", nn.MaxPool2d(2))
            self.add_module(f"block{number}", block)
        self.fc = nn.Linear(depth, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, 32, 32)."""
        for number in range(1, len(CONVOLUTIONS) + 1):
            x = getattr(self, f"block{number}")(x)
        return self.fc(x.flatten(1))


VGG_16_BN = Architecture(
    VGG16BN,
    Preprocessing(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
)
