"""Dense SIFT descriptors of a batch of gray images, as VLFeat's `dsift` and `phow` lay them out.

Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004, Section 6; Vedaldi and Fulkerson,
"VLFeat: an open and portable library of computer vision algorithms", 2008. No orientation is assigned: all descriptors
stand upright, as is usual for classification.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float32
from torch import Tensor

ORIENTATIONS = 8
CELLS = 4  # along each side
LENGTH = CELLS * CELLS * ORIENTATIONS
CLIP = 0.2
WINDOW = 2.0  # standard deviation of the Gaussian window, in bins: half the descriptor (Lowe)
MAGNIFICATION = 6.0  # a bin of so many pixels belongs to the scale of 1 pixel
LEAST_CONTRAST = 0.005
"""Weighed gradient a pixel below which a descriptor is zero, for pixels in 0..1 (VLFeat's `phow`)."""


@dataclass(frozen=True)
class DenseSift:
    """Descriptors of one bin size on a grid: 4 x 4 cells x 8 orientations each.

    size: (height, width) of the images. bin: distance of the cells' centres, pixels, which every cell fades to.
    step: distance of the grid's points, pixels; the grid is centred in the image.
    root: RootSIFT, the square root of the descriptor with sum 1 (Arandjelovic and Zisserman, CVPR 2012).
    """

    size: tuple[int, int]
    bin: int
    step: int
    root: bool = False

    @property
    def frame(self) -> int:
        """Pixels from the first cell's centre to the last one's, both counted."""
        return (CELLS - 1) * self.bin + 1

    @property
    def origins(self) -> tuple[list[int], list[int]]:
        """Rows and columns of the first cell's centre of each grid point."""
        rows, columns = (_grid(side, self.frame, self.step) for side in self.size)
        return rows, columns

    def centres(self) -> Float32[Tensor, "points 2"]:
        """(y, x) of the descriptors' centres, 0..1 of the image's height and width, in their order."""
        ys, xs = (
            (torch.tensor(origins, dtype=torch.float32) + (self.frame - 1) / 2 + 0.5) / side
            for origins, side in zip(self.origins, self.size, strict=True)
        )
        return torch.cartesian_prod(ys, xs).reshape(-1, 2)

    def __call__(self, images: Float32[Tensor, "batch height width"]) -> Float32[Tensor, "batch points 128"]:
        """Descriptors of gray images in 0..1, points row by row; of length 1, or zero where there is no contrast.

        A descriptor counts orientation fastest, then columns of cells, then rows: VLFeat's order.
        """
        maps = orientation_maps(smooth(images, self.bin))
        rows, columns = (
            cells_matrix(side, tuple(origins), self.bin).to(images.device)
            for side, origins in zip(self.size, self.origins, strict=True)
        )
        cells = torch.einsum("yh,bohw,xw->byxo", rows, maps, columns)
        shape = (len(images), rows.shape[0] // CELLS, CELLS, columns.shape[0] // CELLS, CELLS, ORIENTATIONS)
        raw = cells.reshape(shape).transpose(2, 3).reshape(len(images), -1, LENGTH)
        return normalise_descriptors(raw, self.frame**2, self.root)


def smooth(images: Tensor, bin: int) -> Tensor:
    """Images blurred to the scale of a bin, from one of half a pixel that they have (VLFeat's `phow`)."""
    variance = (bin / MAGNIFICATION) ** 2 - 0.25
    if variance <= 0:
        return images
    blur_y, blur_x = (_blur(side, math.sqrt(variance)).to(images.device) for side in images.shape[1:])
    return blur_y @ images @ blur_x.T


def orientation_maps(images: Tensor) -> Tensor:
    """Gradient magnitude shared between the two nearest of 8 orientations, (batch, 8, height, width).

    Central differences, one-sided at the borders. Orientation t is the angle t * 45 degrees from x towards y (down).
    """
    dy, dx = torch.gradient(images, dim=(1, 2))
    turns = torch.atan2(dy, dx) * (ORIENTATIONS / (2 * math.pi))
    bins = torch.arange(ORIENTATIONS, device=images.device).reshape(-1, 1, 1)
    half = ORIENTATIONS // 2
    apart = ((turns[:, None] - bins + half) % ORIENTATIONS - half).abs()
    return torch.hypot(dx, dy)[:, None] * (1 - apart).clamp_(min=0)


def normalise_descriptors(raw: Tensor, area: int, root: bool) -> Tensor:
    """Histograms brought to length 1, cut off at 0.2 and brought to length 1 again; RootSIFT of that if asked."""
    length = raw.norm(dim=-1, keepdim=True)
    has_contrast = raw.sum(-1, keepdim=True) >= LEAST_CONTRAST * area
    cut = (raw / length.clamp(min=torch.finfo(raw.dtype).tiny)).clamp_(max=CLIP)
    unit = cut / cut.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(raw.dtype).tiny)
    if root:
        unit = (unit / unit.sum(-1, keepdim=True).clamp(min=torch.finfo(raw.dtype).tiny)).sqrt_()
    return torch.where(has_contrast, unit, 0)


@lru_cache(maxsize=32)
def cells_matrix(side: int, origins: tuple[int, ...], bin: int) -> Tensor:
    """How much each pixel along a side counts for each cell of each grid point, (points * 4, side).

    A cell fades linearly to its neighbours' centres and is weighed by a Gaussian about the descriptor's centre; the
    pixel at the border stands for those beyond it.
    """
    matrix = torch.zeros(len(origins) * CELLS, side)
    for point, origin in enumerate(origins):
        for cell in range(CELLS):
            from_centre = (cell - (CELLS - 1) / 2) * bin
            for offset in range(1 - bin, bin):
                weight = (1 - abs(offset) / bin) * math.exp(-0.5 * ((offset + from_centre) / (WINDOW * bin)) ** 2)
                pixel = min(max(origin + cell * bin + offset, 0), side - 1)
                matrix[point * CELLS + cell, pixel] += weight
    return matrix


@lru_cache(maxsize=32)
def _blur(side: int, deviation: float) -> Tensor:
    """Gaussian blur along a side as a matrix (side, side), cut off at 4 deviations; borders repeat."""
    radius = math.ceil(4 * deviation)
    weights = [math.exp(-0.5 * (offset / deviation) ** 2) for offset in range(-radius, radius + 1)]
    matrix = torch.zeros(side, side)
    for row in range(side):
        for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
            matrix[row, min(max(row + offset, 0), side - 1)] += weight / sum(weights)
    return matrix


def _grid(side: int, frame: int, step: int) -> list[int]:
    count = (side - frame) // step + 1
    first = (side - frame - (count - 1) * step) // 2
    return [first + step * index for index in range(count)]
