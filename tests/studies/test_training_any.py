"""Features, transfer, and the studies that train, on networks of every kind of input."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from netopsy import Recipe, Samples, dsd, score, transfer
from netopsy.errors import SamplesError
from netopsy.features.extract import extract
from netopsy.network.graph import name_outputs
from netopsy.studies.compression.compression import Training
from patients import patient


def halves(samples: Samples) -> tuple[Samples, Samples]:
    rows = np.arange(len(samples))
    return samples.select(rows[::2], "even"), samples.select(rows[1::2], "odd")


def labelled(samples: Samples) -> Samples:
    """Words by whether they are long."""
    labels = np.array([len(text) > 7 for text in samples.records.texts]).astype(np.int64)
    return Samples(samples.name, samples.records, labels, ("short", "long"))


def states(network: object, samples: Samples) -> list[np.ndarray]:
    """The encoder's output for each text alone, (length, 16)."""
    out = []
    for row in range(len(samples)):
        (batch,) = samples.batches(network.preprocessing, 1, order=[row])  # type: ignore[attr-defined]
        length = int(batch.mask.sum())
        with torch.no_grad():
            given = network.module(**{n: v[:, :length] for n, v in batch.inputs.items()})  # type: ignore[attr-defined]
        out.append(name_outputs(given)["last_hidden_state"][0].numpy())
    return out


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last"])
def test_features_are_pooled_over_the_real_tokens(pool: str) -> None:
    network, plain = patient("encoder")
    train, test = halves(labelled(plain))
    features = extract(network, train, test, [network.output], pool=pool)[network.output]
    for x, part in ((features.x_train, train), (features.x_test, test)):
        vectors = {
            "mean": lambda s: s.mean(0),
            "max": lambda s: s.max(0),
            "first": lambda s: s[0],
            "last": lambda s: s[-1],
        }[pool]
        np.testing.assert_allclose(x, np.stack([vectors(s) for s in states(network, part)]), rtol=1e-4, atol=1e-5)


def test_features_by_place_are_those_of_each_token_with_its_label() -> None:
    network, plain = patient("encoder")
    train, test = halves(labelled(plain))
    features = extract(network, train, test, [network.output], pool="places")[network.output]
    every = states(network, train)
    np.testing.assert_allclose(features.x_train, np.concatenate(every), rtol=1e-4, atol=1e-5)
    assert features.y_train.tolist() == np.repeat(train.labels, [len(s) for s in every]).tolist()


def test_features_by_pixel_have_the_pixels_labels() -> None:
    network, samples = patient("unet")
    train, test = halves(samples)
    node = network.node("first").name
    features = extract(network, train, test, [node], pool="places")[node]
    (batch,) = train.batches(network.preprocessing, len(train))
    with torch.no_grad():
        maps = network.module.first(batch.images)
    np.testing.assert_allclose(features.x_train, maps.permute(0, 2, 3, 1).reshape(-1, 6).numpy(), rtol=1e-4, atol=1e-5)
    names = np.array(features.classes)[features.y_train]
    assert names.tolist() == np.array(train.classes)[train.labels.reshape(-1)].tolist()
    with pytest.raises(SamplesError, match="labels of even are by place; take the features by place too"):
        extract(network, train, test, [node], pool="mean")


QUICK = {"stresses": ("dr2",), "steps": 2, "levels": (4,), "repeats": 1}


@pytest.mark.parametrize("name", ["encoder", "table", "lstm", "series", "volume", "spectral"])
def test_transfer_on_any_samples(name: str) -> None:
    network, samples = patient(name)
    samples = labelled(samples) if name == "encoder" else samples
    result = transfer(network, samples, **QUICK)
    assert result.tables["unstressed"].height == 1 and result.tables["unstressed"]["score"][0] > 0.3
    assert any("no such baseline" in sentence for sentence in result.findings)


def test_transfer_by_place_and_what_it_cannot() -> None:
    network, samples = patient("unet")
    result = transfer(network, samples.select(np.arange(8), "few"), pool="places", nodes=("first",), **QUICK)
    assert result.tables["unstressed"]["score"][0] > 0.25
    network, samples = patient("regression")
    assert "numbers for labels" in transfer(network, samples, **QUICK).findings[0]


@pytest.mark.parametrize("name", ["causal", "table", "regression", "lstm", "series", "unet"])
def test_dense_sparse_dense_on_any_network(name: str) -> None:
    network, samples = patient(name)
    train, test = halves(samples)
    before = network.digest
    result = dsd(
        network, test, train=train, epochs=(1, 1, 1), repeats=1, batch_size=8, learning_rate=0.01, sparsity=("0.3",)
    )
    column = "r2" if name == "regression" else "top1"
    steps = result.tables["steps"]
    expected = score(network, test).row(0, named=True)
    start = steps.filter(pl.col("step") == "dense").row(0, named=True)
    assert start[column] == pytest.approx(expected[column]) and start["loss"] == pytest.approx(expected["loss"])
    assert steps.filter(pl.col("step") == "pruned")["zeros"][0] == pytest.approx(0.3, abs=0.02)
    assert f"validation_{column}" in result.tables["history"].columns and network.digest == before
    assert not any("image" in sentence for sentence in result.findings) or name == "unet"


@pytest.mark.parametrize("name", ["causal", "table", "series"])
def test_pruning_rounds_hold_their_zeros_on_any_network(name: str) -> None:
    network, samples = patient(name)
    training = Training(samples, Recipe(batch_size=16, learning_rate=0.01, optimizer="adamw"), network)
    densities = {layer.name: 0.5 for layer in network.layers}
    pruned, tables = training.prune(network, densities, 2, (1,))
    for layer in network.layers:
        weight = pruned.tensors[layer.weight]
        assert float((weight != 0).double().mean()) == pytest.approx(0.5, abs=0.02)
    assert [table.height for table in tables] == [1, 1]
