"""The engine of activation maximisation: against closed forms, plain torch, and known pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy import Network, Preprocessing
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.studies.maximize.ascend import AscentSettings, Climb, Stage, ascend, generator, likeness
from netopsy.studies.maximize.parametrisation import ColourCovariance, Fourier, PixelShares, mixing, root
from netopsy.studies.maximize.target import draw_moves, find_targets, move

SIZE = 12
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def wrap(module: nn.Module, size: int = SIZE) -> Network:
    return Network("test", module, Preprocessing(size=(size, size), mean=MEAN, std=STD))


@pytest.fixture(scope="module")
def net() -> Network:
    torch.manual_seed(3)
    return wrap(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(6 * 16, 5),
        )
    )  # fmt: skip


def climb(network: Network, units: list[str], recipe: AscentSettings, objective: str = "unit") -> list[Climb]:
    targets = find_targets(network, units, objective)  # type: ignore[arg-type]
    return ascend(Stage(network, targets, features=recipe.diversity > 0), recipe)


def module_input(pictures: Tensor) -> Tensor:
    """Pixels 0..255 as the network's input, written out."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pictures.float() / 255 - mean) / std


# --- closed forms


def test_ascent_on_a_linear_unit_reaches_the_corner_that_its_filter_points_to() -> None:
    linear = nn.Linear(3 * SIZE * SIZE, 4)
    network = wrap(nn.Sequential(nn.Flatten(), linear))
    (ascent,) = climb(network, ["1:2"], AscentSettings(steps=400, step_size=5, runs=2))
    weight = linear.weight[2].view(3, SIZE, SIZE)
    best = torch.where(weight > 0, 255, 0)
    assert (ascent.pictures == best).all(1).all()
    expected = (weight * module_input(best[None])[0]).sum() + linear.bias[2]
    assert ascent.reached.tolist() == pytest.approx([expected.item()] * 2, rel=1e-5)


def test_only_the_field_of_a_convolution_s_unit_is_climbed() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    network = wrap(conv)
    inner, corner = find_targets(network, [("conv2d", 1, 5, 6), ("conv2d", 1, 0, 0)])
    assert (inner.box, corner.box) == ((4, 5, 7, 8), (0, 0, 2, 2))
    (ascent,) = ascend(Stage(network, [corner]), AscentSettings(steps=300, step_size=0.5, runs=1))
    # the corner's field is the filter without its row and column over the padding
    assert torch.equal(ascent.pictures[0], torch.where(conv.weight[1, :, 1:, 1:] > 0, 255, 0).to(torch.uint8))


def test_a_unit_that_its_rectifier_holds_at_zero_is_climbed_by_its_operand() -> None:
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.bias.fill_(-4.0)
        conv.weight.mul_(3)
    network = wrap(nn.Sequential(conv, nn.ReLU()))
    (target,) = find_targets(network, ["1:2"])
    assert (target.node, target.unit.place, target.centred) == ("0", (5, 5), True)
    (ascent,) = climb(network, ["1:2"], AscentSettings(steps=200, step_size=0.3))
    assert (ascent.start < 0).all() and (ascent.reached > 0).all() and ascent.woken.all()


def test_the_operand_of_a_softmax_is_the_class_score() -> None:
    network = wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4), nn.Softmax(1)))
    assert find_targets(network, ["2:1"])[0].node == "1"


def test_no_gradient_is_said_and_the_picture_is_the_start() -> None:
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.bias.fill_(-1000.0)
    network = wrap(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 2, 3)))
    for recipe in (AscentSettings(steps=5), AscentSettings("fourier", steps=5, diversity=0.5, movement=1.0)):
        (ascent,) = climb(network, ["2:1"], recipe)
        assert not ascent.woken.any() and torch.equal(ascent.starts, ascent.pictures)
        assert torch.equal(ascent.start, ascent.reached)


# --- against the module


@pytest.mark.parametrize("way", ["plain", "fourier"])
@pytest.mark.parametrize("unit", ["5:3:1:2", "5:3", "7:4", "2:0:0:0"])
def test_the_values_are_those_of_the_plain_module_on_the_pictures_unmoved(net: Network, way: str, unit: str) -> None:
    (target,) = find_targets(net, [unit])
    recipe = AscentSettings(way, steps=12, movement=1.0 if way == "fourier" else 0.0, contrast=0.1, diversity=0.5)
    (ascent,) = climb(net, [unit], recipe)
    # what lies outside the field must not matter
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(9))
    top, left, bottom, right = target.box
    place = (slice(None), target.unit.channel, *(target.unit.place or ()))
    sequence = list(net.module.children())
    for pictures, values in ((ascent.starts, ascent.start), (ascent.pictures, ascent.reached)):
        images[:, :, top:bottom, left:right] = pictures
        with torch.no_grad():
            expected = nn.Sequential(*sequence[: int(target.node) + 1])(module_input(images))[place]
        assert values.tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
    assert (ascent.reached > ascent.start).all()


def test_the_channel_objective_is_the_mean_over_all_places(net: Network) -> None:
    (ascent,) = climb(net, ["5:3"], AscentSettings(steps=10), "channel")
    with torch.no_grad():
        expected = nn.Sequential(*list(net.module.children())[:5])(module_input(ascent.pictures))[:, 3].mean((1, 2))
    assert ascent.reached.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    with pytest.raises(SettingsError, match="names a place"):
        find_targets(net, ["5:3:1:1"], "channel")


def test_a_plain_step_is_the_gradient_of_autograd_at_its_length(net: Network) -> None:
    (ascent,) = climb(net, ["7:1"], AscentSettings(steps=1, step_size=0.05, runs=1))
    x = PixelShares((3, SIZE, SIZE)).start(generator(0, "7:1", 0)).requires_grad_()
    value = net.module(module_input(x * 255))[0, 1]
    (gradient,) = torch.autograd.grad(value, x)
    expected = (x.detach() + 0.05 * gradient / gradient.square().mean().sqrt()).clamp(0, 1) * 255
    assert (ascent.pictures - expected).abs().max() <= 0.51  # whole pixels
    assert ascent.curve.item() == pytest.approx(value.item(), rel=1e-4)


@pytest.mark.parametrize("way", ["plain", "fourier"])
def test_many_units_at_once_are_the_same_as_one_by_one(net: Network, way: str) -> None:
    units = ["5:0", "5:1", "5:4:2:2"]
    recipe = AscentSettings(
        way, steps=6, runs=2, contrast=0.1, diversity=0.5, movement=1.0 if way == "fourier" else 0.0
    )
    together = climb(net, units, recipe)
    for unit, both in zip(units, together, strict=True):
        (alone,) = climb(net, [unit], recipe)
        assert torch.equal(alone.starts, both.starts)
        assert (alone.pictures.int() - both.pictures.int()).abs().max() <= 1
        assert torch.allclose(alone.curve, both.curve, rtol=1e-3, atol=1e-4)


def test_one_seed_gives_one_picture_and_another_seed_another(net: Network) -> None:
    for way in ("plain", "fourier"):
        (first,), (again,), (other,) = (
            climb(net, ["7:1"], AscentSettings(way, steps=3, seed=s, movement=1)) for s in (0, 0, 1)
        )
        assert torch.equal(first.pictures, again.pictures) and torch.equal(first.curve, again.curve)
        assert not torch.equal(first.starts, other.starts) and not torch.equal(first.pictures, other.pictures)
        assert not torch.equal(first.starts[0], first.starts[1])


@pytest.mark.parametrize("way", ["plain", "fourier"])
def test_the_network_is_left_as_it_was_and_no_parameter_has_a_gradient(net: Network, way: str) -> None:
    before = {name: tensor.clone() for name, tensor in net.tensors.items()}
    expected = [p.requires_grad for p in net.module.parameters()]
    climb(net, ["5:2", "5:3"], AscentSettings(way, steps=4, diversity=1.0, movement=1.0))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.tensors.items())
    assert all(p.grad is None for p in net.module.parameters())
    assert [p.requires_grad for p in net.module.parameters()] == expected and not net.module.training


def test_units_and_pixels_that_are_not_there_are_refused(net: Network) -> None:
    with pytest.raises(UnknownLayer, match="no unit 6"):
        find_targets(net, ["5:6"])
    with pytest.raises(SettingsError, match="pixel"):
        find_targets(net, ["input:0"])


# --- parametrisations


@pytest.mark.parametrize("size", [(12, 12), (9, 7), (6, 11)])
def test_fourier_coefficients_of_an_image_give_the_image(size: tuple[int, int]) -> None:
    colours = torch.tensor([[1.0, 0.3, 0.0], [0.8, -0.5, 0.2], [0.9, 0.1, -0.4]])
    form = Fourier((3, *size), colours)
    images = 0.01 + 0.98 * torch.rand(2, 3, *size)
    plain = torch.einsum("cd,ndhw->nchw", torch.linalg.inv(colours), torch.logit(images))
    coefficients = torch.view_as_real(torch.fft.rfft2(plain, norm="ortho") / form.amplitudes())
    assert torch.allclose(form.images(coefficients), images, atol=1e-4)


def test_a_single_coefficient_is_a_cosine() -> None:
    form = Fourier((1, 16, 16), torch.eye(1))
    x = torch.zeros(1, 1, 16, 9, 2)
    x[0, 0, 3, 0, 0] = 1.0  # 3 cycles down the image, and its mirror
    x[0, 0, -3, 0, 0] = 1.0
    wave = torch.logit(form.images(x).double())[0, 0]
    rows = torch.cos(2 * math.pi * 3 * torch.arange(16) / 16).double()
    assert torch.allclose(wave / wave[0, 0], rows[:, None].expand(16, 16), atol=1e-5)


def test_white_coefficients_give_a_spectrum_that_falls_with_the_frequency() -> None:
    form = Fourier((1, 32, 32), torch.eye(1), contrast=1.0)
    starts = torch.cat([form.start(torch.Generator().manual_seed(s)) for s in range(400)])
    plain = torch.logit(form.images(starts).double().clamp(1e-7, 1 - 1e-7))
    power = np.abs(np.fft.fft2(plain[:, 0].numpy())) ** 2
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32))
    mean, inside = power.mean(0), (frequency > 0.05) & (frequency < 0.45)
    slope = np.polyfit(np.log(frequency[inside]), np.log(mean[inside]), 1)[0]
    assert slope == pytest.approx(-2, abs=0.1)
    # real and imaginary parts are both drawn: twice the variance of one
    assert plain.var().item() == pytest.approx(2, rel=0.15)


# --- colours


def test_the_decorrelation_makes_the_colours_covariance_the_identity() -> None:
    torch.manual_seed(1)
    mix = torch.tensor([[1.0, 0.2, 0.1], [0.9, -0.3, 0.1], [0.8, 0.1, -0.3]])
    images = torch.einsum("dc,nchw->ndhw", mix, torch.randn(40, 3, 9, 9)) + 2
    tally = ColourCovariance()
    tally.update(images[:25], torch.arange(25))
    tally.update(images[25:], torch.arange(25, 40))
    rows = images.transpose(0, 1).flatten(1)
    covariance = tally.result()
    assert covariance is not None and np.allclose(covariance.numpy(), np.cov(rows.numpy(), bias=True), rtol=1e-4)
    white = torch.linalg.inv(root(covariance)) @ (rows.double() - rows.double().mean(1, keepdim=True))
    assert np.allclose(np.cov(white.numpy(), bias=True), np.eye(3), atol=1e-4)
    colours = mixing(covariance, 3)
    assert colours.norm(dim=1).max().item() == pytest.approx(1, rel=1e-6)


def test_the_covariance_merges_and_stops_at_its_number_of_images() -> None:
    images = torch.rand(30, 3, 4, 4)
    whole, first, second, few = ColourCovariance(), ColourCovariance(), ColourCovariance(), ColourCovariance(12)
    whole.update(images, torch.arange(30))
    first.update(images[:11], torch.arange(11))
    second.update(images[11:], torch.arange(11, 30))
    first.merge(second)
    few.update(images[:10], torch.arange(10))
    few.update(images[10:], torch.arange(10, 30))
    assert torch.allclose(first.result(), whole.result())  # type: ignore[arg-type]
    rows = images[:12].transpose(0, 1).flatten(1).numpy()
    assert np.allclose(few.result().numpy(), np.cov(rows, bias=True), rtol=1e-4)  # type: ignore[union-attr]


def test_without_samples_or_without_colour_the_mixing_can_be_inverted() -> None:
    assert ColourCovariance().result() is None
    assert torch.equal(mixing(None, 3), torch.eye(3)) and torch.equal(mixing(torch.zeros(1, 1), 1), torch.eye(1))
    gray = mixing(torch.ones(3, 3), 3)
    assert torch.linalg.inv(gray).isfinite().all()


# --- moves


def spot(row: int, column: int, size: tuple[int, int] = (21, 21)) -> Tensor:
    image = torch.zeros(1, 1, *size)
    image[0, 0, row, column] = 1
    return image


def where(image: Tensor) -> tuple[int, int]:
    return tuple(int(i) for i in torch.unravel_index(image[0, 0].argmax(), image[0, 0].shape))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("motion", "from_", "to"),
    [
        ((0.0, 0, 0, 0), (4, 7), (4, 7)),
        ((3 / 21, 0, 0, 0), (4, 7), (7, 7)),
        ((0, -2 / 21, 0, 0), (4, 7), (4, 5)),
        ((0, 0, math.log(2), 0), (8, 12), (6, 14)),
        ((0, 0, 0, math.pi / 2), (10, 14), (6, 10)),
        ((1 / 21, 0, 0, math.pi / 2), (10, 14), (7, 10)),
    ],
)
def test_a_move_takes_a_known_pixel_where_it_belongs(
    motion: tuple[float, ...], from_: tuple[int, int], to: tuple[int, int]
) -> None:
    moved = move(spot(*from_), torch.tensor([motion]))
    assert moved.shape == (1, 1, 21, 21) and where(moved) == to
    if not any(motion):
        assert torch.allclose(moved, spot(*from_), atol=1e-5)


def test_a_turn_keeps_distances_in_an_image_that_is_not_square() -> None:
    moved = move(spot(10, 24, (21, 41)), torch.tensor([[0, 0, 0, math.pi / 2]]))
    assert moved.shape == (1, 1, 21, 41) and where(moved) == (6, 20)


def test_each_image_moves_by_its_own_motion_within_the_reach() -> None:
    motions = draw_moves(1000, 1.0, torch.Generator().manual_seed(0))
    reach = torch.tensor([0.05, 0.05, math.log(1.1), math.radians(10)])
    assert (motions.abs() <= reach).all() and (motions.abs().amax(0) > 0.95 * reach).all()
    assert not draw_moves(5, 0.0, torch.Generator()).any()
    images = torch.rand(3, 2, 9, 9)
    together = move(images, motions[:3])
    assert torch.allclose(together[1:2], move(images[1:2], motions[1:2]), atol=1e-6)


# --- diversity


def test_likeness_is_the_mean_cosine_of_gram_matrices() -> None:
    features = torch.randn(3, 4, 5, 6)
    grams = [np.asarray(f.flatten(1) @ f.flatten(1).T).ravel() for f in features]
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosines = [grams[a] @ grams[b] / np.linalg.norm(grams[a]) / np.linalg.norm(grams[b]) for a, b in pairs]
    assert likeness(features).item() == pytest.approx(np.mean(cosines), rel=1e-5)
    assert likeness(features[:1]).item() == 0
    assert likeness(features[:1].repeat(2, 1, 1, 1)).item() == pytest.approx(1)


def test_the_diversity_term_pushes_the_runs_apart(net: Network) -> None:
    def alike(weight: float) -> float:
        recipe = AscentSettings("fourier", steps=40, runs=3, step_size=0.1, diversity=weight, contrast=0.02)
        (ascent,) = climb(net, ["7:2"], recipe)
        with torch.no_grad():
            return likeness(nn.Sequential(*list(net.module.children())[:6])(module_input(ascent.pictures))).item()

    assert alike(3.0) < alike(0.0) - 0.02
