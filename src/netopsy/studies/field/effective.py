"""The effective receptive field: where in the theoretical one the gradient is (Luo et al., 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from netopsy.engine.backproject.backproject import backproject
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import NetworkError
from netopsy.network.network import Network
from netopsy.network.windows.field import Box
from netopsy.samples.samples import Samples
from netopsy.studies.field.probes import Probe, field_box

_STEP = 8  # images a backward pass


@dataclass(frozen=True)
class Effective:
    """The effective field of a probe.

    box: its theoretical field, cut to the image. cut: whether that took something off it.
    energy: the mean over images of the squared gradient of the unit with respect to each pixel, summed over the
    colours; float64 (height, width).
    area_share: share of the box that the fewest pixels holding most of the energy fill. side: of a square as large, in
    pixels. sd: standard deviation of the energy's position about its centre, (vertical, horizontal). None where there
    is no gradient.
    """

    probe: Probe
    box: Box
    cut: bool
    energy: Float64[Tensor, "height width"]
    area_share: float | None = None
    side: float | None = None
    sd: tuple[float, float] | None = None
    centre: tuple[float, float] | None = None

    @property
    def measures(self) -> list[float | None]:
        """Share of the area, side, deviations and centre, as the table has them."""
        return [self.area_share, self.side, *(self.sd or (None, None)), *(self.centre or (None, None))]


def averages(
    network: Network,
    samples: Samples,
    probes: Sequence[Probe],
    images: Sequence[int],
    share: float,
    generator: torch.Generator,
) -> list[Effective]:
    """The effective field of every probe over the samples numbered `images`; one backward pass an image and probe.

    A probe without a channel has another one, drawn at random, on each image.
    """
    height, width = (1, 1, *network.preprocessing.input_shape)[-2:]
    sums = [torch.zeros(height, width, dtype=torch.float64) for _ in probes]
    draws = [torch.randint(probe.channels, (len(images),), generator=generator).tolist() for probe in probes]
    total, done = len(probes) * len(images), 0
    if not probes:
        return []
    for batch in samples.batches(network.preprocessing, _STEP, order=images):
        pictures = batch.images.to(network.device)
        first, count = done // len(probes), len(pictures)
        for number, probe in enumerate(probes):
            picked = [draws[number][first + i] if probe.channel is None else probe.channel for i in range(count)]
            units = [(probe.node, channel, *probe.place) for channel in picked]
            try:
                maps = backproject(network, pictures, units, "gradient", of=range(count))
                sums[number] += maps.reshape(count, -1, height, width).double().square().sum((0, 1)).cpu()
            except NetworkError:  # an operator without a derivative: the probe has no gradient
                sums[number].fill_(torch.nan)
            done += count
            current_workspace().report("effective fields", done, total)
    return [measure(p, *field_box(network, p), s / len(images), share) for p, s in zip(probes, sums, strict=True)]


def measure(probe: Probe, box: Box, cut: bool, energy: Float64[Tensor, "height width"], share: float) -> Effective:
    """The measures of one energy map: of the fewest pixels that hold a `share` of it, and of its spread."""
    total = energy.sum()
    if not total > 0 or not torch.isfinite(total):
        return Effective(probe, box, cut, energy.nan_to_num(0.0, 0.0, 0.0))
    weights = energy / total
    reached = weights.flatten().sort(descending=True).values.cumsum(0)
    pixels = int((reached < share * (1 - 1e-12)).sum()) + 1
    top, left, bottom, right = box
    sd, centre = [], []
    for axis in (0, 1):
        along = weights.sum(1 - axis)
        position = torch.arange(len(along), dtype=torch.float64)
        mean = (along * position).sum()
        centre.append(float(mean))
        sd.append(float((along * (position - mean).square()).sum().sqrt()))
    area = pixels / ((bottom - top) * (right - left))
    return Effective(probe, box, cut, energy, area, pixels**0.5, (sd[0], sd[1]), (centre[0], centre[1]))
