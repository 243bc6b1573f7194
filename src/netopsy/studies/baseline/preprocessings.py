"""Preprocessings that networks are usually trained with, and how far each is from what the first batch norm knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing

_SAME = 0.02  # scales and shifts that differ by less are one preprocessing
_BLOCK = 16  # images that are run at a time

RED, GREEN, BLUE = 0.485, 0.456, 0.406  # of ImageNet
Normalisation = tuple[tuple[float, ...], tuple[float, ...], float]
NORMALISATIONS: dict[str, Normalisation] = {
    "ImageNet's mean and std": ((RED, GREEN, BLUE), (0.229, 0.224, 0.225), 1 / 255),
    "mean and std 0.5": ((0.5,) * 3, (0.5,) * 3, 1 / 255),
    "pixels 0..1": ((0.0,) * 3, (1.0,) * 3, 1 / 255),
    "pixels 0..255": ((0.0,) * 3, (1.0,) * 3, 1.0),
    "Caffe's means, pixels 0..255": ((123.0, 117.0, 104.0), (1.0,) * 3, 1.0),
}
"""Mean and std of red, green and blue, in the units after the scale."""
_GRAY: dict[str, Normalisation] = {"MNIST's mean and std": ((0.1307,), (0.3081,), 1 / 255)}


@dataclass(frozen=True)
class Alternative:
    """Another preprocessing. turn: what is done to the pictures, which no option does: `gray` or `invert`."""

    name: str
    preprocessing: Preprocessing
    turn: str = ""

    def options(self, before: Preprocessing) -> str:
        """What to type for it, in the place of `before`."""
        if self.turn:
            return {"gray": "turn the images gray first", "invert": "invert the images first"}[self.turn]
        words, after = [], self.preprocessing
        turned = after.channels != before.channels
        if turned:
            words.append(f"--channels {after.channels}")
        for name in ("mean", "std"):
            values = getattr(after, name)
            expected = getattr(before, name)[::-1] if turned else getattr(before, name)
            if values != expected:
                words.append(f"--{name} {','.join(f'{value:.4g}' for value in values)}")
        if after.scale != before.scale:
            words.append(f"--scale {after.scale:.6g}")
        return "give " + " ".join(words)


def alternatives(given: Preprocessing, pixels: Float32[Tensor, "n channel height width"]) -> list[Alternative]:
    """Preprocessings that networks are usually trained with, other than the one given.

    pixels: 0..255, in the order red, green, blue, or gray. Their own mean and standard deviation are tried too.
    """
    depth = given.depth
    own = pixels.double().transpose(0, 1).flatten(1) / 255
    spread = own.std(1).clamp_min(1e-3)
    ways = dict(NORMALISATIONS)
    if depth == 1:
        ways = {name: (_mean(m), _mean(s), scale) for name, (m, s, scale) in ways.items()} | _GRAY
    rounded = [tuple(round(float(v), 4) for v in values) for values in (own.mean(1), spread)]
    ways["the mean and std of these images"] = (rounded[0], rounded[1], 1 / 255)
    found = []
    if depth == 3:
        other: Literal["RGB", "BGR"] = "RGB" if given.channels == "BGR" else "BGR"
        turned = replace(given, channels=other, mean=given.mean[::-1], std=given.std[::-1])
        found.append(Alternative(f"channels {other}", turned))
    orders: tuple[Literal["RGB", "BGR", "L"], ...] = ("RGB", "BGR") if depth == 3 else ("L",)
    for name, (mean, std, scale) in ways.items():
        for order in orders:
            back = order == "BGR"
            chosen = replace(
                given, channels=order, mean=mean[::-1] if back else mean, std=std[::-1] if back else std, scale=scale
            )
            label = name if order == given.channels else f"channels {order}, {name}"
            if not any(_same(chosen, entry) for entry in (given, *(a.preprocessing for a in found))):
                found.append(Alternative(label, chosen))
    return [*found, Alternative("gray", given, "gray") if depth == 3 else Alternative("inverted", given, "invert")]


def _mean(values: tuple[float, ...]) -> tuple[float, ...]:
    return (round(sum(values) / len(values), 4),)


def _same(one: Preprocessing, two: Preprocessing) -> bool:
    """Whether two preprocessings give nearly the same inputs."""
    if one.channels != two.channels:
        return False
    first, second = (np.array([np.divide(p.scale, p.std), np.divide(p.mean, p.std)]) for p in (one, two))
    return bool(np.all(np.abs(first - second) <= _SAME * np.maximum(np.abs(second), [[1e-9], [1.0]])))


def apply(chosen: Alternative, pixels: Float32[Tensor, "n channel height width"]) -> Tensor:
    """The network's input of pixels 0..255 in the order red, green, blue, or gray."""
    way = chosen.preprocessing
    if chosen.turn == "gray":
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        pixels = (pixels * weights).sum(1, keepdim=True).round().expand(-1, 3, -1, -1)
    elif chosen.turn == "invert":
        pixels = 255 - pixels
    if way.channels == "BGR":
        pixels = pixels.flip(1)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (way.mean, way.std))
    return (pixels * way.scale - mean) / std


@dataclass(frozen=True)
class NormMismatch:
    """How far the inputs of a batch norm are from those that it saw in training.

    divergence: nats, Kullback-Leibler's of N(mean, variance) seen from N(running mean, running variance), the median
    over the channels. ratio: of the variances, the median. shift: of the means in standard deviations, the median.
    """

    divergence: float
    ratio: float
    shift: float

    @property
    def words(self) -> str:
        """`0.15 times the variance and a mean 0.6 standard deviations from the one`."""
        return f"{self.ratio:.2g} times the variance, and a mean {self.shift:.2g} standard deviations from the one"


@torch.inference_mode()
def first_norm_mismatches(
    network: Network, pixels: Float32[Tensor, "n channel height width"], ways: Sequence[Alternative]
) -> tuple[str, list[NormMismatch]]:
    """The layer before the first batch norm, and what that norm sees of the images in each of the `ways`.

    Empty where the network has no batch norm with statistics of its own.
    """
    for node in network.program.nodes:
        if node.operator == "batch_norm" and node.from_input and node.args[3] is not None:
            break
    else:
        return "", []
    source, name = node.inputs[0], network.signature.names[0]
    known = [network.tensors[node.args[k].name.removeprefix("parameter:")].double().cpu().numpy() for k in (3, 4)]
    walk, found = plan(network, (source.name,)), []
    for way in ways:
        sums, count = np.zeros((2, len(known[0]))), 0
        for images in apply(way, pixels).split(_BLOCK):
            values = walk.run({name: images.to(network.device)}, batch=len(images))[source.name]
            rows = values.movedim(source.channel_axis, 0).flatten(1).double()
            sums += torch.stack([rows.sum(1), rows.square().sum(1)]).cpu().numpy()
            count += rows.shape[1]
        mean, square = sums / count
        found.append(_mismatch(mean, square - mean**2, *known))
    return source.layer or source.name, found


def _mismatch(
    mean: Float64[np.ndarray, " channel"],
    variance: Float64[np.ndarray, " channel"],
    running_mean: Float64[np.ndarray, " channel"],
    running_variance: Float64[np.ndarray, " channel"],
) -> NormMismatch:
    expected = np.maximum(running_variance, 1e-12)
    ratio, shift = np.maximum(variance, 1e-12) / expected, (mean - running_mean) / np.sqrt(expected)
    divergence = (ratio + shift**2 - 1 - np.log(ratio)) / 2
    return NormMismatch(*(float(np.median(values)) for values in (divergence, ratio, np.abs(shift))))
