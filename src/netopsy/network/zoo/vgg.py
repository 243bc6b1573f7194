"""VGG networks: VGG-16 with batch normalisation for images of 32x32, two narrow ones, and CNN-M, also called VGG-M.

The narrow ones ship with the package, trained on the handwritten digits of scikit-learn.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from netopsy.network.preprocessing import Preprocessing
from netopsy.network.zoo import Architecture

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


digits_vgg = partial(VGG16BN, width=8, in_channels=1)
"""13 convolutions of 8 to 64 filters and a linear layer: 232,130 parameters. Trained by `scripts/train_digits.py`."""

PREPROCESSING = Preprocessing(size=(32, 32), mean=(0.3058,), std=(0.3236,), channels="L")

DIGITS_A = Architecture(digits_vgg, PREPROCESSING, shipped="digits-vgg-a.safetensors")
DIGITS_B = Architecture(digits_vgg, PREPROCESSING, shipped="digits-vgg-b.safetensors")


class VGGM(nn.Module):
    """CNN-M: five convolutions, two local response normalisations, three linear layers; 102,908,520 parameters.

    Source: Chatfield et al., "Return of the Devil in the Details: Delving Deep into Convolutional Nets", BMVC 2014,
    Table 1; the normalisation's constants and the padding are those of the authors' Caffe model VGG_CNN_M.

    features: width of fc7; 2048, 1024 and 128 are the paper's CNN-M-2048, CNN-M-1024 and CNN-M-128.
    """

    def __init__(self, num_classes: int = 1000, features: int = 4096) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        self.relu1 = nn.ReLU(inplace=True)
        self.norm1 = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = nn.Conv2d(96, 256, 5, stride=2, padding=1)
        self.relu2 = nn.ReLU(inplace=True)
        self.norm2 = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv3 = nn.Conv2d(256, 512, 3, padding=1)
        self.relu3 = nn.ReLU(inplace=True)
        self.conv4 = nn.Conv2d(512, 512, 3, padding=1)
        self.relu4 = nn.ReLU(inplace=True)
        self.conv5 = nn.Conv2d(512, 512, 3, padding=1)
        self.relu5 = nn.ReLU(inplace=True)
        self.pool5 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.fc6 = nn.Linear(512 * 6 * 6, 4096)
        self.relu6 = nn.ReLU(inplace=True)
        self.drop6 = nn.Dropout(0.5)
        self.fc7 = nn.Linear(4096, features)
        self.relu7 = nn.ReLU(inplace=True)
        self.drop7 = nn.Dropout(0.5)
        self.fc8 = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, 224, 224), BGR, 0..255 less the mean."""
        x = self.pool1(self.norm1(self.relu1(self.conv1(x))))
        x = self.pool2(self.norm2(self.relu2(self.conv2(x))))
        x = self.relu4(self.conv4(self.relu3(self.conv3(x))))
        x = self.pool5(self.relu5(self.conv5(x)))
        x = self.drop6(self.relu6(self.fc6(x.flatten(1))))
        x = self.drop7(self.relu7(self.fc7(x)))
        return self.fc8(x)


VGG_M = Architecture(
    VGGM,
    Preprocessing(size=(224, 224), resize=256, mean=(103.939, 116.779, 123.68), channels="BGR", scale=1.0),
)
