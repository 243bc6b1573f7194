"""Real architectures: their layers, their multiply-accumulates, and which studies can treat them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import small_transformers
from coverage_page import page
from netopsy.errors import NetopsyError, NetworkError
from netopsy.network.listing import list_layers, other_parameters
from netopsy.network.macs import graph_macs
from netopsy.network.network import Network
from netopsy.network.signature import Input, Signature
from netopsy.network.sources.load import load_network
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import find_task
from netopsy.studies.functions import study_function
from netopsy.studies.study import takes
from netopsy.studies.table import STUDIES, study_class
from patients import PATIENTS, patient
from treatable import obstacles, random_samples

FEW = ["torchvision:squeezenet1_1", "timm:test_vit", "timm:test_convnext"]


def check(name: str) -> None:
    """The table has each weight of the module once, and its products are those that torch counts."""
    network = load_network(name, weights="random")
    table = list_layers(network)
    listed = set(table["layer"].to_list())
    modules = network.module.named_modules()
    apart = ("aux", "AuxLogits")  # run in training alone
    used = {n for n, m in modules if isinstance(m, nn.Conv2d | nn.Linear) and not n.startswith(apart)}
    used = {n for n in used if ".cpb_mlp." not in n}  # Swin v2 makes its position biases of constants, not of the image
    attention = {n for n, m in network.module.named_modules() if isinstance(m, nn.MultiheadAttention)}
    assert used <= listed and {f"{n}.in_proj" for n in attention} <= listed
    assert sum(other_parameters(network).values()) + table["parameters"].sum() == network.parameters
    network.module.requires_grad_(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            network.module(torch.zeros(1, *network.preprocessing.input_shape))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert graph_macs(network.program.nodes) == counter.get_total_flops() // 2
    assert obstacles(network, "parameters") is None


@pytest.mark.parametrize("name", FEW)
def test_layers_and_macs_of_a_few(name: str) -> None:
    check(name)


def test_what_studies_say_of_a_transformer() -> None:
    network = load_network("timm:test_vit", weights="random")
    reasons = {study: obstacles(network, study) for study in STUDIES}
    assert reasons.pop("sparsity", "No activation").startswith("No activation")  # type: ignore[union-attr]
    assert not any(reasons.values())


def test_what_studies_say_of_a_table_and_of_a_volume() -> None:
    table, volume = (
        {study: reason for study in STUDIES if (reason := obstacles(*patient(name)[:1], study))}
        for name in ("table", "volume")
    )
    assert table.keys() == {"filters", "filter_codebook", "field", "triage"}
    assert table["field"].startswith("The network takes inputs of the kind vector; fields of view are measured on")
    assert volume.keys() == {"reconstruct", "field", "triage"}


class Pairs(nn.Module):
    """Two towers, and the products of each row of one with each row of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(5, 6)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        first = self.first(x)
        return {"logits": first @ self.second(y).T, "features": first}


def test_an_output_that_holds_samples_against_each_other_gives_no_score_a_sample() -> None:
    inputs = Signature((Input("x", (4,), kind="vector"), Input("y", (5,), kind="vector")))
    network = load_network(Pairs(), example=inputs)
    with pytest.raises(NetworkError, match=r"'logits' .* has not one row a sample.*output=: features"):
        find_task(network, random_samples(network))
    assert obstacles(network, "noise") and obstacles(network, "parameters") is None
    named = load_network(network.module, example=inputs, output="features")
    assert find_task(named, random_samples(named)).name == "embedding" and obstacles(named, "noise") is None


class Wave(nn.Module):
    """Sound without an axis of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 4, 5, stride=2), nn.Conv1d(4, 3, 1)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(wave[:, None])))


def test_fields_along_sound_that_has_no_axis_of_channels() -> None:
    network = load_network(Wave(), example=Signature((Input("wave", (64,), kind="series", length_axis=0),)))
    away = study_function("field")(network, random_samples(network)).tables["distances"]
    assert away.height and (away["radius"] <= 4).all()  # five places wide


QUICK: dict[str, dict[str, Any]] = {
    "reconstruct": {"survey": 0, "images": (0,), "draws": 1},
    "maximize": {"way": "plain", "runs": 1, "steps": 2},
    "field": {"layers": 2, "averaged": 2},
    "transfer": {"stresses": (), "repeats": 1},
    "noise": {"strengths": (0.1,), "repeats": 1},
    "rounding": {"decimals": (1,), "one_layer_at_a_time": False},
    "codebook": {"sizes": (2,), "one_layer_at_a_time": False},
    "filter_codebook": {"shares": (0.5,)},
    "prescribe": {"budget": 5, "confidence": 0.0, "probes": 2},
    "compression": {"rounds": 1, "epochs": (1,), "density": ("0.5",), "share_epochs": 1},
    "triage": {"starts": ("ID",), "training": ("none",), "repeats": 1},
    "correspondence": {"untrained": False},
    "dsd": {"epochs": (1, 1, 1), "repeats": 1},
}
"""Settings with which a study is done in seconds."""


def check_that_studies_do_what_is_said(network: Network, samples: Samples | None) -> None:
    given = random_samples(network, 24) if samples is None else samples
    unlike = []
    for study in STUDIES:
        said, needs = obstacles(network, study, samples), takes(study_class(study))
        settings = dict(QUICK.get(study, {})) | {name: given for name, needed in needs.images.items() if needed}
        settings |= {name: network for name, needed in needs.networks.items() if needed}
        classes = study == "transfer" and (
            not given.labelled or given.labels.ndim > 1 or given.labels.dtype.kind == "f"
        )
        labels = np.arange(len(given)) % 2
        try:
            shown = Samples(given.name, given.records, labels, ("a", "b")) if classes else given
            result = study_function(study)(network, shown, **settings)
            done = any(table.height for table in result.tables.values())
        except NetopsyError:
            done = False
        if done != (said is None) and study != "sparsity":  # which is run where no zero is to be expected too
            unlike.append((study, said, done))
    assert not unlike


@pytest.mark.slow
@pytest.mark.parametrize("name", PATIENTS)
def test_studies_do_on_small_networks_what_is_said_of_them(name: str) -> None:
    check_that_studies_do_what_is_said(*patient(name))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "wav2vec2", "gpt2", "vit", "segformer", "clip", "detr", "timesformer", "fnet"])
def test_studies_do_on_small_transformers_what_is_said_of_them(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    small_transformers.save(kind, tmp_path)
    network = load_network(f"hf:{tmp_path}", weights="random", length=small_transformers.length(kind))
    check_that_studies_do_what_is_said(network, None)


def test_the_page_has_a_column_a_study_and_a_number_for_each_reason() -> None:
    facts = {"parameters": 10, "layers": 2, "macs": 3_000_000, "inputs": ["x 4"], "outputs": ["logits 3"]}
    facts |= {"difference": 2e-6, "exact_fields": 1, "flop_counter": 3_000_000, "architecture": "Net"}
    facts["obstacles"] = dict.fromkeys(STUDIES) | {"filters": "It has no convolution."}
    names = ("torchvision:a", "timm:b", "hf:c", "onnx:package 1.0/d.onnx")
    text = page([{"network": name, **facts} for name in names] + [{"network": "hf:e", "error": "It does not open."}], 6)
    heads = [line for line in text.splitlines() if line.startswith("|") and "`noise`" in line]
    assert len(heads) == 4 and all(f"`{study}`" in head for head in heads for study in STUDIES)
    assert "1. It has no convolution." in text and "2. It does not open." in text and "5 of 6 networks" in text
    rows = [line for line in text.splitlines() if line.startswith(("| c |", "| e |", "| d.onnx |"))]
    assert [(row.count("yes"), row.count("[1](#reasons)")) for row in rows] == [
        (len(STUDIES) - 1, 1),
        (0, 0),
        (len(STUDIES) - 1, 1),
    ]
    assert rows[1].count("[2](#reasons)") == len(STUDIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_classification_network_of_torchvision(name: str) -> None:
    check(f"torchvision:{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(timm.list_models("test_*")))
def test_the_test_networks_of_timm(name: str) -> None:
    check(f"timm:{name}")
