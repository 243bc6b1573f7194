"""Number formats: weights rounded to decimals, to floating-point formats, and to integers with a scale."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.errors import SettingsError

FLOATS: dict[str, tuple[torch.dtype, int]] = {
    "bf16": (torch.bfloat16, 16),
    "fp16": (torch.float16, 16),
    "fp8_e4m3": (torch.float8_e4m3fn, 8),
    "fp8_e5m2": (torch.float8_e5m2, 8),
}


def round_decimals(values: Float[Tensor, "*shape"], decimals: int) -> Float[Tensor, "*shape"]:
    """Each value rounded to `decimals` digits after the point, half to even, in the values' own precision."""
    return (values * 10**decimals).round() / 10**decimals


@dataclass(frozen=True)
class NumberFormat:
    """A format that weights can be stored in.

    name: `bf16`, `fp16`, `fp8_e4m3`, `fp8_e5m2`, `int8_tensor`, `int4_channel`, ...
    bits: of one stored weight; the scales come on top.
    scale: `none` casts the values as they are; `tensor` or `channel` first divides by a scale, one for the whole
        weight or one for each of its first axis, so that the largest magnitude becomes the format's largest number.
    """

    name: str
    bits: int
    scale: Literal["none", "tensor", "channel"]

    def apply(self, weight: Float[Tensor, "channel *rest"]) -> Float[Tensor, "channel *rest"]:
        """The weight as it comes back from the format, in its own precision.

        Integers are symmetric: q = round(w / s), half to even, with s = max|w| / (2^(bits - 1) - 1).
        Floats round half to even; magnitudes beyond the format's largest become the largest.
        """
        kind = self.name.split("_tensor")[0].split("_channel")[0]
        top = float(torch.finfo(FLOATS[kind][0]).max) if kind in FLOATS else 2.0 ** (self.bits - 1) - 1
        scale: Tensor | float = 1.0 if self.scale == "none" else self._largest(weight) / top
        scaled = (weight / scale).clamp(-top, top)
        stored = scaled.to(FLOATS[kind][0]).to(weight.dtype) if kind in FLOATS else scaled.round()
        return stored * scale

    def _largest(self, weight: Tensor) -> Tensor:
        """Largest magnitude of the whole or of each channel, shaped to divide `weight`; 1 where all is 0."""
        size = weight.abs()
        if self.scale == "tensor":
            largest = size.max()
        else:
            largest = size.flatten(1).amax(1) if weight.ndim > 1 else size
            largest = largest.reshape(-1, *[1] * (weight.ndim - 1))
        return torch.where(largest > 0, largest, torch.ones_like(largest))


def number_format(name: str) -> NumberFormat:
    """The format called `name`.

    Raises SettingsError for any other than bf16, fp16, fp8_e4m3, fp8_e5m2 (these two also with `_tensor` or `_channel`)
    and int2 to int16 with `_tensor` (or nothing) or `_channel`.
    """
    match = re.fullmatch(r"(bf16|fp16|fp8_e4m3|fp8_e5m2|int\d+)(?:_(tensor|channel))?", name)
    if match:
        kind = match[1]
        scale: Any = match[2]
        if kind in FLOATS and (scale is None or kind.startswith("fp8")):
            return NumberFormat(name, FLOATS[kind][1], scale or "none")
        if kind not in FLOATS and 2 <= int(kind[3:]) <= 16:
            return NumberFormat(f"{kind}_{scale or 'tensor'}", int(kind[3:]), scale or "tensor")
    raise SettingsError(
        f"no number format '{name}'; give bf16, fp16, fp8_e4m3, fp8_e5m2 (these two also with _tensor or _channel), "
        "or int2 to int16 with _tensor or _channel, as int4_channel."
    )
