"""Augmentation on the device: every image of a batch its own flip and shift, by one gather."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from netopsy.engine.train.recipe import Recipe


@dataclass(frozen=True)
class AugmentationDraws:
    """What an epoch's augmentation drew for each of its images, in the order in which they are visited.

    flip: which are mirrored left to right. shift: rows and columns by which the image moves, -pad to pad. still: no
    image moves.
    """

    flip: Bool[Tensor, " n"]
    shift: Int64[Tensor, "n 2"]
    still: bool = False

    def part(self, which: Tensor | slice) -> AugmentationDraws:
        """The draws of some of the visits."""
        return AugmentationDraws(self.flip[which], self.shift[which], self.still)

    def to(self, device: torch.device) -> AugmentationDraws:
        """The draws on a device."""
        return AugmentationDraws(self.flip.to(device), self.shift.to(device), self.still)


def draw(recipe: Recipe, n: int, generator: torch.Generator) -> AugmentationDraws | None:
    """The draws of `n` visits, or None where the recipe does not augment."""
    if recipe.augment == "none":
        return None
    flip = torch.rand(n, generator=generator) < 0.5
    shift = torch.randint(-recipe.pad, recipe.pad + 1, (n, 2), generator=generator)
    return AugmentationDraws(
        flip if "flip" in recipe.augment else torch.zeros_like(flip),
        shift if "crop" in recipe.augment else torch.zeros_like(shift),
        "crop" not in recipe.augment,
    )


def augmented(
    store: Float[Tensor, "m height width channel"],
    rows: Int64[Tensor, " batch"],
    draws: AugmentationDraws | None,
    black: Float[Tensor, " channel"],
    fill: str,
) -> Float[Tensor, "batch channel height width"]:
    """The images `rows` of `store`, flipped and then shifted, in the memory format channels_last.

    black: the value of a black pixel, which comes in from outside where `fill` is zero. A shift by (dy, dx) is the crop
    that begins dy rows and dx columns from the corner of the image itself.
    """
    if draws is None:
        return store.index_select(0, rows).permute(0, 3, 1, 2)
    if draws.still:
        images = store.index_select(0, rows)
        return torch.where(draws.flip[:, None, None, None], images.flip(2), images).permute(0, 3, 1, 2)
    _, height, width, channels = store.shape
    y, outside_y = _inside(torch.arange(height, device=rows.device) + draws.shift[:, :1], height)
    x, outside_x = _inside(torch.arange(width, device=rows.device) + draws.shift[:, 1:], width)
    x = torch.where(draws.flip[:, None], width - 1 - x, x)
    at = (rows[:, None, None] * height + y[:, :, None]) * width + x[:, None, :]
    images = store.reshape(-1, channels)[at.reshape(-1)].reshape(len(rows), height, width, channels)
    if fill == "zero":
        outside = outside_y[:, :, None] | outside_x[:, None, :]
        images = torch.where(outside[..., None], black, images)
    return images.permute(0, 3, 1, 2)


def _inside(
    at: Int64[Tensor, "batch size"], size: int
) -> tuple[Int64[Tensor, "batch size"], Bool[Tensor, "batch size"]]:
    """Places mirrored into 0 to size - 1 (the edge pixel not repeated), and which were outside."""
    outside = (at < 0) | (at >= size)
    at = at.abs()
    return size - 1 - (size - 1 - at).abs(), outside
