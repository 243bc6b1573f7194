"""The study `triage` on networks that are scored by another task than classes of images: tokens, cosines, numbers."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import friedmanchisquare
from torch import nn

from netopsy import Network, Samples, load_network, score
from netopsy.blocks import compressed_network, find_block, least_squares, new_layer
from netopsy.blocks.activation_cache import cache as store_values
from netopsy.blocks.activation_cache import side_values
from netopsy.engine.train.activations import ActivationSet
from netopsy.errors import SettingsError
from netopsy.result import Result
from netopsy.stats.hypothesis_tests import friedman
from netopsy.studies.study import perform
from netopsy.studies.triage.tables import epochs_to_99
from netopsy.studies.triage.triage import Triage
from patients import patient

LAYERS = {"causal": "model.layers", "encoder": "encoder.layer"}


def halves(samples: Samples) -> tuple[Samples, Samples]:
    even = np.arange(len(samples)) % 2 == 0
    return samples.select(np.flatnonzero(even), "even"), samples.select(np.flatnonzero(~even), "odd")


def quick(train: Samples, **settings: object) -> Triage:
    plain = {"epochs": 1, "stn_epochs": 1, "repeats": 1, "batch_size": 8, "matching_images": 10, "learning_rate": 0.01}
    return Triage(train=train, **{**plain, **settings})  # type: ignore[arg-type]


@cache
def untrained(name: str) -> Result:
    network, samples = patient(name)
    train, test = halves(samples)
    return perform(quick(train, starts=("ID", "LSQ"), training=("none",)), network, test)


def cell(result: Result, block: str, start: str) -> dict:
    cells = result.tables["cells"]
    return next(row for row in cells.iter_rows(named=True) if (row["block"], row["start"]) == (block, start))


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_language_model_without_a_block_is_scored_by_the_next_token(left_out: int) -> None:
    """One layer is left out, a linear map stands in for the other."""
    network, samples = patient("causal")
    train, test = halves(samples)
    for start, i in (("ID", left_out), ("LSQ", 1 - left_out)):
        block = find_block(network, f"model.layers.{i}")
        new: nn.Module = nn.Identity()
        if start == "LSQ":
            new = new_layer(network, block)
            least_squares(network, block, new, train)
        expected = score(compressed_network(network, [(block, new)]), test).row(0, named=True)
        row = cell(untrained("causal"), block.name, start)
        for column in ("top1", "top1_low", "top1_high", "loss"):
            assert row[column] == pytest.approx(expected[column], abs=1e-6), column
        assert row["status"] == "done" and row["epochs_to_99"] is None
        assert row["parameters"] == network.parameters - block.parameters + (16 * 17 if start == "LSQ" else 0)
    base = untrained("causal").tables["baselines"].row(0, named=True)
    assert base["top1"] == pytest.approx(score(network, test)["top1"].item()) and base["further"] is None


def cosines(network: Network, module: nn.Module, samples: Samples) -> np.ndarray:
    """Of each text's states with those of the network itself, over its tokens alone."""
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        now, then = (m(**batch.inputs).last_hidden_state.double() for m in (module, network.module))
    pairs = [(a[m].flatten(), b[m].flatten()) for a, b, m in zip(now, then, batch.mask, strict=True)]
    return np.array([float(a @ b / a.norm() / b.norm()) for a, b in pairs])


@pytest.mark.slow
def test_an_encoder_without_a_block_is_scored_by_its_cosine_with_the_whole() -> None:
    network, samples = patient("encoder")
    _, test = halves(samples)
    result = untrained("encoder")
    for i in range(2):
        by_hand = copy.deepcopy(network.module)
        by_hand.encoder.layer = nn.ModuleList([by_hand.encoder.layer[1 - i]])
        each = cosines(network, by_hand, test)
        row = cell(result, f"encoder.layer.{i}", "ID")
        assert row["cosine"] == pytest.approx(each.mean(), abs=1e-6)
        assert row["drop"] == pytest.approx(1 - each.mean(), abs=1e-6)
        half = 2.093024 * each.std(ddof=1) / np.sqrt(len(each))  # Student's t, 19 degrees of freedom
        assert row["cosine_low"] == pytest.approx(each.mean() - half, abs=1e-5)
    assert result.tables["baselines"]["cosine"].item() == 1.0
    tests = result.tables["criticality"]
    assert tests["over"].to_list() == ["images (Friedman's test)"] * 2
    assert "cosine with the unedited network's output" in str(result.figures["accuracy"].spec)
    assert not any("image" in text or "accuracy" in text for text in result.findings)


@pytest.mark.parametrize("name", ["causal", pytest.param("encoder", marks=pytest.mark.slow)])
def test_every_way_of_training_trains_what_it_says(name: str) -> None:
    network, samples = patient(name)
    train, test = halves(samples)
    block = f"{LAYERS[name]}.1"
    before = {path: tensor.clone() for path, tensor in network.tensors.items()}
    settings = {"blocks": (block,), "starts": ("RW", "MW", "STN", "LSQ", "ID"), "training": ("none", "FM", "TM")}
    result = perform(quick(train, **settings), network, test)
    cells = result.tables["cells"]
    assert cells.height == 5 * 3 - 1  # nothing is left to train alone where the block is left out
    assert cells["status"].unique().to_list() == ["done"], cells["reason"].to_list()
    assert cells.filter(start="ID")["training"].to_list() == ["none", "TM"]
    history = result.tables["history"]
    trained = history.filter(training="TM")
    assert trained["loss"].is_finite().all() and trained["validation_loss"].is_finite().all()
    assert all(before[path].equal(tensor) for path, tensor in network.tensors.items())


def test_padding_is_not_taught() -> None:
    """The loss of STN is that of the texts' own places: other tokens behind the texts change nothing."""
    network, samples = patient("causal")
    train, test = halves(samples)
    settings = {"blocks": ("model.layers.0",), "starts": ("STN",), "training": ("none",), "batch_size": 20}
    settings |= {"learning_rate": 1e-12, "min_learning_rate": 1e-12}
    history = perform(quick(train, **settings), network, test).tables["history"].filter(training="start")
    layer = new_layer(network, find_block(network, "model.layers.0"), 0)
    errors = []
    for row in range(len(train)):
        (batch,) = train.batches(network.preprocessing, 1, order=[row])
        tokens = batch.inputs["input_ids"][:, : int(batch.mask.sum())]
        with torch.no_grad():
            states = network.module.model(tokens, output_hidden_states=True).hidden_states
            errors.append(float((layer(states[0]) - states[1]).square().mean()))
    assert history["loss"].item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_values_are_stored_with_their_masks(tmp_path: Path) -> None:
    network, samples = patient("causal")
    node = network.node("model.layers.1.mlp.down_proj").name
    rows = np.load(store_values(network, samples, (node,), tmp_path)[node])
    mask, beside = side_values(network, samples)
    assert mask is not None and set(beside) == {"attention_mask"} and beside["attention_mask"].tolist() == mask.tolist()
    seen: list[torch.Tensor] = []
    layer = network.module.model.layers[1].mlp.down_proj
    hook = layer.register_forward_hook(lambda module, given, output: seen.append(output))
    for row, text in enumerate(samples.records.texts):
        (batch,) = samples.batches(network.preprocessing, 1, order=[row])
        with torch.no_grad():
            network.module(batch.inputs["input_ids"][:, : len(text)])
        assert mask[row].tolist() == [place < len(text) for place in range(mask.shape[1])]
        np.testing.assert_allclose(rows[row][mask[row]], seen[-1][0].numpy(), rtol=1e-4, atol=1e-6)
    hook.remove()


@pytest.mark.parametrize(
    ("name", "starts", "training"), [("causal", ("STN",), ("none",)), ("series", ("LSQ",), ("FM",))]
)
def test_training_on_stored_values_is_training_on_the_samples(
    name: str, starts: tuple[str, ...], training: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, samples = patient(name)
    train, test = halves(samples)
    used: list[ActivationSet] = []
    made = ActivationSet.__post_init__
    monkeypatch.setattr(ActivationSet, "__post_init__", lambda self: (made(self), used.append(self))[0])
    tables = []
    for storage in (1.0, 0.0):
        result = perform(quick(train, starts=starts, training=training, storage=storage), network, test)
        if "history" not in result.tables:
            pytest.skip(result.findings[0])
        tables.append(result.tables["history"])
    stored, read = (table["loss"].to_numpy() for table in tables)
    np.testing.assert_allclose(stored, read, rtol=1e-4)
    assert used and all(one.mask is not None for one in used)


def test_a_classifier_of_texts_is_right_or_wrong() -> None:
    network, samples = patient("lstm")
    train, test = halves(samples)
    result = perform(quick(train, starts=("RW",), training=("FM",)), network, test)
    assert result.tables["baselines"]["top1"].item() == pytest.approx(score(network, test)["top1"].item())


@pytest.mark.parametrize("name", ["series", "table", "regression", "volume", "unet", "spectral"])
def test_other_networks_get_a_table_or_a_sentence(name: str) -> None:
    network, samples = patient(name)
    train, test = halves(samples)
    result = perform(quick(train, starts=("LSQ",), training=("none", "FM")), network, test)
    if "cells" in result.tables:
        assert result.tables["cells"]["status"].unique().to_list() == ["done"]
    else:
        (sentence,) = result.findings
        assert "has no block of two or more layers" in sentence


def test_what_cannot_be_is_said() -> None:
    train, test = halves(patient("causal")[1])
    with pytest.raises(SettingsError, match="has no layer to train alone"):
        quick(train, starts=("ID",), training=("FM",))
    labelled = patient("lstm")[1]
    with pytest.raises(SettingsError, match="must have labels where the samples that are scored have"):
        perform(quick(labelled, training=("none",)), patient("causal")[0], test)


def test_epochs_to_within_one_per_cent_of_a_best_below_zero() -> None:
    assert epochs_to_99([-2.0, -1.005, -1.0, -3.0]) == 2 and epochs_to_99([-0.5]) == 1


def test_friedman_is_that_of_scipy() -> None:
    generator = np.random.default_rng(0)
    for scores in (generator.standard_normal((30, 4)), generator.integers(0, 3, (25, 3)).astype(float)):
        expected = friedmanchisquare(*scores.T)
        assert friedman(scores) == pytest.approx((expected.statistic, expected.pvalue))
    assert friedman(np.ones((5, 3))) == (0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "encoder"])
def test_compressed_networks_of_tokens_open_with_their_inputs(name: str) -> None:
    network, samples = patient(name)
    train, test = halves(samples)
    done = perform(quick(train, starts=("ID", "LSQ"), training=("none",), networks="best", bits=("4",)), network, test)
    rows = done.tables["sizes"].filter(pl.col("block") != "uncompressed", weights="as trained").to_dicts()
    assert len(rows) == len(done.tables["blocks"].filter(pl.col("obstacle").is_null()))
    column = next(c for c in done.tables["sizes"].columns if c in ("top1", "cosine"))
    for row in rows:
        again = load_network(done.artifacts[row["file"]], tokenizer=network.signature.tokenizer)
        assert again.signature.inputs == network.signature.inputs
        if column == "top1":  # without labels the score is the likeness to the network before
            assert score(again, test)["top1"].item() == pytest.approx(row["top1"], abs=1e-6)
        coded = done.artifacts[row["file"].replace(".pt2", ".netopsy.safetensors")]
        assert len(load_network(coded).layers[0].weight_shape) == 2
