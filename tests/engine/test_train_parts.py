"""Parts of a training: augmentation against image by image, rates against torch's schedulers, steps of equal size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_train import crop
from torch import nn

from netopsy.deep_compression.compress import share
from netopsy.engine.train.constraints import Table
from netopsy.engine.train.data import AugmentationDraws, augment_images, draw_augmentation, epoch_seed, step_sizes
from netopsy.engine.train.objective import rate_at
from netopsy.engine.train.recipe import Recipe


@pytest.mark.parametrize("fill", ["zero", "reflect"])
@pytest.mark.parametrize("augment", ["flip", "crop", "crop+flip"])
def test_augmentation_is_that_of_one_image_after_another(fill: str, augment: str) -> None:
    generator = torch.Generator().manual_seed(1)
    store = torch.rand((30, 7, 9, 3), generator=generator)
    rows = torch.randint(0, 30, (64,), generator=generator)
    black = torch.tensor([-1.0, -2.0, -3.0])
    draws = draw_augmentation(Recipe(augment=augment, pad=3), 64, generator)
    images = augment_images(store, rows, draws, black, fill)
    assert images.is_contiguous(memory_format=torch.channels_last)
    for i, row in enumerate(rows.tolist()):
        shift = tuple(draws.shift[i].tolist())
        expected = crop(store[row].numpy(), bool(draws.flip[i]), shift, 3, fill, black.numpy())
        assert np.array_equal(images[i].permute(1, 2, 0).numpy(), expected), (i, shift)
    assert bool(draws.flip.any()) == ("flip" in augment) and bool(draws.shift.any()) == ("crop" in augment)


def test_draws_are_even() -> None:
    draws = draw_augmentation(Recipe(augment="crop+flip", pad=2), 20_000, torch.Generator().manual_seed(0))
    assert abs(draws.flip.float().mean() - 0.5) < 0.02
    counts = torch.bincount((draws.shift + 2).flatten(), minlength=5) / 40_000
    assert (counts - 0.2).abs().max() < 0.01
    joint = torch.bincount(((draws.shift[:, 0] + 2) * 5 + draws.shift[:, 1] + 2), minlength=25) / 20_000
    assert (joint - 0.04).abs().max() < 0.008


def test_without_augmentation_images_stay() -> None:
    store, rows = torch.rand(5, 4, 4, 3), torch.tensor([3, 1])
    assert draw_augmentation(Recipe(), 5, torch.Generator()) is None
    still = AugmentationDraws(torch.zeros(2, dtype=torch.bool), torch.zeros((2, 2), dtype=torch.int64))
    for draws in (None, still):
        assert torch.equal(augment_images(store, rows, draws, torch.zeros(3), "zero"), store[rows].permute(0, 3, 1, 2))


@given(st.integers(1, 5000), st.integers(1, 300))
def test_steps_see_every_image_once_and_differ_by_one_at_most(n: int, batch: int) -> None:
    sizes = [size for count, size in step_sizes(n, batch) for _ in range(count)]
    assert sum(sizes) == n and max(sizes) <= batch and max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-n // batch)


def test_seeds_of_epochs_and_processes_differ() -> None:
    seeds = {epoch_seed(seed, epoch, rank) for seed in range(5) for epoch in range(20) for rank in range(3)}
    assert len(seeds) == 300


STEPS = 7


@pytest.mark.parametrize(
    "recipe, scheduler",
    [
        (Recipe(epochs=6, learning_rate=0.3), lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
        (
            Recipe(epochs=6, learning_rate=0.3, schedule="step", milestones=(1 / 3, 2 / 3), factor=0.2),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2 * STEPS, 4 * STEPS], 0.2),
        ),
        (
            Recipe(epochs=6, learning_rate=0.3, schedule="cosine", final=0.1),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6 * STEPS, 0.03),
        ),
        (
            Recipe(epochs=6, learning_rate=0.3, schedule="onecycle"),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.3, 6 * STEPS, cycle_momentum=False),
        ),
    ],
)
def test_rates_are_those_of_torch(recipe: Recipe, scheduler) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], recipe.learning_rate)
    torchs = scheduler(optimizer)
    for step in range(6 * STEPS):
        assert rate_at(recipe, step, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        torchs.step()


@pytest.mark.parametrize("patience, cooldown", [(0, 0), (2, 0), (1, 3)])
def test_plateau_is_that_of_torch(patience: int, cooldown: int) -> None:
    losses = np.random.default_rng(0).normal(size=60).cumsum() * 0.1 + 5
    losses[20:40] = losses[20]
    recipe = Recipe(epochs=60, learning_rate=0.3, schedule="plateau", factor=0.5, patience=patience, cooldown=cooldown)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.3)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, cooldown=cooldown, eps=0
    )
    for epoch in range(60):
        rate = rate_at(recipe, epoch * STEPS, STEPS, losses[:epoch].tolist())
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        torchs.step(losses[epoch])
    assert rate < 0.3


def test_plateau_has_a_floor_as_torchs_has() -> None:
    recipe = Recipe(epochs=30, learning_rate=0.3, schedule="plateau", factor=0.5, patience=1, final=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.3)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, min_lr=0.03, eps=0)
    for epoch in range(30):
        assert rate_at(recipe, epoch, 1, [1.0] * epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        torchs.step(1.0)
    assert rate_at(recipe, 29, 1, [1.0] * 29) == pytest.approx(0.03)
    assert rate_at(replace(recipe, final=1.0), 29, 1, [1.0] * 29) == 0.3


def test_warmup_rises_in_even_steps_to_the_rate() -> None:
    recipe = Recipe(epochs=3, learning_rate=1.0, warmup=1.0)
    rates = [rate_at(recipe, step, 4) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


@pytest.mark.parametrize("epochs, steps", [(1, 1), (1, 2), (1, 3), (2, 2)])
def test_onecycle_of_few_steps_stays_in_range(epochs: int, steps: int) -> None:
    recipe = Recipe(epochs=epochs, learning_rate=1.0, schedule="onecycle")
    assert all(0 < rate_at(recipe, step, steps) <= 1 for step in range(epochs * steps))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_table_sums_a_gradient_of_any_memory_format(memory_format: torch.memory_format) -> None:
    weight, gradient = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    shared = share(weight, 5)
    parameter = nn.Parameter(weight.to(memory_format=torch.channels_last))
    table = Table.of(parameter, shared, mean=False)
    parameter.grad = gradient.to(memory_format=memory_format)
    with torch.no_grad():
        table.gradient()
        table.apply()
    codes = torch.from_numpy(shared.codes.astype(np.int64)).reshape(weight.shape)
    torch.testing.assert_close(table.entries.grad, torch.stack([gradient[codes == i].sum() for i in range(5)]))
    assert np.array_equal(parameter.detach().numpy(), shared.decode())
