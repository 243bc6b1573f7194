"""Dense SIFT descriptors of a batch of gray images, as VLFeat's `dsift` and `phow` lay them out, and visual words.

Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004, Section 6; Vedaldi and Fulkerson,
"VLFeat: an open and portable library of computer vision algorithms", 2008. No orientation is assigned: all descriptors
stand upright, as is usual for classification. Words are centroids of training descriptors; an image has one vector from
the words of its descriptors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.samples import Samples

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


Pooling = Literal["average", "max"]

NEAREST = 10
SOFTNESS = 10.0
_AT_ONCE = 2**23  # distances held at a time: 32 MB


@dataclass(frozen=True)
class RegionPooling:
    """Bags of words over regions: region by region, word by word.

    words: (words, 128). regions: for each level the region of each descriptor of an image, as `layout.regions` counts;
        areas: how many there are in all. One without a descriptor, finer than the grid, is zero.
    pooling: `average` gives a region's share of descriptors nearest to each word, the histogram (Csurka et al., ECCV
        workshop 2004). `max` gives the greatest share of any descriptor of the region in each word, where a descriptor
        is shared among its 10 nearest words by exp(-10 d^2), d its distance (localised soft assignment: Liu, Wang and
        Liu, ICCV 2011; max pooling: Boureau et al., CVPR 2010).
    """

    words: Float32[Tensor, "words 128"]
    regions: Sequence[Int64[Tensor, " descriptors"]]
    areas: int
    pooling: Pooling

    @property
    def length(self) -> int:
        """Values of an image's vector."""
        return self.areas * len(self.words)

    def __call__(self, descriptors: Float32[Tensor, "batch descriptors 128"]) -> Float32[Tensor, "batch length"]:
        batch, _, width = descriptors.shape
        rows = torch.zeros((batch, self.length), device=descriptors.device)
        chosen, shares = self._assign(descriptors.reshape(-1, width))
        chosen, shares = (values.reshape(batch, -1, values.shape[1]) for values in (chosen, shares))
        for region in self.regions:
            places = (region[:, None] * len(self.words) + chosen).flatten(1)
            if self.pooling == "max":
                rows.scatter_reduce_(1, places, shares.flatten(1), "amax")
            else:  # whole numbers, whose sum does not depend on the order
                rows.scatter_add_(1, places, torch.ones_like(places, dtype=rows.dtype))
        if self.pooling == "max":
            return rows
        counts = torch.bincount(torch.cat(list(self.regions)), minlength=self.areas).clamp_(min=1)
        return rows / counts.repeat_interleave(len(self.words))

    def _assign(self, descriptors: Tensor) -> tuple[Tensor, Tensor]:
        """Words of each descriptor and its share in each, (m, 1) or (m, 10)."""
        squares = self.words.square().sum(1)
        near = min(NEAREST, len(self.words)) if self.pooling == "max" else 1
        chosen, shares = [], []
        for part in descriptors.split(max(1, _AT_ONCE // len(self.words))):
            apart = torch.addmm(squares, part, self.words.T, alpha=-2)  # the descriptor's own length shifts all alike
            least = apart.topk(near, largest=False) if near > 1 else apart.min(1, keepdim=True)
            chosen.append(least.indices)
            shares.append(torch.softmax(-SOFTNESS * least.values, 1))
        return torch.cat(chosen), torch.cat(shares)


IMAGES = 2000  # descriptors are taken from so many training images at most
EACH = 100  # descriptors a word
_BATCH = 4096
_PASSES = 20


def learn_words(
    train: Samples,
    preprocessing: Preprocessing,
    sifts: Sequence[DenseSift],
    words: int,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> Float32[Tensor, "words 128"]:
    """`words` centroids of 100 descriptors a word, drawn from 2,000 training images stratified by class.

    Mini-batch k-means (Sculley, WWW 2010; scikit-learn's, one start by k-means++) and not Lloyd's iteration: on so many
    descriptors that takes a dozen times as long for an error lower by some 3 %, and a bag of words does not need it.
    Errors: SettingsError for more words than descriptors.
    """
    from sklearn.cluster import MiniBatchKMeans

    descriptors = draw_descriptors(
        train, preprocessing, sifts, EACH * words, seed=seed, batch_size=batch_size, device=device
    )
    if len(descriptors) < words:
        raise SettingsError(
            f"{words:,} words of {len(descriptors):,} descriptors of {train.name}; give fewer words, or more training "
            "images."
        )
    model = MiniBatchKMeans(
        words, batch_size=_BATCH, max_iter=_PASSES, n_init=1, random_state=seed, reassignment_ratio=0
    ).fit(descriptors)
    return torch.from_numpy(model.cluster_centers_.astype(np.float32)).to(device)


def draw_descriptors(
    train: Samples,
    preprocessing: Preprocessing,
    sifts: Sequence[DenseSift],
    count: int,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> Float32[np.ndarray, "drawn 128"]:
    """Some `count` descriptors, equally many from each of up to 2,000 images; all there are where those are fewer.

    An image's draw depends on the seed and its place alone, not on the batches.
    """
    images = train.subset(min(len(train), IMAGES), seed)
    total = sum(len(sift.centres()) for sift in sifts)
    each = min(total, -(-count // len(images)))
    descriptors = np.empty((len(images), each, LENGTH), np.float32)
    place = current_workspace()
    for batch in images.batches(preprocessing, batch_size):
        gray = batch.images[:, 0].to(device)
        every = torch.cat([sift(gray) for sift in sifts], 1)
        for row, index in zip(every, batch.indices.tolist(), strict=True):
            chosen = np.random.default_rng([seed, index]).choice(total, each, replace=False)
            descriptors[index] = row[torch.from_numpy(chosen).to(device)].cpu().numpy()
        place.report("visual words", int(batch.indices[-1]) + 1, len(images))
    return descriptors.reshape(-1, LENGTH)
