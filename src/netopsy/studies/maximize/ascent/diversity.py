"""How alike several pictures of one unit are to the layer that sees them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def likeness(features: Float[Tensor, "run channel *space"]) -> Float[Tensor, ""]:
    """Mean cosine between the Gram matrices of every two runs, -1..1; 0 for a single one.

    The Gram matrix of a layer's channels over its places says which channels answer together, wherever in the image.
    Source: "Diversity" in Olah, Mordvintsev, Schubert, "Feature Visualization", 2017.
    """
    runs = len(features)
    if runs < 2:
        return features.sum() * 0
    flat = features.flatten(2) if features.ndim > 2 else features[:, :, None]
    grams = F.normalize((flat @ flat.transpose(1, 2)).flatten(1), dim=1)
    cosines = grams @ grams.T
    others = ~torch.eye(runs, dtype=torch.bool, device=cosines.device)
    return cosines[others].mean()
