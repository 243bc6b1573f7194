"""Caffe's GoogLeNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netopsy.network.preprocessing import Preprocessing
from netopsy.network.zoo import Architecture

INCEPTIONS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}
"""Input depth, then filters of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection (Table 1 of the paper)."""


class Inception(nn.Module):
    """Four branches side by side, each convolution followed by a rectification."""

    def __init__(self, depth: int, c1: int, c3_reduce: int, c3: int, c5_reduce: int, c5: int, projection: int) -> None:
        super().__init__()
        self.c1x1 = nn.Conv2d(depth, c1, 1)
        self.c3x3_reduce = nn.Conv2d(depth, c3_reduce, 1)
        self.c3x3 = nn.Conv2d(c3_reduce, c3, 3, padding=1)
        self.c5x5_reduce = nn.Conv2d(depth, c5_reduce, 1)
        self.c5x5 = nn.Conv2d(c5_reduce, c5, 5, padding=2)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.pool_proj = nn.Conv2d(depth, projection, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, depth, height, width) to (batch, c1 + c3 + c5 + projection, height, width)."""
        c1 = self.c1x1(x).relu()
        c3 = self.c3x3(self.c3x3_reduce(x).relu()).relu()
        c5 = self.c5x5(self.c5x5_reduce(x).relu()).relu()
        return torch.cat([c1, c3, c5, self.pool_proj(self.pool(x)).relu()], dim=1)


class GoogLeNet(nn.Module):
    """GoogLeNet with local response normalisation, no batch normalisation, no auxiliary heads; 6,998,552 parameters.

    Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, in the layout of Caffe's
    `models/bvlc_googlenet/deploy.prototxt`; the poolings round up as Caffe's do.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm1 = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.conv2_reduce = nn.Conv2d(64, 64, 1)
        self.conv2 = nn.Conv2d(64, 192, 3, padding=1)
        self.norm2 = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        for name, filters in INCEPTIONS.items():
            self.add_module(f"inception_{name}", Inception(*filters))
        self.pool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.pool4 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.pool5 = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(1024, num_classes)
        # Without batch normalisation 22 layers need Caffe's own start; torch's default lets the signal die out.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0.2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, 224, 224), BGR, 0..255 less the mean."""
        x = self.norm1(self.pool1(self.conv1(x).relu()))
        x = self.pool2(self.norm2(self.conv2(self.conv2_reduce(x).relu()).relu()))
        for name in INCEPTIONS:
            if name in ("4a", "5a"):
                x = (self.pool3 if name == "4a" else self.pool4)(x)
            x = getattr(self, f"inception_{name}")(x)
        return self.fc(self.dropout(self.pool5(x).flatten(1)))


GOOGLENET = Architecture(
    GoogLeNet,
    Preprocessing(size=(224, 224), resize=256, mean=(104.0, 117.0, 123.0), channels="BGR", scale=1.0),
)
