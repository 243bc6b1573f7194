"""Binary codes: the signs of principal directions, as they are or rotated (ITQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.transform.coders import Coder, Signs
from netopsy.transform.fit.quantizer import Recipe
from netopsy.transform.fit.training import TrainingSet
from netopsy.transform.steps import Step

ITERATIONS = 50


@dataclass(frozen=True)
class Binary(Recipe):
    """One bit for each of the first `size` principal directions."""

    size: int

    @property
    def bits(self) -> int:
        return self.size


@dataclass(frozen=True)
class SignBits(Binary):
    """The signs of centred principal directions (PCA hashing)."""

    method: ClassVar[str] = "PCA signs"

    @property
    def label(self) -> str:
        return f"signs of PCA {self.size}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        step = train.directions(self.size, centred=True)
        return step, Signs(step.outputs)


@dataclass(frozen=True)
class Itq(Binary):
    """The signs of centred principal directions, rotated to lie near signs (ITQ).

    Gong & Lazebnik, "Iterative quantization: a Procrustean approach to learning binary codes", CVPR 2011.
    """

    method: ClassVar[str] = "ITQ"

    @property
    def label(self) -> str:
        return f"ITQ {self.size}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        z = train.coordinates[:, : self.size]
        rotation = procrustes(z - z.mean(0), seed=seed)
        step = train.directions(z.shape[1], centred=True, mix=rotation, name="rotated principal directions")
        return step, Signs(step.outputs)


def procrustes(z: Float[Tensor, "n c"], *, seed: int, iterations: int = ITERATIONS) -> Float[Tensor, "c c"]:
    """The rotation R that brings z R near its signs B, least |B - z R|, from a random one (Gong & Lazebnik, 3.2).

    In turn, B = sign(z R), and R = U V^T of the singular value decomposition U S V^T of z^T B. Neither can make the
    error greater.
    """
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(z.shape[1], z.shape[1], generator=generator, dtype=torch.float64))[0].to(z)
    for _ in range(iterations):
        b = torch.where(z @ rotation > 0, 1.0, -1.0).to(z)
        u, _, vt = torch.linalg.svd(z.T @ b)
        rotation = u @ vt
    return rotation
