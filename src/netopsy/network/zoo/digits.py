"""The two networks that ship with the package: narrow VGG-16s trained on the handwritten digits of scikit-learn."""

from __future__ import annotations

from functools import partial

from netopsy.network.preprocessing import Preprocessing
from netopsy.network.zoo.entry import Architecture
from netopsy.network.zoo.vgg16_bn import VGG16BN

digits_vgg = partial(VGG16BN, width=8, in_channels=1)
"""13 convolutions of 8 to 64 filters and a linear layer: 232,130 parameters. Trained by `scripts/train_digits.py`."""

PREPROCESSING = Preprocessing(size=(32, 32), mean=(0.3058,), std=(0.3236,), channels="L")

DIGITS_A = Architecture(digits_vgg, PREPROCESSING, shipped="digits-vgg-a.safetensors")
DIGITS_B = Architecture(digits_vgg, PREPROCESSING, shipped="digits-vgg-b.safetensors")
