"""Pictures on one sheet, with captions: filters, images, and signed maps of the network's input space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from torch import Tensor

from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import Signature

PAPER = 255  # the gap between squares
NEUTRAL = 128


def normalise_maps(filters: Float[np.ndarray, "n *rest"]) -> UInt8[np.ndarray, "n *rest"]:
    """Each filter scaled by its own largest magnitude: 0 becomes 128, the largest magnitude 1 or 255."""
    flat = filters.reshape(len(filters), -1).astype(np.float64)
    reach = np.abs(flat).max(1, keepdims=True)
    scaled = np.divide(flat, reach, out=np.zeros_like(flat), where=reach > 0)
    return np.rint(NEUTRAL + 127 * scaled).astype(np.uint8).reshape(filters.shape)


def grid(
    squares: UInt8[np.ndarray, "n height width *channel"],
    columns: int | None = None,
    gap: int = 1,
    ground: int = PAPER,
) -> UInt8[np.ndarray, "rows cols *channel"]:
    """The squares side by side, row by row, with `gap` pixels of `ground` around each.

    columns: of squares; by default as many as make the sheet about as wide as high.
    """
    n, height, width, *channel = squares.shape
    columns = columns or math.ceil(math.sqrt(n * height / width))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, *channel), ground, np.uint8)
    for index, square in enumerate(squares):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = square
    return sheet


INK = 40

SheetPixels = UInt8[np.ndarray, "height width 3"]


def caption(text: str, width: int | None = None, size: int = 13) -> SheetPixels:
    """One line of dark text on white, `width` pixels wide (by default as wide as the text), cut off where it is longer.

    size: height of the font in pixels.
    """
    font = _font(size)
    reach = int(font.getlength(text)) + 6
    image = Picture.new("RGB", (width or reach, size + 6), (PAPER,) * 3)
    line = text
    while width and len(line) > 4 and font.getlength(line) > width - 4:
        line = line[:-4].rstrip() + "..."
    ImageDraw.Draw(image).text((2, 1), line, fill=(INK,) * 3, font=font)
    return np.asarray(image).copy()


def below(parts: Sequence[SheetPixels], gap: int = 0) -> SheetPixels:
    """The parts under one another, flush left, on white."""
    width = max(part.shape[1] for part in parts)
    rows = [np.pad(p, ((0, gap), (0, width - p.shape[1]), (0, 0)), constant_values=PAPER) for p in parts]
    return np.concatenate(rows)[: sum(len(p) for p in rows) - gap]


def beside(parts: Sequence[SheetPixels], gap: int = 0) -> SheetPixels:
    """The parts side by side, flush at the top, on white."""
    turned = below([part.transpose(1, 0, 2) for part in parts], gap)
    return np.ascontiguousarray(turned.transpose(1, 0, 2))


@lru_cache(8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def pictures(
    images: Float[Tensor, "n channel height width"], preprocessing: Preprocessing | Signature
) -> UInt8[np.ndarray, "n height width 3"]:
    """Preprocessed images as the pictures that they were made from, after resizing and cropping.

    Where nothing says what their values mean, each image's own least value is black and its largest white.
    """
    if isinstance(preprocessing, Signature):
        flat = images.detach().float().cpu().flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        shares = (flat - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        return _colours((shares * 255).round().to(torch.uint8).view(images.shape).numpy(), preprocessing)
    shape = (1, -1, 1, 1)
    std, mean = (torch.tensor(v, device=images.device).reshape(shape) for v in (preprocessing.std, preprocessing.mean))
    pixels = (images.detach() * std + mean) / preprocessing.scale
    return _colours(pixels.round().clamp(0, 255).to("cpu", torch.uint8).numpy(), preprocessing)


def map_pictures(
    maps: Float[Tensor, "n channel height width"], preprocessing: Preprocessing | Signature, *, clip: float = 0.0
) -> UInt8[np.ndarray, "n height width 3"]:
    """Signed maps as pictures: 0 is mid-gray, and each map is scaled to its own largest magnitude.

    clip: share of each map's non-zero magnitudes that are drawn at full strength.
    """
    values = maps.detach().cpu().numpy()
    if clip:
        values = np.stack([_clip(value, clip) for value in values])
    return _colours(normalise_maps(values), preprocessing)


def _clip(value: Float[np.ndarray, "*shape"], clip: float) -> Float[np.ndarray, "*shape"]:
    strong = np.abs(value[value != 0])
    top = float(np.quantile(strong, 1 - clip)) if strong.size else 0.0
    return value.clip(-top, top)


def _colours(
    values: UInt8[np.ndarray, "n channel height width"], preprocessing: Preprocessing | Signature
) -> np.ndarray:
    if isinstance(preprocessing, Preprocessing) and preprocessing.channels == "BGR":
        values = values[:, ::-1]
    if values.shape[1] not in (1, 3):
        values = values[:, :3] if values.shape[1] > 3 else values[:, :1]  # a screen shows three
    return np.ascontiguousarray(np.broadcast_to(values.transpose(0, 2, 3, 1), (len(values), *values.shape[2:], 3)))


def waveform(
    values: Float[np.ndarray, "channel length"], real: int, part: tuple[int, int], at: int, size: tuple[int, int]
) -> SheetPixels:
    """A recording as the band between its least and largest value at each column, its channels under one another.

    real: how much of it is no padding; what follows is gray. part: (start, end) that is shaded. at: marked by a line.
    size: (height, width) in pixels.
    """
    height, width = size
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    length = values.shape[1]
    columns = np.linspace(0, length, width + 1)
    low_edge, high_edge = (int(np.clip(np.searchsorted(columns, p, "right") - 1, 0, width)) for p in part)
    sheet[:, low_edge : max(high_edge, low_edge + 1)] = _SEEN
    sheet[:, int(np.ceil(real * width / length)) :] = 225
    tall = height // len(values)
    for channel, line in enumerate(values):
        own = line[:real] if real else line
        reach = float(np.abs(own - own.mean()).max(initial=0)) or 1.0
        for x in range(int(np.ceil(real * width / length))):
            stretch = line[int(columns[x]) : max(int(columns[x]) + 1, min(real, int(np.ceil(columns[x + 1]))))]
            ends = tall * (0.5 - 0.45 * (np.array([stretch.max(), stretch.min()]) - own.mean()) / reach)
            top, bottom = (int(np.clip(round(end), 0, tall - 1)) for end in ends)
            sheet[channel * tall + top : channel * tall + bottom + 1, x] = INK
    x = int(np.clip(at * width / length, 0, width - 1))
    sheet[:, x] = _MARK
    return sheet


_SEEN, _MARK = (255, 236, 205), (230, 60, 40)


def draw_frame(
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


def fit_side(
    picture: UInt8[np.ndarray, "height width *channel"], side: int
) -> UInt8[np.ndarray, "height2 width2 *channel"]:
    """The picture with its longer side at `side` pixels: enlarged without smoothing, shrunk with it."""
    scale = side / max(picture.shape[:2])
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    return resize(np.ascontiguousarray(picture), (height, width), smooth=scale < 1)


def resize(
    picture: UInt8[np.ndarray, "height width *channel"], size: tuple[int, int], *, smooth: bool = True
) -> UInt8[np.ndarray, "height2 width2 *channel"]:
    """The picture at `size` (height, width)."""
    filter_ = Picture.Resampling.LANCZOS if smooth else Picture.Resampling.NEAREST
    return np.asarray(Picture.fromarray(picture).resize((size[1], size[0]), filter_))
