"""From the network's input space back to pictures: images, signed maps, frames."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Picture
from torch import Tensor

from netopsy.network.preprocessing import Preprocessing
from netopsy.pictures.mosaic import normalise


def pictures(
    images: Float[Tensor, "n channel height width"], preprocessing: Preprocessing
) -> UInt8[np.ndarray, "n height width 3"]:
    """Preprocessed images as the pictures that they were made from, after resizing and cropping."""
    shape = (1, -1, 1, 1)
    std, mean = (torch.tensor(v, device=images.device).reshape(shape) for v in (preprocessing.std, preprocessing.mean))
    pixels = (images.detach() * std + mean) / preprocessing.scale
    return _colours(pixels.round().clamp(0, 255).to("cpu", torch.uint8).numpy(), preprocessing)


def map_pictures(
    maps: Float[Tensor, "n channel height width"], preprocessing: Preprocessing, *, clip: float = 0.0
) -> UInt8[np.ndarray, "n height width 3"]:
    """Signed maps as pictures: 0 is mid-gray, and each map is scaled to its own largest magnitude.

    clip: share of each map's non-zero magnitudes that are drawn at full strength.
    """
    values = maps.detach().cpu().numpy()
    if clip:
        values = np.stack([_clipped(value, clip) for value in values])
    return _colours(normalise(values), preprocessing)


def _clipped(value: Float[np.ndarray, "*shape"], clip: float) -> Float[np.ndarray, "*shape"]:
    strong = np.abs(value[value != 0])
    top = float(np.quantile(strong, 1 - clip)) if strong.size else 0.0
    return value.clip(-top, top)


def _colours(values: UInt8[np.ndarray, "n channel height width"], preprocessing: Preprocessing) -> np.ndarray:
    if preprocessing.channels == "BGR":
        values = values[:, ::-1]
    return np.ascontiguousarray(np.broadcast_to(values.transpose(0, 2, 3, 1), (len(values), *values.shape[2:], 3)))


def framed(
    picture: UInt8[np.ndarray, "height width 3"],
    box: tuple[int, int, int, int],
    colour: tuple[int, int, int] = (230, 60, 40),
    width: int = 1,
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy with the edge of `box`, (top, left, bottom, right) half open, drawn inside it."""
    marked = picture.copy()
    top, left, bottom, right = box
    inside = marked[top:bottom, left:right]
    for side in (inside[:width], inside[-width:], inside[:, :width], inside[:, -width:]):
        side[...] = colour
    return marked


def fitted(
    picture: UInt8[np.ndarray, "height width *channel"], side: int
) -> UInt8[np.ndarray, "height2 width2 *channel"]:
    """The picture with its longer side at `side` pixels: enlarged without smoothing, shrunk with it."""
    scale = side / max(picture.shape[:2])
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    return resized(np.ascontiguousarray(picture), (height, width), smooth=scale < 1)


def resized(
    picture: UInt8[np.ndarray, "height width *channel"], size: tuple[int, int], *, smooth: bool = True
) -> UInt8[np.ndarray, "height2 width2 *channel"]:
    """The picture at `size` (height, width)."""
    how = Picture.Resampling.LANCZOS if smooth else Picture.Resampling.NEAREST
    return np.asarray(Picture.fromarray(picture).resize((size[1], size[0]), how))
