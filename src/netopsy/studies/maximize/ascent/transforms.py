"""Small random moves of an image, so that a picture must please the unit however it is held."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

JITTER = 0.05  # share of the side
SCALE = 0.1
ANGLE = math.radians(10)


def draw(steps: int, strength: float, generator: torch.Generator) -> Float[Tensor, "steps 4"]:
    """Uniform random moves: down and right (shares of the sides), log scale, angle (radians).

    strength: 1 gives up to 5 % of jitter, 10 % of scale and 10 degrees either way; 0 none.
    Source: "Transformation Robustness" in Olah, Mordvintsev, Schubert, "Feature Visualization", 2017.
    """
    reach = strength * torch.tensor([JITTER, JITTER, math.log1p(SCALE), ANGLE])
    return (2 * torch.rand(steps, 4, generator=generator) - 1) * reach


def move(
    images: Float[Tensor, "n channel height width"], motions: Float[Tensor, "n 4"]
) -> Float[Tensor, "n channel height width"]:
    """Each image shifted, scaled and turned about its centre by its own motion, bilinear; mirrored at the edges.

    A motion (0.1, 0, 0, 0) moves the content down by a tenth of the height; a log scale above 0 enlarges it; an angle
    above 0 turns it anticlockwise.
    """
    height, width = images.shape[2:]
    down, right, log_scale, angle = motions.unbind(1)
    shrink = torch.exp(-log_scale)
    cos, sin = angle.cos() * shrink, angle.sin() * shrink
    # where each pixel of the result comes from: x' = R(x - shift) / scale, in units of half a side
    ratio = height / width
    row_x = torch.stack([cos, -sin * ratio], 1)
    row_y = torch.stack([sin / ratio, cos], 1)
    shift = torch.stack([2 * right, 2 * down], 1)
    linear = torch.stack([row_x, row_y], 1)
    theta = torch.cat([linear, -(linear @ shift[:, :, None])], 2)
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
