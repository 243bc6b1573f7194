"""The visual words: centroids of training descriptors, and one vector an image from the words of its descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.features.bow.dense_sift import LENGTH, DenseSift
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.samples import Samples

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
