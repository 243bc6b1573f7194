"""How an image becomes the network's input, and options that change that field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.network.signature import Input, Signature, read_signature, signature_of


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

    @property
    def signature(self) -> Signature:
        """The one input, an image."""
        return Signature((Input("input", self.input_shape, kind="image"),))

    def record(self) -> dict[str, Any]:
        """Plain data that tells this preprocessing from others."""
        return asdict(self)


FIELDS = tuple(field.name for field in fields(Preprocessing))


def override(preprocessing: Preprocessing, options: Mapping[str, Any]) -> Preprocessing:
    """`preprocessing` with the fields in `options` replaced.

    size: a number (square), (height, width) or "224x224"; `resize` then grows or shrinks with it unless given too.
    mean, std: a number for all channels, a sequence or "0.485,0.456,0.406".
    channels: from RGB to BGR the mean and std turn round with it unless they are given too; a number for pictures of
        as many channels.
    Raises SettingsError for a value that is out of range.
    """
    changes: dict[str, Any] = {}
    if "size" in options:
        changes["size"] = size = read_size(options["size"])
        if preprocessing.resize is not None:
            changes["resize"] = max(round(min(size) * preprocessing.resize / min(preprocessing.size)), min(size))
    if "resize" in options:
        resize = options["resize"]
        changes["resize"] = None if resize in (None, 0, "none") else _numbers("resize", resize, int)[0]
    changes |= _channels(preprocessing, options)
    if "scale" in options:
        changes["scale"] = _numbers("scale", options["scale"], float)[0]
        if changes["scale"] <= 0:
            raise SettingsError(
                f"scale {options['scale']!r} must be positive: 1/255 brings pixels to 0..1, 1 keeps 0..255."
            )
    if "interpolation" in options:
        changes["interpolation"] = _choice(
            "interpolation", options["interpolation"], ("nearest", "bilinear", "bicubic")
        )
    return replace(preprocessing, **changes)


def read_size(value: Any) -> tuple[int, int]:
    """(height, width) from a number, two numbers, "224" or "224x192"."""
    size = _numbers("size", value, int, split="x")
    if len(size) > 2 or min(size) < 1:
        raise SettingsError(
            f"size {value!r} must be a positive number or (height, width), for instance 224 or 224x192."
        )
    return size[0], size[-1]


def _channels(preprocessing: Preprocessing, options: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of channels, mean and std, which must agree in number."""
    before = preprocessing.channels
    numbers = {key: _numbers(key, options[key], float) for key in ("mean", "std") if key in options}
    channels = _channel_option(options.get("channels", before))
    depth = channel_count(channels)
    changes: dict[str, Any] = {"channels": channels}
    for key in ("mean", "std"):
        old = getattr(preprocessing, key)
        new = numbers.get(key)
        if new is None:
            new = tuple(reversed(old)) if {before, channels} == {"RGB", "BGR"} and before != channels else old
            if len(new) != depth and len(set(new)) == 1:
                new = new[:1] * depth
        elif len(new) == 1:
            new = new * depth
        changes[key] = new
    return changes


def _channel_option(value: Any) -> str | int:
    """RGB, BGR or L; a number from 1 of channels that are none of these (1 and 3 are L and RGB)."""
    if str(value).isdecimal() and int(value) >= 1:
        return {1: "L", 3: "RGB"}.get(int(value), int(value))
    return _choice("channels", value, ("RGB", "BGR", "L", "a number of channels"))


def _numbers(name: str, value: Any, kind: type, split: str = ",") -> tuple[Any, ...]:
    parts = value.replace(split, ",").split(",") if isinstance(value, str) else value
    parts = list(parts) if hasattr(parts, "__iter__") else [parts]
    try:
        numbers = tuple(kind(part) for part in parts)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{name} {value!r} must be made of numbers, for instance {_EXAMPLES[name]}.") from error
    if not numbers or any(number != number for number in numbers):
        raise SettingsError(f"{name} {value!r} must be made of numbers, for instance {_EXAMPLES[name]}.")
    return numbers


_EXAMPLES = {
    "size": "224 or 224x192",
    "resize": "256",
    "mean": "0.485,0.456,0.406",
    "std": "0.229,0.224,0.225",
    "scale": "1",
}


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    for choice in allowed:
        if str(value).lower() == choice.lower():
            return choice
    raise SettingsError(f"{name} {value!r} must be one of {', '.join(allowed)}.")


def read_fields(
    prepared: Preprocessing, said_by: str, metadata: Mapping[str, str], label: str
) -> tuple[Preprocessing, str]:
    """`prepared` with the fields that the header of a file names, where they can be read, and who says so."""
    named = {name: metadata[name] for name in FIELDS if name in metadata}
    if not named:
        return prepared, said_by
    try:
        return override(prepared, named), f"{said_by}; {', '.join(sorted(named))} from the metadata of {label}"
    except SettingsError as error:
        return prepared, f"{said_by}; metadata of {label} not understood ({error})"


def inputs_of(example: Mapping[str, Tensor]) -> Preprocessing | Signature:
    """One input of 1, 3 or 4 channels by height and width is an image, 0..1 and without a mean; else the inputs."""
    first = next(iter(example.values()))
    if len(example) > 1 or first.ndim != 4 or first.shape[1] not in (1, 3, 4) or not first.is_floating_point():
        return signature_of(example)
    depth, size = first.shape[1], (first.shape[2], first.shape[3])
    channels: Any = {1: "L", 3: "RGB"}.get(depth, depth)
    return Preprocessing(size, mean=(0.0,) * depth, std=(1.0,) * depth, channels=channels)


def read_inputs(header: Mapping[str, str], shown: Signature) -> Preprocessing | Signature | None:
    """The inputs that the header of a program describes, where they are those that it was exported with; else None."""
    try:
        known = read_signature(json.loads(header.get("signature", "null")))
        named = {name: header[name] for name in FIELDS if name in header}
        described = override(Preprocessing(), named) if named else known
    except (ValueError, RecursionError):  # a SettingsError is a ValueError
        return None
    if not isinstance(described, Signature):
        fits = described is not None and described.signature.input_shape == shown.input_shape and len(shown.inputs) == 1
        return described if fits else None
    by_name = {entry.name: entry for entry in described.inputs}
    if {entry.name: entry.shape for entry in described.inputs} != {entry.name: entry.shape for entry in shown.inputs}:
        return None
    return Signature(tuple(by_name[entry.name] for entry in shown.inputs))
