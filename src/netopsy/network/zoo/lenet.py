"""Networks for MNIST: the two that the pruning papers share, and a perceptron without biases."""

from __future__ import annotations

from torch import Tensor, nn

from netopsy.network.preprocessing import Preprocessing
from netopsy.network.zoo import Architecture

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
