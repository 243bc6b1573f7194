"""The visual words: centroids of descriptors of the training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.features.bow.dense_sift import LENGTH, DenseSift
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.samples import Samples

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

    Mini-batch k-means (Sculley, WWW 2010; scikit-learn's, one start by k-means++) and not the Lloyd iteration of
    `engine.kmeans`: on so many descriptors that takes a dozen times as long for an error lower by some 3 %, and a bag
    of words does not need it.
    Errors: SettingsError for more words than descriptors.
    """
    from sklearn.cluster import MiniBatchKMeans

    drawn = draw_descriptors(train, preprocessing, sifts, EACH * words, seed=seed, batch_size=batch_size, device=device)
    if len(drawn) < words:
        raise SettingsError(
            f"{words:,} words of {len(drawn):,} descriptors of {train.name}; give fewer words, or more training images."
        )
    means = MiniBatchKMeans(
        words, batch_size=_BATCH, max_iter=_PASSES, n_init=1, random_state=seed, reassignment_ratio=0
    ).fit(drawn)
    return torch.from_numpy(means.cluster_centers_.astype(np.float32)).to(device)


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
    drawn = np.empty((len(images), each, LENGTH), np.float32)
    place = current_workspace()
    for batch in images.batches(preprocessing, batch_size):
        gray = batch.images[:, 0].to(device)
        every = torch.cat([sift(gray) for sift in sifts], 1)
        for row, index in zip(every, batch.indices.tolist(), strict=True):
            chosen = np.random.default_rng([seed, index]).choice(total, each, replace=False)
            drawn[index] = row[torch.from_numpy(chosen).to(device)].cpu().numpy()
        place.report("visual words", int(batch.indices[-1]) + 1, len(images))
    return drawn.reshape(-1, LENGTH)
