"""Training any module, also on stored values: against `fit` with all else frozen, and against loops written out."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from reference_activations import Head, regressed
from test_train import SHORT, noise, tiny
from torch import nn

from netopsy import Samples, fit, load_network, workspace
from netopsy.blocks.activation_cache import cache
from netopsy.blocks.training import TrainingResult, train_module
from netopsy.engine.train.activations import ActivationSet
from netopsy.engine.train.recipe import Recipe
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.errors import NetworkError, SamplesError, SettingsError, UnknownLayer
from netopsy.samples.images import ArrayImages

POOLED = "max_pool2d"


def head(seed: int = 0) -> Head:
    return Head(copy.deepcopy(tiny(seed=seed).module.fc))


def data(folder: Path, flips: bool = True, targets: str | None = None) -> ActivationSet:
    """The pooled maps of `tiny` on the noise, and the values of `targets`."""
    files = cache(tiny(), noise(), (POOLED, *(() if targets is None else (targets,))), folder, flips=flips)
    return ActivationSet(files[POOLED], noise().labels, None if targets is None else files[targets], flips)


def same(one: TrainingResult, other: TrainingResult) -> bool:
    return all(torch.equal(value, other.state[name]) for name, value in one.state.items()) and one.table.drop(
        "seconds"
    ).equals(other.table.drop("seconds"))


def near(table: pl.DataFrame, other: pl.DataFrame) -> bool:
    columns = ("rate", "loss", "top1", "validation_loss", "validation_top1")
    return all(np.allclose(table[name].to_numpy(), other[name].to_numpy(), rtol=1e-4, atol=1e-6) for name in columns)


@pytest.mark.parametrize("augment", ["none", "flip"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_on_stored_values_it_ends_where_the_frozen_network_ends(tmp_path: Path, augment: str, optimizer: str) -> None:
    recipe = replace(SHORT, epochs=3, augment=augment, optimizer=optimizer, learning_rate=0.01, weight_decay=0.01)
    held_out = noise(70, seed=1)
    validation = ActivationSet(cache(tiny(), held_out, (POOLED,), tmp_path)[POOLED], held_out.labels)
    whole = fit(tiny(), noise(), recipe, frozen=("conv", "norm"), validation=held_out)
    tail = train_module(head(), data(tmp_path), recipe, spec={}, validation=validation)
    for name in ("fc.weight", "fc.bias"):
        assert not torch.allclose(tail.state[name], tiny().tensors[name], atol=1e-3)
        torch.testing.assert_close(tail.state[name], whole.network.tensors[name].detach(), rtol=0, atol=1e-5)
    assert near(tail.table, whole.table)


def test_the_same_in_the_middle_of_a_deep_network_with_norms_behind(tmp_path: Path) -> None:
    """Block 4 of VGG-16-BN is trained; block 5 and the classifier are frozen, with their statistics."""
    network = load_network("netopsy:vgg16_bn", weights="random", width=8, seed=1)
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(0, 256, (48, 32, 32, 3), np.uint8), generator.integers(0, 10, 48)
    samples = Samples("noise", ArrayImages(pixels), labels, tuple("abcdefghij"))
    recipe = Recipe(epochs=2, batch_size=16, learning_rate=0.01, augment="flip", weight_decay=1e-3)
    path = cache(network, samples, ("block3.pool",), tmp_path, flips=True)["block3.pool"]
    module = network.module
    parts = {"block4": module.block4, "block5": module.block5, "flatten": nn.Flatten(), "fc": module.fc}
    tail = nn.Sequential()
    for name, part in parts.items():
        tail.add_module(name, part)
    frozen = ("block5", "fc")
    given = ActivationSet(path, labels, flips=True)
    actual = train_module(tail, given, recipe, spec={}, frozen=frozen)
    whole = fit(network, samples, recipe, frozen=("block1", "block2", "block3", *frozen))
    for name, value in actual.state.items():
        torch.testing.assert_close(value, whole.network.tensors[name].detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(value, network.tensors[name]) == name.startswith(frozen), name


def test_on_images_it_trains_as_fit_does() -> None:
    network, recipe = tiny(dropout=0.3), replace(SHORT, augment="crop+flip", pad=2)
    whole = fit(network, noise(), recipe, validation=noise(20, seed=1), teacher=tiny(seed=5))
    mine = train_module(
        network.module,
        noise(),
        recipe,
        spec={},
        preprocessing=network.preprocessing,
        validation=noise(20, seed=1),
        teacher=tiny(seed=5).module,
    )
    assert all(torch.equal(value, whole.network.tensors[name]) for name, value in mine.state.items())
    assert mine.table.drop("seconds").equals(whole.table.drop("seconds"))


@pytest.mark.parametrize("loss", ["mse", "sse"])
def test_the_squared_error_is_that_of_torch(tmp_path: Path, loss: str) -> None:
    given = data(tmp_path, flips=False, targets="fc")
    values = torch.from_numpy(np.load(given.values)).permute(0, 3, 1, 2)
    targets = torch.from_numpy(np.load(given.targets))
    recipe = replace(SHORT, learning_rate=0.02 if loss == "mse" else 0.004)

    def error(outputs: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        squared = (outputs - expected).pow(2)
        return squared.sum(1) if loss == "sse" else squared.mean(1)

    expected, losses = regressed(head(seed=3), values, targets, recipe, error)
    actual = train_module(head(seed=3), given, recipe, spec={}, loss=loss, validation=given)
    for name, value in expected.items():
        torch.testing.assert_close(actual.state[name], value.detach(), rtol=1e-4, atol=1e-6)
    assert actual.table["loss"].to_list() == pytest.approx(losses, rel=1e-4) and losses[1] < losses[0]
    assert actual.table["top1"].null_count() == actual.table["validation_top1"].null_count() == 2
    with torch.no_grad():
        trained = head()
        trained.load_state_dict(actual.state)
        assert actual.table["validation_loss"][-1] == pytest.approx(
            float(error(trained(values), targets).mean()), rel=1e-5
        )


def test_the_summed_error_is_the_mean_at_a_smaller_rate(tmp_path: Path) -> None:
    given = data(tmp_path, targets="fc")
    recipe = replace(SHORT, learning_rate=0.02, augment="flip")
    mean = train_module(head(seed=3), given, recipe, spec={}, loss="mse")
    summed = train_module(head(seed=3), given, replace(recipe, learning_rate=0.004), spec={}, loss="sse")
    torch.testing.assert_close(mean.state, summed.state, rtol=1e-4, atol=1e-6)
    assert (mean.table["loss"] * 5).to_list() == pytest.approx(summed.table["loss"].to_list(), rel=1e-4)


def test_maps_are_learned_value_by_value(tmp_path: Path) -> None:
    """Outputs of any shape: a convolution comes near to one that made the targets."""
    files = cache(tiny(), noise(), ("input", "conv"), tmp_path, flips=True)
    given = ActivationSet(files["input"], noise().labels, files["conv"], flips=True)
    torch.manual_seed(7)
    student = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
    recipe = Recipe(epochs=40, batch_size=30, learning_rate=0.05, momentum=0.9, augment="flip")
    table = (actual := train_module(student, given, recipe, spec={}, loss="mse")).table
    assert table["loss"][-1] < 1e-4 * table["loss"][0]
    torch.testing.assert_close(actual.state["0.weight"], tiny().tensors["conv.weight"].detach(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("stored", [True, False])
def test_a_teacher_gives_what_its_stored_values_give(tmp_path: Path, stored: bool) -> None:
    """Also on images: the teacher sees each batch as it is augmented."""
    network, recipe = tiny(), replace(SHORT, augment="flip", learning_rate=0.02)
    if stored:
        given = data(tmp_path, targets="fc")
        expected = train_module(head(seed=3), given, recipe, spec={}, loss="mse", validation=given)
        plain = data(tmp_path)
        actual = train_module(head(seed=3), plain, recipe, spec={}, loss="mse", validation=plain, teacher=head())
    else:
        files = cache(network, noise(), ("input", "fc"), tmp_path, flips=True)
        given = ActivationSet(files["input"], noise().labels, files["fc"], flips=True)
        student = tiny(seed=3).module
        expected = train_module(student, given, recipe, spec={}, loss="mse", validation=given)
        actual = train_module(
            student,
            noise(),
            recipe,
            spec={},
            loss="mse",
            preprocessing=network.preprocessing,
            validation=noise(),
            teacher=network.module,
        )
    torch.testing.assert_close(actual.state, expected.state, rtol=1e-4, atol=1e-5)
    for column in ("loss", "validation_loss"):
        assert actual.table[column].to_list() == pytest.approx(expected.table[column].to_list(), rel=1e-4)


@pytest.mark.parametrize("frozen", [("0", "1"), ("0.weight", "1.weight", "1.bias"), "0"])
def test_frozen_parts_of_a_module_stay_with_their_statistics(frozen: tuple[str, ...] | str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    recipe = replace(SHORT, weight_decay=0.1)
    actual = train_module(module, noise(), recipe, spec={}, preprocessing=tiny().preprocessing, frozen=frozen)
    for name, value in module.state_dict().items():
        stays = name.startswith(("0.",) if frozen == "0" else ("0.", "1."))
        assert torch.equal(actual.state[name], value) == stays, name


def test_the_module_given_stays_as_it_is(tmp_path: Path) -> None:
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 5))
    module.train()
    module[2].eval()
    module[4].weight.requires_grad_(False)
    before, pointers = copy.deepcopy(module.state_dict()), [p.data_ptr() for p in module.parameters()]
    given = data(tmp_path, targets="fc")
    rows = np.load(given.values)
    state = torch.random.get_rng_state()
    first = train_module(module, given, SHORT, spec={}, validation=given)
    assert torch.equal(state, torch.random.get_rng_state())
    assert same(first, train_module(module, given, SHORT, spec={}, validation=given))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [p.data_ptr() for p in module.parameters()] == pointers and not module[4].weight.requires_grad
    assert [part.training for part in module] == [True, True, False, True, True]
    np.testing.assert_array_equal(np.load(given.values), rows)


def test_it_goes_on_where_it_was_and_complete_it_is_not_repeated(tmp_path: Path) -> None:
    given = data(tmp_path / "values", targets="fc")
    recipe, place = replace(SHORT, epochs=3, augment="flip", learning_rate=0.02), tmp_path / "work"
    whole = train_module(head(seed=3), given, recipe, spec={}, loss="mse")

    def interrupt(label: str, done: int, total: int) -> None:
        assert label == "student"
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workspace(place, interrupt):
        train_module(head(seed=3), given, recipe, spec={"a": 1}, loss="mse", label="student")
    (path,) = place.iterdir()
    assert [row["epoch"] for row in Checkpoint(path).load()[1]["rows"]] == [1]
    reports: list[int] = []
    with workspace(place, lambda label, done, total: reports.append(done)):
        for _ in range(2):
            assert same(whole, train_module(head(seed=3), given, recipe, spec={"a": 1}, loss="mse"))
            assert list(place.iterdir()) == [path]
        assert min(reports) > 0 and len(reports) == 4
        # anything else is another training
        train_module(head(seed=3), given, recipe, spec={"a": 2}, loss="mse")
        train_module(head(seed=3), given, recipe, spec={"a": 1}, loss="sse")
        train_module(head(seed=3), given, recipe, spec={"a": 1})
        train_module(head(seed=4), given, recipe, spec={"a": 1}, loss="mse")
        train_module(head(seed=3), given, recipe, spec={"a": 1}, loss="mse", frozen=("fc.bias",))
        train_module(head(seed=3), given, recipe, spec={"a": 1}, loss="mse", validation=given)
        train_module(head(seed=3), data(tmp_path / "values"), recipe, spec={"a": 1}, loss="mse", teacher=head())
    assert len(list(place.iterdir())) == 8


def test_divergence_of_a_squared_error_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="diverged in epoch 1"):
        train_module(
            head(seed=3), data(tmp_path, targets="fc"), replace(SHORT, learning_rate=1e12), spec={}, loss="sse"
        )


def test_bfloat16_learns_nearly_the_same(tmp_path: Path) -> None:
    given = data(tmp_path, targets="fc")
    full, half = (
        train_module(
            head(seed=3), given, replace(SHORT, precision=kind, learning_rate=0.02), spec={}, loss="mse"
        ).table["loss"]
        for kind in ("float32", "bfloat16")
    )
    assert 0 < (full - half).abs().max() < 0.02 * full.max()


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    given, plain = data(tmp_path, targets="fc"), data(tmp_path, flips=False)
    images = {"data": noise(), "preprocessing": tiny().preprocessing}
    flat = nn.Sequential(nn.Conv2d(8, 4, 1))
    for error, words, settings in (
        (SettingsError, "'crop\\+flip' shifts images", {"recipe": Recipe(augment="crop+flip")}),
        (SettingsError, "flips=True", {"data": plain, "recipe": Recipe(augment="flip")}),
        (SettingsError, "labels, mse, sse", {"loss": "l1"}),
        (SettingsError, "a teacher, or data with targets", {"data": plain, "loss": "mse"}),
        (SettingsError, "targets and a teacher", {"loss": "mse", "teacher": head()}),
        (SettingsError, "a teacher, or data with targets", {"loss": "mse", "validation": plain}),
        (SettingsError, r"gives \(4, 3, 3\) an image, and is to learn \(5,\)", {"module": flat, "loss": "mse"}),
        (SettingsError, "no parameters", {"module": nn.Flatten()}),
        (SettingsError, "preprocessing=", {"data": noise()}),
        (SettingsError, "every parameter is frozen", {"frozen": "fc"}),
        (SettingsError, "pad 9", {"module": tiny().module, **images, "recipe": Recipe(pad=9, fill="reflect")}),
        (SettingsError, "devices", {"recipe": Recipe(devices=91)}),
        (NetworkError, "one score a class", {"module": flat}),
        (UnknownLayer, "'fcc' to freeze; nearest: fc", {"frozen": ("fcc",)}),
        (SamplesError, "label 4 and the module 3 outputs", {"module": nn.Sequential(nn.Flatten(), nn.Linear(72, 3))}),
    ):
        with pytest.raises(error, match=words):
            train_module(**{"module": head(), "data": given, "recipe": SHORT, "spec": {}, **settings})


def test_several_labels_an_image_are_learned_from_stored_values(tmp_path: Path) -> None:
    labels = (np.random.default_rng(3).random((90, 5)) < 0.4).astype(np.float32)
    several = Samples("several", noise().records, labels, tuple("abcde"))
    path = cache(tiny(), several, (POOLED,), tmp_path)[POOLED]
    recipe = replace(SHORT, learning_rate=0.1)
    whole = fit(tiny(), several, recipe, frozen=("conv", "norm"), validation=several)
    given = ActivationSet(path, labels)
    actual = train_module(head(), given, recipe, spec={}, validation=given)
    assert near(actual.table, whole.table)
    with pytest.raises(SamplesError, match="5 labels an image and the module 3"):
        train_module(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), given, recipe, spec={})


@pytest.mark.slow
def test_two_processes_train_on_stored_values_as_one(tmp_path: Path) -> None:
    given = data(tmp_path, targets="fc")
    recipe = replace(SHORT, augment="flip", learning_rate=0.02)
    for loss in ("mse", "labels"):
        one, two = (
            train_module(head(seed=3), given, replace(recipe, devices=n), spec={}, loss=loss, validation=given)
            for n in (1, 2)
        )
        torch.testing.assert_close(two.state, one.state, rtol=1e-4, atol=1e-6)
        assert one.table["loss"].to_list() == pytest.approx(two.table["loss"].to_list(), rel=1e-4)
        assert one.table["validation_loss"].to_list() == pytest.approx(two.table["validation_loss"].to_list(), rel=1e-4)
