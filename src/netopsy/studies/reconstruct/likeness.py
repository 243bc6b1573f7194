"""How much of the image is in a map: whether it lies on the image's edges, and how alike two maps are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from netopsy.network.windows.field import Box


def edges(image: Float[np.ndarray, "channel height width"]) -> Float[np.ndarray, "height width"]:
    """Magnitude of the gradient of the channels' mean, after a Gaussian blur of one pixel."""
    return ndimage.gaussian_gradient_magnitude(image.mean(0), 1.0)


def strength(map_: Float[np.ndarray, "channel height width"]) -> Float[np.ndarray, "height width"]:
    """How much of the map lies at each pixel: the Euclidean length over the channels, blurred as the edges are."""
    return ndimage.gaussian_filter(np.sqrt((map_.astype(np.float64) ** 2).sum(0)), 1.0)


def on_edges(length: Float[np.ndarray, "height width"], outline: Float[np.ndarray, "height width"]) -> float:
    """Whether the map, where it lies, lies on the image's edges: -1 to 1; NaN where one of the two is constant.

    Both are divided by their own local mean (Gaussian, a sixteenth of the field wide), so that it does not count in
    which region the map lies, and correlated with that region as the weight.
    """
    sigma = max(2.0, max(length.shape) / 16)
    near, around = (ndimage.gaussian_filter(v, sigma) for v in (length, outline))
    weight = near * (around > 1e-6 * around.max(initial=0)) * (near > 1e-3 * near.max(initial=0))
    ratios = [np.divide(v, m, out=np.zeros_like(m), where=weight > 0) for v, m in ((length, near), (outline, around))]
    return correlation(ratios[0], ratios[1], weight)


def correlation(
    a: Float[np.ndarray, "*shape"], b: Float[np.ndarray, "*shape"], weight: Float[np.ndarray, "*shape"] | None = None
) -> float:
    """Pearson's correlation of two arrays, weighted; NaN where one is constant."""
    w = np.ones(a.size) if weight is None else weight.astype(np.float64).ravel()
    if not w.sum() > 0:
        return float("nan")
    a, b = (v.astype(np.float64).ravel() - np.average(v.ravel(), weights=w) for v in (a, b))
    scale = np.sqrt((w * a**2).sum() * (w * b**2).sum())
    return float((w * a * b).sum() / scale) if scale > 0 else float("nan")


def inside(values: Float[np.ndarray, "*rest height width"], box: Box) -> Float[np.ndarray, "*rest h w"]:
    """The part of a map or image within (top, left, bottom, right)."""
    top, left, bottom, right = box
    return values[..., top:bottom, left:right]
