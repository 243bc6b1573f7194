"""Studies of units on texts, recordings, rows, volumes and images of many channels, against slow ways to count."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import netopsy
from netopsy.case import Case
from netopsy.engine.backproject import trace
from netopsy.engine.interpreter import plan
from netopsy.errors import SettingsError
from netopsy.report.notebook import result_html
from netopsy.result import Passage, Result, Texts
from netopsy.studies.maximize import search, target
from patients import LETTERS, PATIENTS, TEXT, patient, texts


def unpadded(name: str, node: str) -> list[np.ndarray]:
    """The node's values on each sample alone, without its padding, (places, channel)."""
    network, samples = patient(name)
    rows = []
    for batch in samples.batches(network.preprocessing, 1):
        values = {}
        walk = plan(network, [node])
        with torch.no_grad():
            values = walk.run(batch.to(network.device), batch=1)[node][0]
        length = int(batch.mask.sum())
        rows.append(values[:length].numpy())
    return rows


@pytest.mark.parametrize("name", PATIENTS)
def test_every_patient_has_stimuli_with_the_axis_of_its_features(name: str) -> None:
    network, samples = patient(name)
    result = netopsy.stimuli(network, samples, most_units=2)
    units = result.tables["units"]
    for node, axis in units.select("node", "axis").unique().iter_rows():
        assert network.nodes[node].full_shape[axis] == units.filter(pl.col("node") == node).height
    assert result.atlases["atlas"].sheets or result.atlases["atlas"].texts
    assert not any(f" {word}" in " ".join(result.findings) for word in ("None", "nan"))


def test_the_strongest_token_is_that_of_the_texts_without_padding() -> None:
    network, samples = patient("causal")
    node = "model.layers.1.mlp.down_proj"
    table = netopsy.stimuli(network, samples, layers=(node,), top=3).tables["stimuli"]
    rows = unpadded("causal", node)
    best = np.array([row[:, 5].max() for row in rows])
    mine = table.filter(pl.col("channel") == 5)
    np.testing.assert_allclose(mine["value"], np.sort(best)[::-1][:3], rtol=1e-5)
    for row in mine.iter_rows(named=True):
        text = samples.read(row["image"])
        assert row["position"] == rows[row["image"]][:, 5].argmax() and row["place"] == str(row["position"])
        assert row["token"] == text[row["position"]]
        assert text.startswith(row["before"] + row["token"] + row["after"], max(0, row["position"] - 6))


def test_passages_are_shaded_by_the_units_own_values() -> None:
    network, samples = patient("causal")
    node = "model.layers.1.mlp.down_proj"
    result = netopsy.stimuli(network, samples, layers=(node,), top=2, most_units=1)
    passage = result.atlases["atlas"].texts[node][0][0]
    row = result.tables["stimuli"].join(result.atlases["atlas"].units, on=["node", "channel"]).row(0, named=True)
    values = unpadded("causal", node)[row["image"]][:, row["channel"]]
    assert "".join(passage.pieces) == samples.read(row["image"]) and passage.mark == row["position"]
    np.testing.assert_allclose(passage.shades, np.clip(values / abs(row["value"]), -1, 1), atol=1e-5)


def test_texts_may_hold_anything_and_come_back_from_a_case(tmp_path) -> None:
    evil = Passage(("<script>alert(1)</script>", "\n", " a"), (0.5, -1.0, 0.0), 2, "<b>")
    result = Result("evil", texts={"t": Texts({"<i>": (evil,)}, "<u>", "r")})
    case = Case(tmp_path / "case")
    case.add(result)
    assert case.load("evil").texts == result.texts
    case.write_report()
    page = (tmp_path / "case/evil.html").read_text()
    for html in (page, result_html(result)):
        assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    assert 'class="w4"' in page or 'class="w5"' in page


def test_gradients_reach_what_the_embedding_gives() -> None:
    network, samples = patient("causal")
    (batch,) = samples.batches(network.preprocessing, 2, order=[3, 4])
    node, place = "model.layers.1.mlp.down_proj", 1
    maps = trace(network, batch.inputs, [(node, 4, place)] * 2, "gradient", of=[0, 1]).maps
    captured = {}
    module = network.module
    handles = [
        module.model.embed_tokens.register_forward_hook(
            lambda m, i, o: captured.setdefault("e", o.detach().requires_grad_())
        ),
        module.model.layers[1].mlp.down_proj.register_forward_hook(lambda m, i, o: captured.setdefault("v", o)),
    ]
    module(input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"])
    for handle in handles:
        handle.remove()
    expected = torch.autograd.grad(captured["v"][:, place, 4].sum(), captured["e"])[0]
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)
    assert not maps[:, place + 1 :].any()  # a causal network


def test_a_causal_network_looks_back_only_and_a_convolution_no_further_than_its_window() -> None:
    away = netopsy.field(*patient("causal"), layers=4).tables["distances"]
    assert (away["after"] == 0).all() and (away["before"] > 0).any()
    both = netopsy.field(*patient("encoder"), layers=4).tables["distances"]
    assert (both["after"] > 0).any()
    series = netopsy.field(*patient("series")).tables["distances"]
    assert series["node"].to_list() == ["relu", "relu_1"] and (series["radius"] <= [1, 3]).all()
    np.testing.assert_allclose((away["itself"] + away["before"] + away["after"]).to_numpy(), 1, rtol=1e-6)


def test_swapped_tokens_reach_what_the_network_says_of_them() -> None:
    network, samples = patient("causal")
    node = "model.layers.1.mlp.down_proj"
    result = netopsy.maximize(network, samples, units=(f"{node}:5",), runs=2, steps=6)
    row = result.tables["runs"].filter(pl.col("way") == "tokens").sort("reached").row(-1, named=True)
    assert row["reached"] >= row["strongest"] > 0
    ids = torch.tensor([[LETTERS.index(letter) for letter in row["text"]]])
    values = {}
    handle = network.module.model.layers[1].mlp.down_proj.register_forward_hook(lambda m, i, o: values.update(v=o))
    with torch.no_grad():
        network.module(input_ids=ids)
    handle.remove()
    assert values["v"][0, :, 5].max() >= row["reached"] - 1e-5
    json.dumps([passage.pieces for passages in result.texts["texts"].groups.values() for passage in passages])


class Bag(nn.Module):
    """The mean of the tokens' embeddings, mapped linearly: the gradient says exactly what each swap brings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(27, 8), nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head((self.embedding(input_ids) * attention_mask[:, :, None]).sum(1))


def test_swaps_of_a_linear_network_are_the_best_of_all_in_a_few_steps() -> None:
    torch.manual_seed(3)
    network, samples = netopsy.load_network(Bag(), example=TEXT), texts(20)
    result = netopsy.maximize(network, samples, units=("head:1",), runs=2, steps=5)
    gains = network.module.embedding.weight.detach() @ network.module.head.weight[1].detach()
    for row in result.tables["runs"].filter(way="tokens").iter_rows(named=True):
        best = len(row["text"]) * float(gains[1:].max()) + float(network.module.head.bias[1])
        assert row["reached"] == pytest.approx(best, rel=1e-5) and row["steps"] <= 5
        assert set(row["text"]) == {LETTERS[1 + int(gains[1:].argmax())]}


def test_tokens_get_fewer_steps_in_larger_networks() -> None:
    network, _ = patient("causal")
    macs = sum(layer.macs for layer in network.layers)
    assert target.token_steps(network, 1, 21) == (24 * 21, 60)
    runs = int(target._WORK / (macs * 21 * 10))
    assert target.token_steps(network, runs, 21) == (10 * 21, 10 * 21 // 4)
    assert target.token_steps(network, 10**9, 21) == (4 * 21, 8)


def test_no_more_texts_are_run_than_asked_for_and_none_that_cannot_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a causal network the tokens behind a unit's place do not reach it: they stay what they were."""
    network, samples = patient("causal")
    shown: list[np.ndarray] = []
    values = search._Search.values
    monkeypatch.setattr(search, "token_steps", lambda *_: (60, 1))
    monkeypatch.setattr(
        search._Search,
        "values",
        lambda self, inputs, *more: shown.append(inputs["input_ids"].numpy().copy()) or values(self, inputs, *more),
    )
    unit = "model.layers.1.mlp.down_proj:4:2"
    runs = netopsy.maximize(network, samples, units=(unit,), runs=1).tables["runs"].filter(way="tokens")
    tried = [ids for ids in shown if len(ids) > 1]
    assert runs["reached"][0] > runs["start"][0] and sum(map(len, tried)) < 60 + 32
    assert all((ids[:, 3:] == tried[0][:1, 3:]).all() for ids in tried)


def test_rows_climb_within_the_samples_range() -> None:
    network, samples = patient("table")
    result = netopsy.maximize(network, samples, units=("relu:2",), runs=1, steps=5)
    row = result.tables["runs"].row(0, named=True)
    assert row["way"] == "values" and row["reached"] > row["start"]


def test_pictures_are_asked_of_networks_of_pictures_only() -> None:
    network, samples = patient("series")
    with pytest.raises(SettingsError, match="fourier"):
        netopsy.maximize(network, samples, way="fourier")
