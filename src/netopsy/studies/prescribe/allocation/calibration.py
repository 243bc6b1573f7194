"""What a change of predictions is expected to cost: a drop that does not wait for single images to turn."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

TEMPERATURES = torch.linspace(math.log(0.25), math.log(8.0), 71, dtype=torch.float64).exp()
TRUST = 0.5
"""Standard error of an expected drop, as a share of it: what over- or under-confident outputs may make of it."""


@torch.inference_mode()
def temperature(network: Network, samples: Samples) -> float:
    """The number that the outputs are divided by so that their probabilities fit the labels best, 0.25 to 8.

    Source: Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017, Section 4.2.
    """
    walk = plan(network, [network.output], folded=True)
    total = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    for batch in samples.batches(network.preprocessing, 32):
        images, labels = batch.images.to(network.device), batch.labels.to(network.device)
        outputs = walk.run({"input": images}, batch=len(images))[network.output].double()
        good = outputs.isfinite().all(1)
        for i, value in enumerate(TEMPERATURES.tolist()):
            scaled = outputs[good] / value
            if samples.multilabel:
                loss = F.binary_cross_entropy_with_logits(scaled, labels[good].double(), reduction="sum")
            else:
                loss = F.cross_entropy(scaled, labels[good], reduction="sum")
            total[i] += loss.cpu()
    return float(TEMPERATURES[int(total.argmin())])


def expected_drop(
    plain: Float[Tensor, "n classes"],
    before: Int64[Tensor, " n"],
    after: Int64[Tensor, " n"],
    heat: float,
    multilabel: bool,
) -> Float[Tensor, " n"]:
    """By how much the class predicted `after` is less likely than the one predicted `before`, float64, 0 to 1.

    plain: the unedited outputs; heat: their temperature. A prediction of -1 (outputs not finite) is never right.
    """
    scaled = plain.double() / heat
    chance = torch.sigmoid(scaled) if multilabel else scaled.softmax(1)
    own = chance.gather(1, before.clamp_min(0)[:, None])[:, 0] * (before >= 0)
    other = chance.gather(1, after.clamp_min(0)[:, None])[:, 0] * (after >= 0)
    return (own - other).nan_to_num(0.0)


def weighed(drop: float, losses_and_gains: float, images: int, expected: float) -> float:
    """One estimate of the drop from two: the one counted on the images, and the one expected of the outputs.

    Each counts by the inverse of its variance: that of the count is the share of images that turned over their number;
    the expected drop turns few images into a steadier number, but is only as good as the outputs' confidence: `TRUST`.
    """
    counted = (losses_and_gains + 1) / images**2
    believed = (TRUST * max(expected, 1e-4)) ** 2
    return (drop / counted + expected / believed) / (1 / counted + 1 / believed)
