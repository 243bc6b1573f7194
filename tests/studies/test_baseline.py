"""The study `baseline`: the score, the confusions and the calibration, against plain loops."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

import netopsy
from netopsy.engine.sweep.sweep import newly_wrong
from netopsy.studies.baseline.baseline import layers_before
from netopsy.tallies.answers import BINS, TEMPERATURES, Answers
from netopsy.tallies.sparsity import Range
from networks import shipped


@pytest.fixture(scope="module")
def given() -> tuple[netopsy.Network, netopsy.Samples]:
    return shipped("a"), netopsy.load_samples("digits", count=200)


@pytest.fixture(scope="module")
def outputs(given) -> torch.Tensor:
    network, samples = given
    with torch.inference_mode():
        batches = samples.batches(network.preprocessing, 50)
        return torch.cat([network.module(batch.images) for batch in batches]).double()


@pytest.fixture(scope="module")
def result(given) -> netopsy.Result:
    return netopsy.baseline(*given)


def test_the_score_is_that_of_a_plain_loop(given, outputs, result) -> None:
    labels = torch.from_numpy(given[1].labels)
    row = result.tables["score"].row(0, named=True)
    assert row["score"] == row["top1"] == (outputs.argmax(1) == labels).double().mean().item()
    assert row["top5"] == (outputs.topk(5).indices == labels[:, None]).any(1).double().mean().item()
    assert row["loss"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, labels).item())
    assert row["parameters"] == given[0].parameters and row["score_low"] < row["score"] < row["score_high"]


def test_confusions_and_classes_count_every_image(given, outputs, result) -> None:
    labels, predicted = given[1].labels, outputs.argmax(1).numpy()
    for row in result.tables["confusion"].iter_rows(named=True):
        here = (labels == int(row["class"])) & (predicted == int(row["predicted"]))
        assert here.sum() == row["images"]
    assert result.tables["confusion"]["images"].sum() == len(labels)
    classes = result.tables["classes"]
    assert classes["images"].to_list() == np.bincount(labels, minlength=10).tolist()
    assert classes["right"].sum() == (labels == predicted).sum()


def test_the_calibration_is_that_of_the_definition(given, outputs) -> None:
    labels = torch.from_numpy(given[1].labels)
    tally = Answers(10)
    for rows in torch.arange(200).split(70):
        tally.update((outputs[rows], labels[rows]), rows)
    found = tally.result()
    confidence, predicted = outputs.softmax(1).max(1)
    which = (confidence * BINS).long().clamp(max=BINS - 1)
    error = 0.0
    for k in range(BINS):
        here = which == k
        if here.any():
            gap = confidence[here].mean() - (predicted == labels)[here].double().mean()
            error += here.double().mean().item() * abs(gap.item())
    assert found.calibration_error == pytest.approx(error)
    losses = [torch.nn.functional.cross_entropy(outputs / t, labels).item() for t in TEMPERATURES]
    assert found.loss == pytest.approx(losses) and found.temperature == TEMPERATURES[int(np.argmin(losses))]
    assert found.mistakes.shape[0] == (predicted != labels).sum() and (np.diff(found.mistakes[:, 0]) <= 0).all()


def test_answers_of_two_parts_are_those_of_all(given, outputs) -> None:
    labels, whole, parts = torch.from_numpy(given[1].labels), Answers(10, k=3), [Answers(10, k=3), Answers(10, k=3)]
    whole.update((outputs, labels), torch.arange(200))
    for tally, rows in zip(parts, torch.arange(200).split(90), strict=False):
        tally.update((outputs[rows], labels[rows]), rows)
    rest = Answers(10, k=3)
    rest.update((outputs[180:], labels[180:]), torch.arange(180, 200))
    parts[0].merge(parts[1])
    parts[0].merge(rest)
    one, two = whole.result(), parts[0].result()
    for name in ("confusion", "unanswered", "bins", "loss", "mistakes"):
        assert np.allclose(getattr(one, name), getattr(two, name)), name
    assert (one.images, one.top5, one.sure) == (two.images, two.top5, two.sure)


def test_probabilities_are_taken_as_such(outputs, given) -> None:
    labels, one, two = torch.from_numpy(given[1].labels), Answers(10), Answers(10)
    one.update((outputs, labels), torch.arange(200))
    two.update((outputs.softmax(1), labels), torch.arange(200))
    assert one.result().probabilities == 0 and two.result().probabilities == 200
    assert one.result().calibration_error == pytest.approx(two.result().calibration_error)
    logs = Answers(10)
    logs.update((outputs.log_softmax(1), labels), torch.arange(200))
    assert logs.result().log_probabilities == 200


def test_what_an_edit_gets_wrong_is_that_of_a_plain_loop(given, outputs) -> None:
    network, samples = given
    layer = network.layers[3].weight
    changed = {layer: network.tensors[layer] * 0.5, "no such": torch.zeros(1)}
    with torch.inference_mode():
        module = network.with_tensors({layer: changed[layer]}).module
        after = torch.cat([module(batch.images) for batch in samples.batches(network.preprocessing, 50)]).double()
    order = np.arange(20, 200)
    found = newly_wrong(network, samples, changed, order, most=5)
    before, now = outputs.argmax(1).numpy(), after.argmax(1).numpy()
    lost = [k for k in order if before[k] == samples.labels[k] != now[k]]
    assert len(lost) >= 3
    chance = after.softmax(1).max(1).values.numpy()
    expected = sorted(lost, key=lambda k: -chance[k])[:5]
    assert found["image"].to_list() == expected and found["confidence"].to_list() == pytest.approx(chance[expected])
    assert (found["class"] == found["before"]).all() and found["after"].to_list() == [str(now[k]) for k in expected]


def test_outputs_that_are_not_finite_are_no_answers() -> None:
    tally = Answers(3)
    tally.update((torch.tensor([[0.0, 1, 2], [torch.nan, 0, 0]]), torch.tensor([2, 1])), torch.arange(2))
    found = tally.result()
    assert found.right == 1 and found.unanswered.tolist() == [0, 1, 0] and found.images == 2


def test_the_range_of_units() -> None:
    tally, other = Range(), Range()
    tally.update(torch.tensor([[[0.0, 0], [1, 2]], [[0, 0], [-1, 5]]]), torch.arange(2))
    other.update(torch.tensor([[[0.0, 0], [7, 2]]]), torch.arange(1))
    tally.merge(other)
    assert tally.result().low.tolist() == [0, -1] and tally.result().high.tolist() == [0, 7]


def test_layers_before_go_along_the_branches() -> None:
    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = (torch.nn.Conv2d(3, 3, 1) for _ in range(3))
            self.deeper, self.head = torch.nn.Conv2d(3, 3, 1), torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = x + self.deeper(self.left(x).relu()) + self.right(x)
            return self.head(x.mean((2, 3)))

    network = netopsy.load_network(Branches(), size=8)
    before = layers_before(network)
    assert before == {
        "stem": [],
        "left": ["stem"],
        "deeper": ["left"],
        "right": ["stem"],
        "head": ["deeper", "right"],
    }


def test_unlabelled_samples_have_a_score_of_their_own(given) -> None:
    network, samples = given
    plain = netopsy.Samples("plain", samples.records, None, rows=samples._rows[:20])
    result = netopsy.baseline(network, plain)
    assert result.tables["score"]["task"].item() == "agreement" and "confusion" not in result.tables


def test_measures_name_every_layer(given, result) -> None:
    names = [layer.name for layer in given[0].layers]
    parameters = result.measures.filter(pl.col("measure") == "parameters")
    assert parameters["layer"].to_list() == names
    assert set(result.measures["measure"]) <= set(netopsy.result.MEASURES)
