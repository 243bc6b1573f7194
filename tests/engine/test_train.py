"""`fit`: against training written out, against autograd on the tables, and what must stay as it is."""

from __future__ import annotations

import copy
import logging
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
from reference_train import Tiny, batches, distilled, inputs, train
from torch import nn
from torch.nn.utils import parametrize

from netopsy import Network, Preprocessing, Samples, score
from netopsy.deep_compression.compress import keep_share, share
from netopsy.engine.train import data as train_data
from netopsy.engine.train.fit import History, fit
from netopsy.engine.train.recipe import Recipe
from netopsy.errors import SamplesError, SettingsError, UnknownLayer
from netopsy.samples.images import ArrayImages

SHORT = Recipe(epochs=2, batch_size=20, learning_rate=0.05)


@cache  # its graph is exported once, and no training may change it
def tiny(norm: bool = True, dropout: float = 0.0, seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Tiny(norm, dropout)
    return Network("tiny", module, Preprocessing(size=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3))


def noise(count: int = 90, seed: int = 0, classes: int = 5) -> Samples:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return Samples("noise", ArrayImages(pixels), generator.integers(0, classes, count), tuple("abcde"))


@pytest.fixture(scope="module")
def samples() -> Samples:
    return noise()


def weights(history: History) -> dict[str, torch.Tensor]:
    return history.network.module.state_dict()


def same(a: History, b: History) -> bool:
    one, other = weights(a), weights(b)
    return all(torch.equal(one[name], other[name]) for name in one) and a.table.drop("seconds").equals(
        b.table.drop("seconds")
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_training_equals_the_same_written_out(samples: Samples, nesterov: bool) -> None:
    network, recipe = tiny(norm=False), replace(SHORT, nesterov=nesterov, weight_decay=0.01)
    expected, actual = train(network, samples, recipe), weights(fit(network, samples, recipe))
    assert not torch.allclose(actual["fc.weight"], network.tensors["fc.weight"], atol=1e-3)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-6)


def test_weight_decay_leaves_biases_alone_unless_all_decay(samples: Samples) -> None:
    network = tiny(norm=False).with_tensors({"fc.bias": torch.full((5,), 5.0)})
    still = replace(SHORT, epochs=1, learning_rate=1e-4, weight_decay=100.0)
    spared, decayed = (
        weights(fit(network, samples, replace(still, decay_all=all_)))["fc.bias"] for all_ in (False, True)
    )
    assert (spared - 5).abs().max() < 0.01
    assert decayed.max() < 4.9


@pytest.mark.parametrize("gradient", ["sum", "mean"])
@pytest.mark.parametrize("pruned", [False, True])
def test_tables_move_as_autograd_on_the_table_says(samples: Samples, gradient: str, pruned: bool) -> None:
    network = tiny(norm=False)
    recipe = replace(SHORT, table_gradient=gradient, table_learning_rate=0.3, weight_decay=0.01)
    shared = {}
    for name in ("conv.weight", "fc.weight"):
        mask = keep_share(network.tensors[name], 0.4) if pruned else None
        shared[name] = share(network.tensors[name], 6, mask=mask)
    history = fit(network, samples, recipe, shared=shared)
    for name, value in train(network, samples, recipe, shared).items():
        torch.testing.assert_close(weights(history)[name], value, rtol=1e-4, atol=1e-6)
    for name, before in shared.items():
        after = history.shared[name]
        assert np.array_equal(after.decode(), weights(history)[name].numpy())
        assert len(after.table) == len(before.table) and not np.allclose(after.table, before.table, atol=1e-4)
        assert ((after.decode() == 0) == (before.decode() == 0)).all()
        groups = {(old, new) for old, new in zip(before.codes.tolist(), after.codes.tolist(), strict=True)}
        assert len(groups) == len(before.table)  # who shared a value still does


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_pruned_weights_stay_zero_and_the_others_move(samples: Samples, optimizer: str) -> None:
    network = tiny()
    masks = {name: keep_share(network.tensors[name], 0.3) for name in ("conv.weight", "fc.weight")}
    recipe = replace(SHORT, optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)
    trained = weights(fit(network, samples, recipe, masks=masks))
    for name, mask in masks.items():
        assert (trained[name][~mask] == 0).all()
        assert (trained[name][mask] != network.tensors[name][mask]).all()


def test_a_masked_training_is_that_of_the_network_with_its_weights_multiplied(samples: Samples) -> None:
    """The gradient of w * mask is the mask times the gradient: a mask in the graph is the oracle."""
    network = tiny(norm=False)
    mask = keep_share(network.tensors["fc.weight"], 0.5)

    class Masked(nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return w * mask

    module = copy.deepcopy(tiny(norm=False).module)
    parametrize.register_parametrization(module.fc, "weight", Masked())
    images, labels = inputs(network, samples)
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    for epoch in range(2):
        for rows in batches(samples, SHORT, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images[rows]), labels[rows]).backward()
            optimizer.step()
    actual = weights(fit(network, samples, SHORT, masks={"fc.weight": mask}))
    torch.testing.assert_close(actual["fc.weight"], module.fc.weight.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frozen", [("conv", "norm"), ("conv.weight", "norm.weight", "norm.bias")])
def test_frozen_parts_stay_with_their_statistics(samples: Samples, frozen: tuple[str, ...]) -> None:
    network = tiny()
    trained = weights(fit(network, samples, replace(SHORT, weight_decay=0.1), frozen=frozen))
    for name, value in network.module.state_dict().items():
        assert torch.equal(trained[name], value) == name.startswith(("conv", "norm")), name


def test_batch_norm_learns_its_statistics_where_nothing_is_frozen(samples: Samples) -> None:
    network = tiny()
    trained = weights(fit(network, samples, replace(SHORT, epochs=1, batch_size=90, learning_rate=1e-9)))
    images, _ = inputs(network, samples)
    with torch.no_grad():
        mean = network.module.conv(images).mean((0, 2, 3))
    torch.testing.assert_close(trained["norm.running_mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)


def test_the_network_given_stays_bit_identical_also_after_an_exception(samples: Samples) -> None:
    network = tiny()
    before = {name: value.clone() for name, value in network.tensors.items()}
    fit(network, samples, replace(SHORT, epochs=1), masks={"fc.weight": torch.zeros(5, 72, dtype=torch.bool)})
    with pytest.raises(SettingsError):
        fit(network, samples, replace(SHORT, learning_rate=1e30))
    assert all(torch.equal(value, network.tensors[name]) for name, value in before.items())
    assert not network.module.training and all(p.requires_grad and p.grad is None for p in network.module.parameters())


def test_the_same_seed_gives_the_same_training_and_leaves_the_global_generator(samples: Samples) -> None:
    network, recipe = tiny(dropout=0.3), replace(SHORT, augment="crop+flip", pad=2, epochs=1)
    state = torch.random.get_rng_state()
    first = fit(network, samples, recipe)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(3)
    assert same(first, fit(network, samples, recipe))
    assert not same(first, fit(network, samples, replace(recipe, seed=1)))


def test_validation_scores_are_those_of_score(samples: Samples) -> None:
    validation = noise(70, seed=1)
    history = fit(tiny(), samples, replace(SHORT, precision="bfloat16"), validation=validation)
    scores = score(history.network, validation).row(0, named=True)
    row = history.table.row(-1, named=True)
    assert row["validation_top1"] == pytest.approx(scores["top1"]) and row["validation_loss"] == pytest.approx(
        scores["loss"]
    )
    assert history.table["epoch"].to_list() == [1, 2]
    assert history.network.tensors["fc.weight"].dtype == torch.float32


def test_the_training_loss_is_the_mean_over_the_epoch(samples: Samples) -> None:
    """At a rate that moves nothing, it is the loss of the network itself."""
    network = tiny(norm=False)
    row = fit(network, samples, replace(SHORT, epochs=1, learning_rate=1e-12)).table.row(0, named=True)
    scores = score(network, samples).row(0, named=True)
    assert row["loss"] == pytest.approx(scores["loss"], rel=1e-5) and row["top1"] == pytest.approx(scores["top1"])


def test_images_read_anew_train_alike(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(SHORT, augment="crop+flip", pad=2, epochs=1)
    resident = fit(tiny(), samples, recipe, validation=samples)
    monkeypatch.setattr(train_data, "free_memory", lambda device: 1000)
    fresh = noise()
    assert same(resident, fit(tiny(), fresh, recipe, validation=fresh))
    assert train_data.TrainingSamples.of(fresh, tiny().preprocessing, torch.device("cpu")).store is None


def test_a_teacher_adds_its_divergence(samples: Samples) -> None:
    network, teacher = tiny(norm=False), tiny(norm=False, seed=5)
    images, labels = inputs(network, samples)
    recipe = replace(SHORT, epochs=1, learning_rate=1e-12, alpha=0.7, temperature=3.0)
    with torch.no_grad():
        expected = distilled(network.module(images), teacher.module(images), labels, 0.7, 3.0)
    assert fit(network, samples, recipe, teacher=teacher).table["loss"][0] == pytest.approx(expected, rel=1e-5)
    plain = fit(network, samples, SHORT)
    assert torch.equal(
        weights(plain)["fc.weight"],
        weights(fit(network, samples, replace(SHORT, alpha=0.0), teacher=teacher))["fc.weight"],
    )


def test_a_teacher_is_followed(samples: Samples) -> None:
    """With alpha 1 and no labels that help, the outputs come nearer to the teacher's."""
    network, teacher = tiny(norm=False), tiny(norm=False, seed=5)
    images, _ = inputs(network, samples)
    recipe = replace(SHORT, epochs=10, learning_rate=0.2, alpha=1.0, temperature=2.0)
    trained = fit(network, samples, recipe, teacher=teacher).network
    with torch.no_grad():
        expected = teacher.module(images).argmax(1)
        before, after = ((n.module(images).argmax(1) == expected).float().mean() for n in (network, trained))
    assert after > before + 0.2


def test_labels_of_several_classes_are_learned_by_binary_cross_entropy() -> None:
    plain = noise()
    labels = (np.random.default_rng(3).random((90, 5)) < 0.4).astype(np.float32)
    several = Samples("several", plain.records, labels, tuple("abcde"))
    network = tiny(norm=False)
    row = fit(network, several, replace(SHORT, epochs=1, learning_rate=1e-12), validation=several).table.row(
        0, named=True
    )
    scores = score(network, several).row(0, named=True)
    assert row["loss"] == pytest.approx(scores["loss"], rel=1e-5) and row["top1"] == pytest.approx(scores["top1"])
    assert row["validation_loss"] == pytest.approx(scores["loss"]) and row["validation_top1"] == pytest.approx(
        scores["top1"]
    )
    history = fit(network, several, replace(SHORT, epochs=15, learning_rate=0.2))
    assert history.table["loss"][-1] < 0.8 * history.table["loss"][0]


def test_lightning_says_nothing_also_when_it_is_first_imported(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "lightning_fabric"]:
        monkeypatch.delitem(sys.modules, name)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("lightning_fabric")
    logger.addHandler(handler)
    try:
        fit(tiny(norm=False), samples, replace(SHORT, epochs=1, precision="bfloat16"))
        assert not messages
        logger.info("heard")
        assert messages == ["heard"]
    finally:
        logger.removeHandler(handler)


def test_bfloat16_trains_nearly_as_float32(samples: Samples) -> None:
    full, half = (fit(tiny(norm=False), samples, replace(SHORT, precision=p)) for p in ("float32", "bfloat16"))
    assert 0 < np.abs(full.table["loss"].to_numpy() - half.table["loss"].to_numpy()).max() < 0.05


@pytest.mark.parametrize("factor, words", [(1e30, "epoch 2.*try")])
def test_a_diverging_training_stops_with_a_sentence(samples: Samples, factor: float, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        fit(tiny(norm=False), samples, replace(SHORT, epochs=4, schedule="step", milestones=(0.25,), factor=factor))


def test_plateau_lowers_the_rate_by_the_validation_loss(samples: Samples) -> None:
    recipe = replace(SHORT, epochs=6, learning_rate=1e-9, schedule="plateau", patience=1, factor=0.5)
    rates = fit(tiny(norm=False), samples, recipe, validation=noise(20)).table["rate"]
    assert rates.to_list() == pytest.approx([1e-9, 1e-9, 1e-9, 5e-10, 5e-10, 2.5e-10])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"epochs": 0}, "epochs 0"),
        ({"learning_rate": -1.0}, "learning_rate -1"),
        ({"learning_rate": float("nan")}, "learning_rate nan"),
        ({"optimizer": "adam"}, "sgd, adamw"),
        ({"schedule": "linear"}, "constant, step, cosine"),
        ({"augment": "mixup"}, "flip, crop"),
        ({"nesterov": True, "momentum": 0.0}, "momentum"),
        ({"milestones": (0.7, 0.2)}, "milestones .* must ascend"),
        ({"alpha": 1.5}, "0 to 1"),
        ({"seed": True}, "seed True"),
    ],
)
def test_recipes_out_of_range(settings: dict, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Recipe(**settings)


def test_what_does_not_fit_is_said(samples: Samples) -> None:
    network, mask = tiny(), torch.ones(5, 72, dtype=torch.bool)
    for words, given in (
        ("nearest: fc.weight", {"masks": {"fc.wight": mask}}),
        (r"\(5, 72\)", {"masks": {"fc.weight": mask[:2]}}),
        ("booleans", {"masks": {"fc.weight": mask.float()}}),
        (
            "mask of fc.weight prunes",
            {"masks": {"fc.weight": ~mask}, "shared": {"fc.weight": share(torch.ones(5, 72), 2)}},
        ),
        ("every parameter is frozen", {"frozen": ("conv", "norm", "fc")}),
        ("teacher", {"teacher": Network("t", tiny().module, Preprocessing(size=(8, 8)))}),
    ):
        with pytest.raises(SettingsError, match=words):
            fit(network, samples, SHORT, **given)
    with pytest.raises(UnknownLayer, match="conv"):
        fit(network, samples, SHORT, frozen=("conv9",))
    with pytest.raises(SettingsError, match="devices"):
        fit(network, noise(9), Recipe(devices=10))
    with pytest.raises(SamplesError):
        fit(network, Samples("six", samples.records, np.full(90, 5), tuple("abcdef")), SHORT)


def test_one_image_a_step_is_too_few_for_a_norm_over_the_batch() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5))
    with pytest.raises(SettingsError, match="larger batch_size"):
        fit(Network("norm", module, tiny().preprocessing), noise(4), Recipe(epochs=1, batch_size=1))


def test_history_is_a_table_of_epochs(samples: Samples) -> None:
    table = fit(tiny(), samples, replace(SHORT, schedule="cosine")).table
    assert table.schema["epoch"] == pl.Int64 and table["validation_loss"].null_count() == 2
    assert (table["seconds"] > 0).all() and table["rate"][0] > table["rate"][1]
