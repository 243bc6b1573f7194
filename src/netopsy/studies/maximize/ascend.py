"""Gradient ascent to the images that excite units most: many units and runs at once.

It climbs from the pixels of the units' fields to their values. `likeness` says how alike several pictures of one unit
are to the layer that sees them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.preprocessing import Preprocessing
from netopsy.studies.maximize.parametrisation import Fourier, Parametrisation, PixelShares
from netopsy.studies.maximize.target import Target, draw_moves, move


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


_MAP = 3  # sides of a map whose Gram matrix says something about places


class Stage:
    """Runs the part of a network that some targets depend on: fields in, values out.

    targets: of one node, of one `signature`. What lies outside a field is not run, where the network can be cut.
    features: whether the map that judges likeness is wanted: the last activation of at least 3 x 3 places in the tree.
    Parameters are used detached, so that they can get no gradient.
    """

    def __init__(self, network: Network, targets: Sequence[Target], *, features: bool = False) -> None:
        self.network, self.targets, self.tree = network, list(targets), targets[0].tree
        self.features = self._feature_node() if features else None
        floating = (t.dtype for t in network.tensors.values() if t.is_floating_point())
        self._kind = next(floating, torch.float32)

    def values(
        self, images: Float[Tensor, "n channel height width"], targets: Sequence[Target]
    ) -> tuple[Float[Tensor, " n"], Tensor | None]:
        """Each image's own unit, and the map that judges likeness; images: pixel shares in each target's field."""
        # beyond the field lies the mean colour, which is 0 in the network's input
        x = F.pad(network_input(images, self.network.image_preprocessing), self.targets[0].margins).to(self._kind)
        keep = [self.features] if self.features else []
        values_of = self.tree.forward(x, keep=keep)
        reached = values_of[self.tree.trunk.target]
        values = torch.cat([target.value(reached[i : i + 1]) for i, target in enumerate(targets)])
        features = values_of[self.features].float() if self.features else None
        return values.float(), features

    def image_bytes(self) -> int:
        """About what one image holds until its gradient is back: every value on the way."""
        return 4 * sum(torch.Size(self.tree.size(node)).numel() for node in self.tree.trunk.data if node.is_tensor)

    def _feature_node(self) -> Node | None:
        functions = set(activations(self.network, mixing=False).values())
        sizes = {node: self.tree.size(node) for node in self.tree.trunk.data if node in functions}
        maps = [node for node, size in sizes.items() if len(size) == 3 and min(size[1:]) >= _MAP]
        return maps[-1] if maps else None


def network_input(
    shares: Float[Tensor, "n channel height width"], preprocessing: Preprocessing
) -> Float[Tensor, "n channel height width"]:
    """Pixel shares 0..1 in the network's order of channels as its input."""
    mean, std = (
        torch.tensor(v, device=shares.device).view(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std)
    )
    return (shares * (255 * preprocessing.scale) - mean) / std


_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # Kingma and Ba, "Adam", 2015


@dataclass(frozen=True)
class AscentSettings:
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
            return PixelShares(shape, self.contrast)
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


def ascend(stage: Stage, recipe: AscentSettings, report: Callable[[int], None] = lambda steps: None) -> list[Climb]:
    """The runs of every target of the stage, all images of all runs in one batch.

    Source: Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009; Palmieri et al., Eq. 10.
    An image's random numbers depend on the seed, its unit and its run alone, not on what else is in the batch.
    report: called with the number of steps done.
    """
    device, runs, targets = stage.network.device, recipe.runs, stage.targets
    shape = (stage.network.image_preprocessing.depth, *targets[0].size)
    form = recipe.parametrisation(shape)
    rows = [target for target in targets for _ in range(runs)]
    generators = [generator(recipe.seed, str(target.unit), run) for target in targets for run in range(runs)]
    x = torch.cat([form.start(g) for g in generators]).to(device)
    motions = torch.stack([draw_moves(recipe.steps, recipe.movement, g) for g in generators]).to(device)
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


def _gain(values: Tensor, features: Tensor | None, recipe: AscentSettings) -> Tensor:
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
