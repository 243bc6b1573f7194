"""Training networks of every kind of input, against plain loops of torch over samples one by one."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_train import batches
from torch import Tensor, nn

from netopsy import Network, Recipe, Samples, fit, load_network, score, with_head, workspace
from netopsy.engine.train import data as train_data
from netopsy.engine.train import loop as train_loop
from netopsy.errors import SamplesError, SettingsError
from netopsy.network.graph import name_outputs
from netopsy.samples.records import ArrayRecords
from patients import LENGTH, patient

RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.05, momentum=0.0)


def outputs_of(module: nn.Module, network: Network, samples: Samples, row: int, wanted: str | None = None) -> Tensor:
    """The output for one sample without any padding where the network takes a mask, (1, ...)."""
    (batch,) = samples.batches(network.preprocessing, 1, order=[row])
    names = [entry.name for entry in network.signature.inputs]
    length = None if batch.mask is None else int(batch.mask.sum())
    values = dict(zip(names, batch.inputs.values(), strict=True))
    if length is not None and "waves" not in values:
        values = {name: value[:, :length] for name, value in values.items()}
    given = module(**values)
    return given if isinstance(given, Tensor) else name_outputs(given)[wanted or "logits"]


def plain_loss(name: str, output: Tensor, network: Network, samples: Samples, row: int) -> tuple[Tensor, float]:
    """The summed loss of a sample, and over how many places."""
    if name == "causal":
        (batch,) = samples.batches(network.preprocessing, 1, order=[row])
        ids = batch.inputs["input_ids"][0, : int(batch.mask.sum())]
        return F.cross_entropy(output[0, :-1], ids[1:], reduction="sum"), len(ids) - 1
    label = torch.from_numpy(np.asarray(samples.labels[row]))
    if name == "unet":
        return F.cross_entropy(output, label[None], reduction="sum"), label.numel()
    if name == "regression":
        return ((output[0] - label.reshape(-1)) ** 2).mean(), 1
    return F.cross_entropy(output, label[None], reduction="sum"), 1


def plain_loop(name: str, network: Network, samples: Samples, recipe: Recipe) -> tuple[dict[str, Tensor], list[float]]:
    """Gradient descent: each step's gradient is that of the summed losses over the places that count."""
    module = copy.deepcopy(network.module).eval()
    losses = []
    for epoch in range(recipe.epochs):
        total, places = 0.0, 0.0
        for rows in batches(samples, recipe, epoch):
            parts = [
                plain_loss(name, outputs_of(module, network, samples, int(row)), network, samples, int(row))
                for row in rows
            ]
            weight = sum(count for _, count in parts)
            loss = sum(part for part, _ in parts) / weight  # type: ignore[operator]
            module.zero_grad()
            loss.backward()
            total, places = total + float(loss.detach()) * weight, places + weight
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.grad is not None:
                        parameter -= recipe.learning_rate * parameter.grad
        losses.append(total / places)
    return {name: p.detach() for name, p in module.named_parameters()}, losses


@pytest.mark.parametrize("name", ["causal", "table", "regression", "unet", "lstm", "volume", "spectral"])
def test_it_is_gradient_descent_on_the_loss_of_the_places_that_count(name: str) -> None:
    network, samples = patient(name)
    samples, recipe = samples.select(np.arange(18), "some"), replace(RECIPE, batch_size=9)
    history = fit(network, samples, recipe, frozen=(), validation=samples)
    parameters, losses = plain_loop(name, network, samples, recipe)
    assert history.table["loss"].to_list() == pytest.approx(losses, rel=1e-4)
    for key, value in history.network.module.named_parameters():
        torch.testing.assert_close(value.detach(), parameters[key], rtol=1e-3, atol=1e-5)
    exact = score(history.network, samples).row(0, named=True)
    column = "r2" if name == "regression" else "top1"
    assert history.table[f"validation_{column}"][-1] == pytest.approx(exact[column], abs=1e-5)
    if name != "regression":  # there the loss that is lowered is the squared error
        assert history.table["validation_loss"][-1] == pytest.approx(exact["loss"], rel=1e-5)


def test_padding_is_learned_by_nobody() -> None:
    """The same recordings with other values behind their ends train alike, whatever the kind of norm."""
    network, samples = patient("series")
    records = samples.records
    waves = records.fields["waves"].copy()
    for row, length in zip(waves, records.lengths, strict=True):
        row[:, length:] = 99.0
    other = Samples("noise behind", ArrayRecords({"waves": waves}, "series", records.lengths), samples.labels)
    one, two = (fit(network, s, RECIPE).network.tensors["head.weight"] for s in (samples, other))
    torch.testing.assert_close(one, two)


def test_logits_of_a_vocabulary_are_made_a_few_samples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, samples = patient("causal")
    whole = fit(network, samples, RECIPE)
    monkeypatch.setattr(train_loop, "_ROOM", 3 * LENGTH * 27)
    sizes: list[int] = []
    inner = train_loop.call
    monkeypatch.setattr(
        train_loop,
        "call",
        lambda module, inputs: (sizes.append(len(next(iter(inputs.values())))), inner(module, inputs))[1],
    )
    parted = fit(network, samples, RECIPE)
    assert max(sizes) == 3
    assert parted.table["loss"].to_list() == pytest.approx(whole.table["loss"].to_list(), rel=1e-5)
    for name, value in whole.network.tensors.items():
        torch.testing.assert_close(parted.network.tensors[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["causal", "table", "series"])
def test_samples_read_again_and_resumed_train_alike(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network, samples = patient(name)
    recipe = replace(RECIPE, epochs=3)
    resident = fit(network, samples, recipe, validation=samples)

    def interrupt(label: str, done: int, total: int) -> None:
        if done > 4:
            raise KeyboardInterrupt

    fresh = Samples(samples.name, samples.records, samples.labels if samples.labelled else None, samples.classes)
    monkeypatch.setattr(train_data, "free_memory", lambda device: 10)
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, interrupt):
        fit(network, fresh, recipe, validation=fresh)
    with workspace(tmp_path):
        read = fit(network, fresh, recipe, validation=fresh)
    assert resident.table.drop("seconds").equals(read.table.drop("seconds"))
    for key, value in resident.network.tensors.items():
        assert torch.equal(value, read.network.tensors[key])


def test_without_labels_a_teacher_is_followed_at_the_real_places() -> None:
    network, samples = patient("encoder")
    teacher = network.with_tensors({n: t * 1.1 for n, t in network.tensors.items() if t.is_floating_point()})
    recipe = replace(RECIPE, epochs=1, batch_size=len(samples), learning_rate=1e-12)
    table = fit(network, samples, recipe, teacher=teacher, validation=samples).table
    errors, cosines = [], []
    with torch.no_grad():
        for row in range(len(samples)):
            now, then = (
                outputs_of(n.module, n, samples, row, "last_hidden_state").double() for n in (network, teacher)
            )
            errors.append(float(((now - then) ** 2).mean()))
            cosines.append(float(F.cosine_similarity(now.flatten(), then.flatten(), dim=0)))
    assert table["validation_loss"][0] == pytest.approx(np.mean(errors), rel=1e-4)
    assert table["validation_cosine"][0] == pytest.approx(np.mean(cosines), rel=1e-5)
    longer = fit(network, samples, replace(RECIPE, epochs=8, learning_rate=0.1), teacher=teacher).table
    assert longer["loss"][-1] < longer["loss"][0]
    with pytest.raises(SettingsError, match="nothing to learn from: give labels, or a teacher"):
        fit(network, samples, RECIPE)


def test_a_teacher_adds_its_divergence_at_each_place() -> None:
    network, samples = patient("causal")
    teacher = network.with_tensors({n: t * 1.5 for n, t in network.tensors.items() if t.is_floating_point()})
    recipe = replace(RECIPE, epochs=1, batch_size=len(samples), learning_rate=1e-12, alpha=0.3, temperature=2.0)
    loss = fit(network, samples, recipe, teacher=teacher).table["loss"][0]
    labels, apart, places = 0.0, 0.0, 0
    with torch.no_grad():
        for row in range(len(samples)):
            now, then = (outputs_of(n.module, n, samples, row) for n in (network, teacher))
            part, count = plain_loss("causal", now, network, samples, row)
            p, q = (then[0, :-1] / 2).softmax(-1), (now[0, :-1] / 2).log_softmax(-1)
            labels, places = labels + float(part.detach()), places + count
            apart += float((p * (p.log() - q)).sum())
    assert loss == pytest.approx((0.7 * labels + 0.3 * 4 * apart) / places, rel=1e-4)


def test_huber_and_a_function_of_the_users() -> None:
    network, samples = patient("regression")
    recipe = replace(RECIPE, epochs=1, learning_rate=1e-12, batch_size=len(samples), regression_loss="huber")
    with torch.no_grad():
        outputs = torch.cat([outputs_of(network.module, network, samples, row) for row in range(len(samples))])
    labels = torch.from_numpy(samples.labels).reshape(outputs.shape)
    expected = float(F.huber_loss(outputs, labels))
    assert fit(network, samples, recipe).table["loss"][0] == pytest.approx(expected, rel=1e-5)

    def near(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets.reshape(outputs.shape)).abs() < 0.5).float()[:, 0]

    judged = Samples(samples.name, samples.records, samples.labels, task=near)
    row = fit(network, judged, replace(recipe, regression_loss="mse")).table.row(0, named=True)
    assert row["score"] == pytest.approx(float(((outputs - labels).abs() < 0.5).float().mean()))
    assert row["loss"] == pytest.approx(float(((outputs - labels) ** 2).mean()), rel=1e-5)


def test_a_class_for_each_pixel_moves_with_its_image() -> None:
    """Images that are their own labels: whatever the augmentation, each pixel keeps its class."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, (20, 6, 7))
    images = np.repeat(labels[:, None].astype(np.float32), 3, 1)
    samples = Samples("own labels", ArrayRecords({"x": images}, "image"), labels)
    network = load_network(nn.Conv2d(3, 4, 1), example=samples)
    stored = train_data.TrainingSamples.of(samples, network.preprocessing, torch.device("cpu"))
    for fill in ("zero", "reflect"):
        recipe = Recipe(batch_size=5, augment="crop+flip", pad=2, fill=fill)
        moved = 0
        for step in stored.epoch(recipe, 0):
            inside = step.labels != -100
            assert torch.equal(step.images[:, 0][inside].long(), step.labels[inside])
            moved += int((~inside).sum())
        assert (moved > 0) == (fill == "zero")


def test_what_has_no_meaning_is_said() -> None:
    network, samples = patient("causal")
    with pytest.raises(SettingsError, match="varies images, and the network takes input_ids"):
        fit(network, samples, replace(RECIPE, augment="flip"))
    table, rows = patient("table")
    with pytest.raises(SettingsError, match="validation samples must have one label each"):
        fit(table, rows, RECIPE, validation=Samples("none", rows.records, None))
    wrong = Samples("wrong", rows.records, np.full(len(rows), 7))
    with pytest.raises(SamplesError, match="label 7 and the network 3 outputs"):
        fit(table, wrong, RECIPE)


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last"])
def test_a_head_reads_the_pooled_output_without_padding(pool: str) -> None:
    body, samples = patient("encoder")
    network = with_head(body, 3, pool=pool)
    if pool == "mean":  # its graph is that of the others but for one operator
        assert network.classes == 3 and len(network.layers) > 1
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        given = network.module(**batch.inputs)
        for row in range(len(samples)):
            states = outputs_of(body.module, body, samples, row, "last_hidden_state")[0]
            vector = {"mean": states.mean(0), "max": states.amax(0), "first": states[0], "last": states[-1]}[pool]
            expected = network.module.head.linear(vector)
            torch.testing.assert_close(given[row], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingsError, match="pool 'mode' is none"):
        with_head(body, 3, pool="mode")


def test_a_head_learns_frozen_and_whole() -> None:
    body, plain = patient("encoder")
    labels = np.array([len(text) > 7 for text in plain.records.texts]).astype(np.int64)
    samples = Samples("long words", plain.records, labels, ("short", "long"))
    network = with_head(body, 2)
    recipe = Recipe(epochs=12, batch_size=10, learning_rate=0.02, optimizer="adamw")
    frozen = fit(network, samples, recipe, frozen=["body"])
    before, after = network.tensors, frozen.network.tensors
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("body."))
    assert not torch.equal(before["head.linear.weight"], after["head.linear.weight"])
    whole = fit(network, samples, recipe)
    assert whole.table["loss"][-1] < frozen.table["loss"][-1] < frozen.table["loss"][0]
