"""What an ascent climbs in: the pixels themselves, or the Fourier coefficients of decorrelated colours.

Both give images of pixel shares, 0 (black) to 1 (white), in the network's own order of channels. Colours hang together
as the samples' do: by the square root of their covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.engine.observe.tally import Tally


class ColourCovariance(Tally):
    """Covariance of the channels over all pixels of the first `most` images of the network's input.

    update: (batch, channel, height, width), preprocessed. result: float64 (channel, channel), population covariance in
    units of the preprocessed input; None before any image.
    """

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.images = self.count = 0
        self.sums: Tensor | None = None  # float64 (channel,)
        self.products: Tensor | None = None  # float64 (channel, channel)

    def update(self, values: Tensor, indices: Tensor) -> None:
        values = values[: self.most - self.images]
        if not len(values):
            return
        rows = values.transpose(0, 1).flatten(1).double()
        sums, products = rows.sum(1), rows @ rows.T
        self.sums = sums if self.sums is None else self.sums + sums
        self.products = products if self.products is None else self.products + products
        self.images += len(values)
        self.count += rows.shape[1]

    def merge(self, other: ColourCovariance) -> None:
        if other.sums is None or other.products is None:
            return
        self.sums = other.sums if self.sums is None else self.sums + other.sums
        self.products = other.products if self.products is None else self.products + other.products
        self.images += other.images
        self.count += other.count

    def result(self) -> Float[Tensor, "channel channel"] | None:
        if self.sums is None or self.products is None:
            return None
        mean = self.sums / self.count
        return (self.products / self.count - mean[:, None] * mean).cpu()


def root(covariance: Float[Tensor, "channel channel"]) -> Float[Tensor, "channel channel"]:
    """A with A A^T = covariance, its columns the principal colours: A maps unit-variance colours to correlated ones.

    Its inverse makes the covariance the identity. Directions without variance get a hundredth of the largest
    deviation, so that A can be inverted.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    return vectors * values.clamp(min=1e-4 * float(values.max().clamp(min=1e-12))).sqrt()


def mixing(covariance: Float[Tensor, "channel channel"] | None, channels: int) -> Float[Tensor, "channel channel"]:
    """Decorrelated colours to colours, scaled so that the widest channel has unit deviation; identity without samples.

    Source: Olah, Mordvintsev, Schubert, "Feature Visualization", 2017, "decorrelated color space"; the covariance is
    that of the samples at hand.
    """
    if covariance is None or not bool(covariance.isfinite().all()) or float(covariance.diagonal().max()) <= 0:
        return torch.eye(channels)
    a = root(covariance)
    return (a / a.norm(dim=1).max()).float()


class Parametrisation(Protocol):
    """Parameters (n, ...) -> images (n, channel, height, width) of pixel shares."""

    def start(self, generator: torch.Generator) -> Tensor:
        """Random parameters of one image, (1, ...), on the processor."""
        ...

    def images(self, parameters: Tensor) -> Tensor:
        """The images that the parameters stand for."""
        ...


@dataclass(frozen=True)
class PixelShares:
    """The pixel shares themselves: Eq. 10 of Palmieri et al., where the image is the argument.

    shape: (channel, height, width). A start is uniform noise of +- `contrast` around mid-gray.
    """

    shape: tuple[int, int, int]
    contrast: float = 0.5

    def start(self, generator: torch.Generator) -> Float[Tensor, "1 channel height width"]:
        return 0.5 + self.contrast * (2 * torch.rand(1, *self.shape, generator=generator) - 1)

    def images(self, parameters: Tensor) -> Float[Tensor, "n channel height width"]:
        return parameters.clamp(0, 1)


@dataclass(frozen=True)
class Fourier:
    """Fourier coefficients with 1/f amplitudes, mixed into correlated colours, through a sigmoid.

    A step of one size on every coefficient changes low frequencies more than high ones, as natural pictures have them
    (Olah, Mordvintsev, Schubert, "Feature Visualization", 2017, "Preconditioning and Parameterization").
    The amplitudes are scaled so that coefficients of unit variance give pixels of unit variance before the mixing.

    shape: (channel, height, width). mixing: (channel, channel), decorrelated colours to colours (`colours.mixing`).
    contrast: standard deviation of the start's coefficients.
    parameters: float (n, channel, height, width // 2 + 1, 2), real and imaginary parts.
    """

    shape: tuple[int, int, int]
    mixing: Tensor
    contrast: float = 0.02

    def start(self, generator: torch.Generator) -> Float[Tensor, "1 channel height half 2"]:
        channels, height, width = self.shape
        return self.contrast * torch.randn(1, channels, height, width // 2 + 1, 2, generator=generator)

    def images(self, parameters: Tensor) -> Float[Tensor, "n channel height width"]:
        spectrum = torch.view_as_complex(parameters.contiguous()) * self.amplitudes().to(parameters)
        plain = torch.fft.irfft2(spectrum, s=self.shape[1:], norm="ortho")
        return torch.sigmoid(torch.einsum("dc,nchw->ndhw", self.mixing.to(plain), plain))

    def amplitudes(self) -> Float[Tensor, "height half"]:
        """1 / f per coefficient, f in cycles a pixel and no less than one cycle over the longer side."""
        height, width = self.shape[1:]
        rows, columns = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.fftfreq(width, dtype=torch.float64)
        falling = 1 / torch.hypot(rows[:, None], columns).clamp(min=1 / max(height, width))
        # half of a real image's coefficients stand for all of them; the mean is over all
        return (falling / falling.square().mean().sqrt())[:, : width // 2 + 1].float()
