"""Gradient ascent to the images that excite units most: many units and runs at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from netopsy.studies.maximize.ascent.diversity import likeness
from netopsy.studies.maximize.ascent.parametrisation import Fourier, Parametrisation, Pixels
from netopsy.studies.maximize.ascent.stage import Stage
from netopsy.studies.maximize.ascent.transforms import draw, move

_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # Kingma and Ba, "Adam", 2015


@dataclass(frozen=True)
class Recipe:
    """How to climb.

    way: `plain` steps along the gradient in the pixels, each step as long as `step_size` in the root mean square over
        the field's pixel shares, and stays between black and white; `fourier` takes Adam's steps of `step_size` in
        Fourier coefficients of decorrelated colours, whose sigmoid stays there by itself.
    runs: random starts a unit. diversity: weight of the runs' likeness against the unit's relative gain.
    movement: how far images are moved at random in each step (`transforms.draw`). mixing: colours of `Fourier`.
    """

    way: str = "plain"
    runs: int = 3
    steps: int = 100
    step_size: float = 0.01
    contrast: float = 0.5
    diversity: float = 0.0
    movement: float = 0.0
    mixing: Tensor = field(default_factory=lambda: torch.eye(3))
    seed: int = 0

    def parametrisation(self, shape: tuple[int, int, int]) -> Parametrisation:
        """What is climbed in, for fields of `shape`."""
        if self.way == "plain":
            return Pixels(shape, self.contrast)
        return Fourier(shape, self.mixing, self.contrast)


@dataclass(frozen=True)
class Climb:
    """One unit's runs.

    starts, pictures: pixels 0..255 in the network's order of channels. start, reached: the value on these very
    pictures, unmoved. curve: the value before each step, on the moved image where images are moved.
    woken: whether any gradient came to the start.
    """

    starts: UInt8[Tensor, "run channel height width"]
    pictures: UInt8[Tensor, "run channel height width"]
    start: Float[Tensor, " run"]
    reached: Float[Tensor, " run"]
    curve: Float[Tensor, "run step"]
    woken: Bool[Tensor, " run"]


def ascend(stage: Stage, recipe: Recipe, report: Callable[[int], None] = lambda steps: None) -> list[Climb]:
    """The runs of every target of the stage, all images of all runs in one batch.

    Source: Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009; Palmieri et al., Eq. 10.
    An image's random numbers depend on the seed, its unit and its run alone, not on what else is in the batch.
    report: called with the number of steps done.
    """
    device, runs, targets = stage.network.device, recipe.runs, stage.targets
    shape = (stage.network.preprocessing.depth, *targets[0].size)
    form = recipe.parametrisation(shape)
    rows = [target for target in targets for _ in range(runs)]
    generators = [generator(recipe.seed, str(target.unit), run) for target in targets for run in range(runs)]
    x = torch.cat([form.start(g) for g in generators]).to(device)
    motions = torch.stack([draw(recipe.steps, recipe.movement, g) for g in generators]).to(device)
    with torch.no_grad():
        starts = to_bytes(form.images(x))
    climber: _Plain | _Adam = _Plain(x, recipe.step_size) if recipe.way == "plain" else _Adam(x, recipe.step_size)
    curve: list[Tensor] = []
    woken = torch.zeros(len(rows), dtype=torch.bool, device=device)
    for step in range(recipe.steps):
        with torch.enable_grad():
            leaf = climber.x.detach().requires_grad_()
            images = form.images(leaf)
            moved = move(images, motions[:, step]) if recipe.movement else images
            values, features = stage.values(moved, rows)
            gradient = _gradient(_gain(values, features, recipe), leaf)
        woken |= gradient.flatten(1).ne(0).any(1)
        curve.append(values.detach())
        climber.step(gradient, values.detach())
        report(step + 1)
    with torch.no_grad():
        final = climber.x
        if isinstance(climber, _Plain):
            final = climber.best(stage.values(form.images(final), rows)[0])
        pictures = to_bytes(form.images(final))
        start, _ = stage.values(shares(starts), rows)
        reached, _ = stage.values(shares(pictures), rows)
    parts = (starts, pictures, start, reached, torch.stack(curve, 1), woken)
    pieces = [part.cpu().split(runs) for part in parts]
    return [Climb(*piece) for piece in zip(*pieces, strict=True)]


def generator(seed: int, unit: str, run: int) -> torch.Generator:
    """The source of one image's random numbers."""
    digest = hashlib.sha256(f"{seed}\0{unit}\0{run}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def to_bytes(images: Float[Tensor, "n channel height width"]) -> UInt8[Tensor, "n channel height width"]:
    """Pixel shares 0..1 as 0..255."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def shares(pixels: UInt8[Tensor, "n channel height width"]) -> Float[Tensor, "n channel height width"]:
    """0..255 as pixel shares 0..1."""
    return pixels.float() / 255


class _Plain:
    """Steps of one length along the gradient, drawn back to black and white; remembers each image's best."""

    def __init__(self, x: Tensor, length: float) -> None:
        self.x, self.length = x, length
        self._best, self._value = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)

    def step(self, gradient: Tensor, values: Tensor) -> None:
        self.best(values)
        self.x = (self.x + self.length * _unit_length(gradient)).clamp(0, 1)

    def best(self, values: Tensor) -> Tensor:
        """The best images so far, when the present ones have `values`."""
        better = values > self._value
        self._value = torch.where(better, values, self._value)
        self._best[better] = self.x[better]
        return self._best


class _Adam:
    """Adam's steps uphill (Kingma and Ba 2015), on gradients of unit length, so that no image's scale matters."""

    def __init__(self, x: Tensor, length: float) -> None:
        self.x, self.length, self.count = x, length, 0
        self._first, self._second = torch.zeros_like(x), torch.zeros_like(x)

    def step(self, gradient: Tensor, values: Tensor) -> None:
        self.count += 1
        gradient = _unit_length(gradient)
        self._first = torch.lerp(gradient, self._first, _BETAS[0])
        self._second = torch.lerp(gradient.square(), self._second, _BETAS[1])
        mean = self._first / (1 - _BETAS[0] ** self.count)
        spread = (self._second / (1 - _BETAS[1] ** self.count)).sqrt()
        self.x = self.x + self.length * mean / (spread + _EPSILON)


def _gain(values: Tensor, features: Tensor | None, recipe: Recipe) -> Tensor:
    """What is climbed: the units' own values; with diversity each relative to its size, less the runs' likeness."""
    if not recipe.diversity or features is None or recipe.runs < 2:
        return values.sum()
    relative = values / values.detach().abs().clamp(min=1e-6)
    alike = torch.stack([likeness(part) for part in features.split(recipe.runs)])
    return relative.sum() - recipe.diversity * recipe.runs * alike.sum()


def _gradient(gain: Tensor, leaf: Tensor) -> Tensor:
    """The gain's gradient; zeros where it does not depend on the images, and where it is no number."""
    if not gain.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(gain, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)


def _unit_length(gradient: Tensor) -> Tensor:
    """Each image's gradient over its own root mean square; zeros stay zeros."""
    flat = gradient.flatten(1)
    # the largest magnitude first: squares of small gradients underflow
    peak = flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    flat = flat / peak
    length = flat.square().mean(1, keepdim=True).sqrt().clamp(min=torch.finfo(flat.dtype).tiny)
    return (flat / length).view_as(gradient)
