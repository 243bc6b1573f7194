"""The measuring and sweeping studies on networks of every kind of input, and what they say of each."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats
from test_findings import check_findings
from torch import nn

from netopsy import list_layers, load_network, observe, score
from netopsy.deep_compression.compress import compress
from netopsy.deep_compression.save import expand
from netopsy.errors import SettingsError
from netopsy.network.listing import other_parameters
from netopsy.result import Result
from netopsy.samples.samples import NOUNS
from netopsy.stats.hypothesis_tests import mean_bound
from netopsy.studies.activations.heads import (
    HeadAttention,
    attention_maps,
    key_value_heads,
    projection_of,
    removal_table,
)
from netopsy.studies.distributions import outliers
from netopsy.studies.functions import study_function
from netopsy.studies.prescribe.knapsack import parse_budget
from netopsy.studies.prescribe.plan import part
from netopsy.studies.rounding import number_format
from netopsy.studies.sweep_report import measure_of
from netopsy.wording import of_samples
from patients import PATIENTS, patient

pytest.importorskip("transformers")

SETTINGS = {
    "parameters": {},
    "distributions": {},
    "priors": {},
    "filters": {},
    "sparsity": {},
    "activations": {},
    "noise": {"strengths": (0.1, 0.5), "repeats": 2},
    "rounding": {"decimals": (1, 2), "formats": ("int8_channel", "int4_group8"), "layer_formats": ("int2_channel",)},
    "codebook": {"sizes": (2, 8)},
    "filter_codebook": {"shares": (0.0, 0.5)},
    "prescribe": {"budget": 5, "confidence": 0.0},
}
SWEEPS = ("noise", "rounding", "codebook")
SLOW, SLOWLY = pytest.mark.slow, ("encoder", "series", "table", "regression", "lstm", "volume", "spectral")


def run(study: str, name: str, **settings: object) -> Result:
    network, samples = patient(name)
    return study_function(study)(network, samples, **(SETTINGS[study] | settings))


@pytest.mark.parametrize("name", PATIENTS)
def test_every_study_reports_on_every_kind_in_its_own_words(name: str) -> None:
    network, samples = patient(name)
    before = network.digest
    measure, noun = measure_of(network, samples), NOUNS.get(samples.kind, "sample")
    for study in SETTINGS:
        result = run(study, name)
        assert result.findings, study
        text = " ".join(result.findings)
        if noun != "image":
            assert not re.search(r"\bimages?\b", text), (study, text)
        if study in SWEEPS:
            scores = result.tables["scores"]
            assert measure.column in scores and ("perplexity" in scores) == (name == "causal"), study
            assert scores.filter(pl.col("layer") != "all")["drop"].is_finite().all()
            # top-1 accuracy is named only where that is the score
            assert measure.unit == "top-1 accuracy" or not re.search(r"top-1 accuracy(?! of)", text), text
    assert network.digest == before


def test_a_table_of_embeddings_is_a_layer_and_a_tied_head_the_same_one() -> None:
    network, _ = patient("causal")
    (tied,) = network.select(kind="embedding")
    assert tied.weight == "model.embed_tokens.weight" and tied.weight_shape == (27, 16)
    assert tied.macs == 12 * 27 * 16 and len(tied.nodes) == 2  # of the head; a look-up multiplies nothing
    assert list_layers(network)["parameters"].sum() + sum(other_parameters(network).values()) == network.parameters
    kinds = run("parameters", "causal").tables["kinds"]
    assert dict(kinds.select("kind", "parameters").rows())["embedding"] == 27 * 16
    for name in ("encoder", "table", "lstm"):
        (table,) = patient(name)[0].select(kind="embedding")
        assert table.macs == 0 and table.bias is None


def test_a_tied_table_is_edited_once_for_both_uses() -> None:
    network, samples = patient("causal")
    result = run("codebook", "causal", sizes=(2,), layers=("model.embed_tokens",))
    copied = copy.deepcopy(network.module)
    weight = copied.model.embed_tokens.weight
    values = np.sort(weight.detach().numpy().reshape(-1).astype(np.float64))
    cut = min(range(1, len(values)), key=lambda k: values[:k].var() * k + values[k:].var() * (len(values) - k))
    with torch.no_grad():
        edge = (values[cut - 1] + values[cut]) / 2
        weight.copy_(torch.where(weight < edge, float(values[:cut].mean()), float(values[cut:].mean())))
    (batch,) = samples.batches(network.preprocessing, len(samples))
    ids, mask = batch.inputs.values()
    with torch.no_grad():
        logits = copied(input_ids=ids, attention_mask=mask).logits
    real = (mask[:, 1:] > 0).reshape(-1)
    nats = nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 27)[real], ids[:, 1:].reshape(-1)[real])
    row = result.tables["scores"].row(1, named=True)
    assert row["loss"] == pytest.approx(float(nats), rel=1e-4)
    assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))


def test_a_regression_is_scored_by_r2() -> None:
    network, samples = patient("regression")
    row = run("rounding", "regression", one_layer_at_a_time=False).tables["scores"].row(0, named=True)
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        given = network.module(*batch.inputs.values())[:, 0].numpy()
    labels = samples.labels.reshape(-1)
    r2 = 1 - ((given - labels) ** 2).sum() / ((labels - labels.mean()) ** 2).sum()
    assert row["r2"] == pytest.approx(r2, abs=1e-5)


def test_groups_run_along_the_inputs_with_a_scale_each() -> None:
    weight = torch.randn(5, 10) ** 3
    weight[1] = 0
    kind = number_format("int4_group4")
    expected = torch.zeros_like(weight)
    for i in range(5):
        for start in range(0, 10, 4):
            part = weight[i, start : start + 4]
            scale = part.abs().max() / 7
            expected[i, start : start + 4] = (part / scale).round() * scale if scale > 0 else 0.0
    assert torch.allclose(kind.apply(weight), expected, atol=1e-7)
    assert kind.scales((5, 10)) == 15 and number_format("int4_channel").scales((5, 10)) == 5
    assert number_format("int8_tensor").scales((5, 10)) == 1 and number_format("fp16").scales((5, 10)) == 0
    with pytest.raises(SettingsError, match="_group and its size"):
        number_format("fp8_e4m3_group32")


def test_the_stored_bits_of_a_format_count_its_scales() -> None:
    formats = run("rounding", "causal", formats=("int4_group8",), one_layer_at_a_time=False).tables["formats"]
    network, _ = patient("causal")
    weights = sum(math.prod(layer.weight_shape) for layer in network.layers)
    scales = sum(layer.weight_shape[0] * -(-layer.weight_shape[1] // 8) for layer in network.layers)
    assert formats["stored_bits"].to_list() == [4 + 32 * scales / weights]


@pytest.mark.parametrize(
    ("given", "amount", "by"),
    [
        (0.5, 0.005, "drop"),
        ("0.5", 0.005, "drop"),
        ("2 points", 0.02, "drop"),
        ("1%", math.log(1.01), "rise"),
        ("1 % of perplexity", math.log(1.01), "rise"),
        ("0.02 nats", 0.02, "rise"),
    ],
)
def test_budgets_are_points_perplexity_or_nats(given: object, amount: float, by: str) -> None:
    budget = parse_budget(given)  # type: ignore[arg-type]
    assert (budget.amount, budget.by) == (pytest.approx(amount), by)


@pytest.mark.parametrize("given", ["", "much", "-1", "101", "1 bit", float("nan"), "inf nats", True])
def test_other_budgets_are_refused(given: object) -> None:
    with pytest.raises(SettingsError, match="budget"):
        parse_budget(given)  # type: ignore[arg-type]


def test_a_budget_in_nats_needs_a_loss_in_nats() -> None:
    with pytest.raises(SettingsError, match="scored by places"):
        run("prescribe", "table", budget="1%")


def test_a_budget_of_perplexity_is_counted_in_nats() -> None:
    result = run("prescribe", "causal", budget="2%", confidence=0.9)
    promise = result.tables["promise"].row(0, named=True)
    assert promise["unit"] == "nats" and promise["budget"] == pytest.approx(math.log(1.02))
    assert promise["losses"] is None and promise["bound"] <= promise["budget"]
    measured = result.tables["path"].drop_nulls("drop").row(0, named=True)
    assert measured["drop_low"] <= measured["drop"] <= measured["drop_high"]
    assert any("nats" in sentence for sentence in result.findings)


def test_the_bound_of_a_mean_is_students_for_new_samples() -> None:
    assert mean_bound(0.1, 0.02, 20, 20, 0.95) == pytest.approx(0.1 + stats.t.ppf(0.95, 19) * 0.02 * math.sqrt(2))
    assert mean_bound(0.1, 0.02, 20, 20, 0.0) == 0.1 and mean_bound(0.1, 0.02, 1, 20) == math.inf
    draws = np.random.default_rng(0).normal(0.3, 1.0, (4000, 30))
    seen, new = draws[:, :10], draws[:, 10:].mean(1)
    bounds = [mean_bound(row.mean(), row.std(ddof=1) / math.sqrt(10), 10, 20, 0.9) for row in seen]
    assert np.mean(new <= bounds) == pytest.approx(0.9, abs=0.015)


def test_heads_are_measured_at_real_places_only() -> None:
    network, samples = patient("causal")
    maps = attention_maps(network)
    counted = observe(network, samples, {name: (name, HeadAttention()) for name in maps}, batch_size=7)
    (batch,) = samples.batches(network.preprocessing, len(samples))
    ids, mask = batch.inputs.values()
    with torch.no_grad():
        attention = network.module(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    for node, weights in zip(maps, attention, strict=True):
        values: list[list[np.ndarray]] = [[], [], [], []]
        for one, length in zip(weights.double().numpy(), mask.sum(1).tolist(), strict=True):
            for query in range(length):
                row = one[:, query, :length]
                values[0].append(row[:, query])
                values[2].append(row[:, 0])
                values[3].append(-(row * np.log(np.where(row > 0, row, 1))).sum(1))
                if query:
                    values[1].append(row[:, query - 1])
        expected = np.stack([np.mean(part, 0) for part in values])
        assert counted[node].numpy() == pytest.approx(expected, abs=1e-6)


def test_a_head_is_removed_by_its_columns_of_the_projection() -> None:
    network, samples = patient("encoder")
    tables = run("activations", "encoder").tables
    assert tables["heads"].height == 8 and tables["heads_removed"].height == 8
    node = next(iter(attention_maps(network)))
    layer = projection_of(network, attention_maps(network)[node])
    assert layer is not None and layer.name == "encoder.layer.0.attention.output.dense"
    copied = copy.deepcopy(network.module)
    with torch.no_grad():
        copied.encoder.layer[0].attention.output.dense.weight[:, 4:8] = 0
    (batch,) = samples.batches(network.preprocessing, len(samples))
    ids, mask = batch.inputs.values()
    with torch.no_grad():
        then = network.module(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
        now = copied(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
    cosine = nn.functional.cosine_similarity(then.flatten(1).double(), now.flatten(1).double())
    row = removal_table(network, samples, tables["heads"]).filter((pl.col("node") == node) & (pl.col("head") == 1))
    assert row["cosine"][0] == pytest.approx(float(cosine.mean()), abs=1e-5)


@pytest.mark.parametrize("name", ["unet", *(pytest.param(n, marks=SLOW) for n in ("causal", *SLOWLY))])
def test_deep_compression_ends_in_a_file_that_scores_what_is_said(name: str) -> None:
    network, samples = patient(name)
    even = np.arange(len(samples)) % 2 == 0
    train, test = (samples.select(np.flatnonzero(rows), "half") for rows in (even, ~even))
    settings = {"density": ("0.5",), "bits": ("4",), "rounds": 1, "epochs": (1,), "share_epochs": 1, "batch_size": 8}
    result = study_function("compression")(network, test, train=train, learning_rate=0.01, **settings)
    (path,) = result.artifacts.values()
    again = load_network(copy.deepcopy(network.module), weights=path, example=network.signature)
    file = result.tables["stages"].filter(pl.col("stage") == "file").row(0, named=True)
    expected = score(again, test).row(0, named=True)
    column = measure_of(network, test).column
    assert file[column] == pytest.approx(expected[column], abs=1e-6)
    assert file["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for layer in network.layers:
        values = again.tensors[layer.weight]
        assert len(values.unique()) <= 16 and float((values != 0).double().mean()) <= 0.52
    assert result.tables["history"]["loss"].is_finite().all()
    assert name == "unet" or not any(re.search(r"\bimages?\b", text) for text in result.findings)


def test_names_of_layers_and_settings_keep_their_words() -> None:
    given = "An image of 3 images drives image.conv1 and encoder.image:3 ('image', my_image) on an image; per-image."
    expected = "A text of 3 texts drives image.conv1 and encoder.image:3 ('image', my_image) on a text; per-text."
    assert of_samples(given, "text") == expected and of_samples(given, "image") == given
    result = study_function("activations")(*patient("causal"))
    assert result.figures
    for figure in result.figures.values():
        titles = re.findall(r'"title": "([^"]*)"', json.dumps(figure.spec))
        assert titles and not any(re.search(r"\bimages?\b", title) for title in titles), titles


@pytest.mark.slow
def test_a_key_value_head_is_removed_with_the_queries_that_share_it() -> None:
    network, samples = patient("causal")
    result = study_function("activations")(network, samples)
    heads, shared = result.tables["heads"], result.tables["key_value_heads_removed"]
    assert heads["key_value_head"].to_list() == [0, 0, 1, 1] * 2 and shared.height == 4
    for (node, head), layer in zip(shared.select("node", "key_value_head").rows(), (0, 0, 1, 1), strict=True):
        assert [key_value_heads(n) for n in attention_maps(network).values()] == [2, 2]
        by_hand = copy.deepcopy(network.module)
        with torch.no_grad():  # four values a head: without them its queries bring nothing
            by_hand.model.layers[layer].self_attn.v_proj.weight[4 * head : 4 * head + 4] = 0
        expected = score(load_network(by_hand, example=network.signature), samples).row(0, named=True)
        row = shared.filter((pl.col("node") == node) & (pl.col("key_value_head") == head)).row(0, named=True)
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5) and row["top1"] == expected["top1"]
    assert any("of 4 key-value heads can be removed alone, each with its 2 query heads" in s for s in result.findings)
    check_findings(result, most=10)
    spec = json.dumps(result.figures["heads_removed"].spec)
    assert "within" in spec and "95 % interval holds 0" in result.figures["heads_removed"].reading
    plain = study_function("activations")(*patient("encoder"))
    assert "key_value_heads_removed" not in plain.tables
    assert plain.tables["heads"]["key_value_head"].to_list() == plain.tables["heads"]["head"].to_list()


def test_outlying_channels_are_named() -> None:
    module = nn.Sequential(nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 3))
    with torch.no_grad():
        module[0].weight.normal_()
        module[0].weight[7, 31] = 90.0
    network = load_network(module, example=torch.zeros(2, 50))
    rows = outliers(network).filter(pl.col("layer") == "0")
    assert rows.select("axis", "channel").rows() == [("output", 7), ("input", 31)]
    assert rows["largest"].to_list() == [90.0, 90.0]
    sigma = float(module[0].weight.double().std(correction=0))
    assert rows["sigmas"].to_list() == pytest.approx([90 / sigma] * 2)


def test_a_prescription_in_groups_opens_again_with_its_tied_head() -> None:
    network, samples = patient("causal")
    result = study_function("prescribe")(network, samples, budget=20, confidence=0.0, tables="groups")
    layers = result.tables["layers"].drop_nulls("how")
    assert layers["how"].str.contains("_group").sum() >= 10
    (path,) = result.artifacts.values()
    state, kept = expand(path), network.module.state_dict()
    assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])
    chosen = {layer.name: layer.weight for layer in network.layers}
    for name, how in layers.select("layer", "how").iter_rows():
        bits, size = map(int, re.fullmatch(r"int(\d)_group(\d+)", how).groups()) if "_group" in how else (0, 1)
        if not bits:
            continue
        for after, before in zip(state[chosen[name]].flatten(1), kept[chosen[name]].flatten(1), strict=True):
            for a, b in zip(after.split(size), before.split(size), strict=True):
                scale = float(b.abs().max() / (2 ** (bits - 1) - 1))
                integers = a / scale if scale else a  # the padding's row is 0
                assert torch.allclose(integers, integers.round(), atol=2e-3 * 2**bits)
    again = load_network(copy.deepcopy(network.module), weights=path, example=network.signature)
    reported = result.tables["scores"].filter(pl.col("version") == "prescribed").row(0, named=True)
    parts = part(samples, 128, 0)
    assert score(again, parts.reporting)["loss"][0] == pytest.approx(reported["loss"], rel=1e-5)


@pytest.mark.parametrize("name", PATIENTS)
def test_compressed_files_give_the_weights_back(name: str, tmp_path: Path) -> None:
    network, _ = patient(name)
    state = expand(compress(network, tmp_path / "x.netopsy.safetensors", bits=8))
    assert set(state) == set(network.module.state_dict())
    for layer in network.layers:
        assert len(np.unique(state[layer.weight].numpy())) <= 256
        tied = [key for key, value in network.module.state_dict().items() if value is not None and "lm_head" in key]
        assert all(torch.equal(state[key], state["model.embed_tokens.weight"]) for key in tied)


_LARGE = """
import resource, torch, numpy as np
from torch import nn
from netopsy import Samples, load_network
from netopsy.network.signature import Input, Signature
from netopsy.samples.records import ArrayRecords
from netopsy.studies.functions import study_function

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50_000, 16), nn.Linear(16, 50_000, bias=False)
    def forward(self, input_ids):
        return {"logits": self.head(self.embedding(input_ids))}

tokens = np.random.default_rng(0).integers(0, 50_000, (4, 512))
signature = Signature((Input("input_ids", (512,), torch.int64, "tokens", 0),))
network = load_network(Model(), example=signature)
samples = Samples("t", ArrayRecords({"input_ids": tokens}, "tokens"), None)
study_function("rounding")(network, samples, decimals=(1, 2), formats=("int8_channel", "int4_channel"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_a_large_vocabulary_stays_within_bounds() -> None:
    """The logits of one text are 102 MB; all variants of all texts at once would be 4 GB."""
    out = subprocess.run([sys.executable, "-c", _LARGE], capture_output=True, text=True, check=True)
    assert int(out.stdout.split()[-1]) < 2500
