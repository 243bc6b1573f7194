"""How an image becomes the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from netopsy.errors import SettingsError


def channel_count(channels: str | int) -> int:
    """Channels of a picture in RGB, BGR, L, or of a kind of its own."""
    return channels if isinstance(channels, int) else 1 if channels == "L" else 3


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, order and scale: `input = (pixels * scale - mean) / std` per channel.

    size: (height, width) of the network's input.
    resize: the shorter side before the central crop of `size`; None resizes straight to `size`.
    mean, std: per channel, in the units after `scale`, in the order of `channels`.
    channels: RGB, BGR or L (gray); a number where the pictures have as many channels of their own kind, such as 4.
    scale: 1/255 brings pixels to 0..1; 1 keeps 0..255 (Caffe).
    """

    size: tuple[int, int] = (224, 224)
    resize: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: Literal["RGB", "BGR", "L"] | int = "RGB"
    scale: float = 1 / 255
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        depth = channel_count(self.channels)
        if len(self.mean) != depth or len(self.std) != depth:
            raise SettingsError(
                f"mean {self.mean} and std {self.std} must hold {depth} numbers each for channels {self.channels}."
            )
        if min(self.std) <= 0:
            raise SettingsError(f"std {self.std} must be positive in every channel.")
        if min(self.size) < 1 or (self.resize is not None and self.resize < min(self.size)):
            raise SettingsError(f"size {self.size} must be positive and no larger than resize {self.resize}.")

    @property
    def depth(self) -> int:
        """Number of input channels."""
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""
        return (self.depth, *self.size)
