"""A multi-layer perceptron without biases, for comparing networks unit by unit."""

from __future__ import annotations

from torch import Tensor, nn

from netopsy.network.preprocessing import Preprocessing
from netopsy.network.zoo.entry import Architecture


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
