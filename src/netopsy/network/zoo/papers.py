"""Networks of the papers: Caffe's AlexNet and GoogLeNet, three for MNIST, residual networks for CIFAR."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
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


class AlexNet(nn.Module):
    """AlexNet as Caffe trains it: groups in conv2, conv4, conv5, local response normalisation; 60,965,224 parameters.

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012, in the
    layout of Caffe's `models/bvlc_alexnet/deploy.prototxt`, whose layer names it keeps. The normalisation comes before
    the pooling; torch divides alpha by the size of the window as Caffe does.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.relu1 = nn.ReLU(inplace=True)
        self.norm1 = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.relu2 = nn.ReLU(inplace=True)
        self.norm2 = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.relu3 = nn.ReLU(inplace=True)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.relu4 = nn.ReLU(inplace=True)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.relu5 = nn.ReLU(inplace=True)
        self.pool5 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.relu6 = nn.ReLU(inplace=True)
        self.drop6 = nn.Dropout(0.5)
        self.fc7 = nn.Linear(4096, 4096)
        self.relu7 = nn.ReLU(inplace=True)
        self.drop7 = nn.Dropout(0.5)
        self.fc8 = nn.Linear(4096, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, 227, 227), BGR, 0..255 less the mean."""
        x = self.pool1(self.norm1(self.relu1(self.conv1(x))))
        x = self.pool2(self.norm2(self.relu2(self.conv2(x))))
        x = self.relu4(self.conv4(self.relu3(self.conv3(x))))
        x = self.pool5(self.relu5(self.conv5(x)))
        x = self.drop6(self.relu6(self.fc6(x.flatten(1))))
        x = self.drop7(self.relu7(self.fc7(x)))
        return self.fc8(x)


ALEXNET = Architecture(
    AlexNet,
    Preprocessing(size=(227, 227), resize=256, mean=(104.0, 117.0, 123.0), channels="BGR", scale=1.0),
)


PREPROCESSING = Preprocessing(size=(28, 28), mean=(0.0,), std=(1.0,), channels="L", scale=1 / 256)
"""Caffe's own: `scale: 0.00390625`, no mean."""


class LeNet300(nn.Module):
    """LeNet-300-100: 784-300-100-10 with rectifications; 266,610 parameters.

    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, as used by Han et al.,
    "Deep Compression", ICLR 2016 (266K parameters, 1070 KB); names as in Caffe.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.ip1 = nn.Linear(784, 300)
        self.ip2 = nn.Linear(300, 100)
        self.ip3 = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 1, 28, 28)."""
        return self.ip3(self.ip2(self.ip1(x.flatten(1)).relu()).relu())


class LeNet5(nn.Module):
    """LeNet-5 as Caffe has it: 20 and 50 filters of 5x5, 500 hidden units; 431,080 parameters.

    Source: Caffe's `examples/mnist/lenet.prototxt`, whose names it keeps; Han et al., "Deep Compression", ICLR 2016
    (431K parameters, 1720 KB). There is no rectification after the convolutions.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool2 = nn.MaxPool2d(2)
        self.ip1 = nn.Linear(800, 500)
        self.relu1 = nn.ReLU(inplace=True)
        self.ip2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 1, 28, 28)."""
        x = self.pool2(self.conv2(self.pool1(self.conv1(x))))
        return self.ip2(self.relu1(self.ip1(x.flatten(1))))


LENET_300_100 = Architecture(LeNet300, PREPROCESSING)
LENET_5 = Architecture(LeNet5, PREPROCESSING)


class MnistMLP(nn.Module):
    """784-400-200-100-10 with rectifications and no biases; 414,600 parameters.

    Source: Singh & Jaggi, "Model Fusion via Optimal Transport", NeurIPS 2020, Section 5 (their MLPNet).
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 400, bias=False)
        self.fc2 = nn.Linear(400, 200, bias=False)
        self.fc3 = nn.Linear(200, 100, bias=False)
        self.fc4 = nn.Linear(100, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 1, 28, 28)."""
        x = self.fc2(self.fc1(x.flatten(1)).relu()).relu()
        return self.fc4(self.fc3(x).relu())


MNIST_MLP = Architecture(MnistMLP, Preprocessing(size=(28, 28), mean=(0.1307,), std=(0.3081,), channels="L"))


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


CIFAR = Preprocessing(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALVES = Preprocessing(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

RESNET_20 = Architecture(partial(CifarResNet, 3), CIFAR)
RESNET_32 = Architecture(partial(CifarResNet, 5), CIFAR)
RESNET_44 = Architecture(partial(CifarResNet, 7), CIFAR)
RESNET_56 = Architecture(partial(CifarResNet, 9), CIFAR)
RESNET_110 = Architecture(partial(CifarResNet, 18), CIFAR)
RESNET_20_PROJECTION = Architecture(partial(CifarResNet, 3, projection=True), HALVES)
