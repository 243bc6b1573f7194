"""The study `prescribe`: the file that it writes, the halves, and what it says of networks that it cannot help."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from test_findings import check_findings
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Result, Samples, load_network, load_samples, prescribe
from netopsy.codec.file import read_compressed
from netopsy.deep_compression.save import expanded_network
from netopsy.engine.sweep.edits import Replace, Variant
from netopsy.engine.sweep.sweep import sweep
from netopsy.errors import NetworkError, SamplesError, SettingsError
from netopsy.samples.images import ArrayImages
from netopsy.stats.hypothesis_tests import drop_bound
from netopsy.studies.prescribe.candidates import Joint, candidates
from netopsy.studies.prescribe.compensate import Rounder
from netopsy.studies.prescribe.knapsack import Allocation
from netopsy.studies.prescribe.plan import part
from netopsy.wording import points
from networks import shipped, trained_resnet20
from treatable import obstacles


@pytest.fixture(scope="module")
def network() -> Network:
    return shipped("a")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return load_samples("digits", count=80)


@pytest.fixture(scope="module")
def result(network: Network, samples: Samples) -> Result:
    return prescribe(network, samples, budget=8.0, confidence=0.0, probes=12)


def small(*modules: nn.Module, size: int = 6, count: int = 24, classes: int = 4) -> tuple[Network, Samples]:
    lot = np.random.default_rng(0)
    pixels = lot.integers(0, 256, (count, size, size, 3), np.uint8)
    samples = Samples("noise", ArrayImages(pixels), lot.integers(0, classes, count), tuple("abcd")[:classes])
    return Network(
        "test", nn.Sequential(*modules), Preprocessing(size=(size, size), mean=(0.5,) * 3, std=(0.5,) * 3)
    ), samples


def test_the_file_is_small_and_its_bytes_add_up(result: Result, network: Network) -> None:
    (path,) = result.artifacts.values()
    layers = result.tables["layers"]
    total = layers.filter(pl.col("layer") == "all").row(0, named=True)
    assert total["bytes"] == path.stat().st_size == layers.filter(pl.col("layer") != "all")["bytes"].sum()
    assert path.name == "digits-a.netopsy.safetensors" and total["share"] < 1 / 10
    assert layers["layer"].to_list()[:-3] == [layer.name for layer in network.layers]
    assert total["predicted"] == pytest.approx(layers["predicted"].head(len(network.layers)).sum())


def test_what_is_scored_is_what_the_file_holds(result: Result, network: Network, samples: Samples) -> None:
    """The scores of `load_network(file)` by `sweep` on the reporting half, and of `read_compressed` by hand."""
    (path,) = result.artifacts.values()
    reporting = part(samples, 12, 0).reporting
    row = result.tables["scores"].row(1, named=True)
    opened = load_network(path)
    scores = sweep(opened, reporting, [Variant({}, None)]).row(0, named=True)
    assert {key: row[key] for key in ("top1", "top5", "loss", "images")} == pytest.approx(
        {key: scores[key] for key in ("top1", "top5", "loss", "images")}
    )
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in read_compressed(path).state().items()}
    weights = tuple(name for name in state if name in network.tensors and state[name].ndim > 1)
    edit = Replace(weights, lambda _: {name: state[name] for name in weights}, "file")
    near = sweep(network, reporting, [Variant({}, edit)]).row(0, named=True)
    assert abs(near["loss"] - row["loss"]) < 0.01, "but for biases and norms in float16"


def test_the_chosen_point_is_within_the_budget_and_the_smallest(result: Result) -> None:
    path = result.tables["path"].drop_nulls("drop")
    chosen = path.filter(pl.col("chosen")).row(0, named=True)
    within = path.head(int((path["bound"] > 0.08 + 1e-9).arg_max() or 0))  # the first that is beyond it ends the test
    assert chosen["bytes"] == within["bytes"].min() and path.height <= 40
    assert path["bound"].to_list() == path["drop"].to_list(), "a confidence of 0 adds no margin"
    every = result.tables["path"]
    assert every["bytes"].is_sorted(descending=True) and every["predicted_divergence"].is_sorted()
    (file,) = result.artifacts.values()
    assert chosen["bytes"] == pytest.approx(file.stat().st_size, rel=0.15), "the estimate leaves the header out"


def test_the_network_stays_and_the_same_seed_gives_the_same_tables(network: Network, samples: Samples) -> None:
    module = shipped("a")
    few = samples.subset(24)
    first = prescribe(module, few, budget=5.0, confidence=0.0, probes=6, layers=("fc", "block1.conv1"))
    assert module.__class__ is Network and all(
        torch.equal(value, network.tensors[name]) for name, value in module.tensors.items()
    )
    again = prescribe(module, few, budget=5.0, confidence=0.0, probes=6, layers=("fc", "block1.conv1"))
    for name, table in first.tables.items():
        assert table.equals(again.tables[name]), name
    (one,), (two,) = first.artifacts.values(), again.artifacts.values()
    assert one.read_bytes() == two.read_bytes()
    assert set(read_compressed(one).shared) <= {"fc.weight", "block1.conv1.weight"}
    text = " ".join(first.findings)
    assert "cannot show a drop of 5.00 points" in text and "one image is 8.33 points" in text


def test_what_can_be_pruned_is_a_measure_of_each_layer(result: Result) -> None:
    layers = result.tables["layers"].drop_nulls("density")
    assert (
        set(result.measures["measure"]) == {"prunable"}
        and result.measures["layer"].to_list() == layers["layer"].to_list()
    )
    assert result.measures["value"].to_list() == pytest.approx((1 - layers["density"]).to_list())


def test_findings_name_the_numbers_of_the_tables(result: Result) -> None:
    row = result.tables["scores"].row(1, named=True)
    total = result.tables["layers"].filter(pl.col("layer") == "all").row(0, named=True)
    text = " ".join(result.findings)
    assert f"loses {points(row['drop'])}" in text and "40 images that were not used" in text
    assert f"{total['bytes'] / 1000:,.1f} kB" in text and f"1/{1 / total['share']:.1f} of float32" in text
    assert "The layers measured one at a time predict" in text and "compress most" in text
    check_findings(result, most=10)


class Head(nn.Module):
    """A network whose outputs come in another form; what it predicts stays."""

    def __init__(self, module: nn.Module, form: str | float) -> None:
        super().__init__()
        self.module, self.form = module, form

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.module(x)
        if self.form == "softmax":
            return outputs.softmax(1)
        if self.form == "log-softmax":
            return outputs.log_softmax(1)
        if self.form == "cosine":
            return outputs / outputs.norm(dim=1, keepdim=True)
        if self.form == "overconfident":
            return outputs**3
        return outputs * self.form


LAST = ("module.fc", "module.block5.conv3")


def plan_behind(network: Network, form: str | float) -> Result:
    p, module = network.preprocessing, Head(copy.deepcopy(network.module), form)
    headed = load_network(module, size=32, channels="L", mean=p.mean, std=p.std)
    return prescribe(headed, load_samples("digits", count=240), budget=6.0, layers=LAST)


@pytest.fixture(scope="module")
def plain_plan(network: Network) -> Result:
    return plan_behind(network, 1.0)


@pytest.mark.parametrize("form", [1e-6, pytest.param(1e6, marks=pytest.mark.slow), "log-softmax"])
def test_the_plan_does_not_change_with_the_scale_of_the_outputs(
    form: str | float, network: Network, plain_plan: Result
) -> None:
    found = plan_behind(network, form)
    (expected,), (path,) = plain_plan.artifacts.values(), found.artifacts.values()
    same = ("losses", "gains", "bound", "chosen")
    assert found.tables["path"].select(same).equals(plain_plan.tables["path"].select(same))
    assert found.tables["layers"]["bytes"][:2].equals(plain_plan.tables["layers"]["bytes"][:2])
    assert path.stat().st_size == pytest.approx(expected.stat().st_size, abs=200), "but for what the header says"


@pytest.mark.parametrize("form", ["softmax", pytest.param("cosine", marks=pytest.mark.slow), "overconfident"])
def test_the_budget_is_kept_whatever_the_outputs_are(form: str, network: Network, plain_plan: Result) -> None:
    found = plan_behind(network, form)
    promise, plain = (result.tables["promise"].row(0, named=True) for result in (found, plain_plan))
    assert promise["how"] == plain["how"] == "certified"
    assert promise["drop"] <= promise["bound"] <= 0.06 and found.tables["scores"]["drop"][1] <= 0.06
    assert promise["bytes"] < 1.1 * plain["bytes"]


def test_the_promise_is_that_of_the_chosen_point(plain_plan: Result) -> None:
    promise = plain_plan.tables["promise"].row(0, named=True)
    chosen = plain_plan.tables["path"].filter("chosen").row(0, named=True)
    for key in ("losses", "gains", "drop", "drop_low", "drop_high", "bound", "images"):
        assert promise[key] == chosen[key]
    assert promise["margin"] == pytest.approx(promise["bound"] - promise["drop"]) and promise["margin"] > 0
    assert promise["images"] == 80 and promise["bound"] <= 0.06
    assert promise["bound"] == drop_bound(chosen["losses"], chosen["gains"], 80, 120)
    (path,) = plain_plan.artifacts.values()
    assert promise["bytes"] == path.stat().st_size >= promise["bytes_by_count"]
    text = " ".join(plain_plan.findings)
    check_findings(plain_plan, most=10)
    assert "With 95 % confidence it loses at most" in text and f"a margin of {points(promise['margin'])}" in text


def test_too_few_images_leave_the_network_as_it_is_and_say_what_they_could_certify(network: Network) -> None:
    samples = load_samples("digits", count=60)
    result = prescribe(network, samples, budget=1.0, probes=6, layers=("fc", "block5.conv3"))
    promise, text = result.tables["promise"].row(0, named=True), " ".join(result.findings)
    check_findings(result, most=10)
    assert promise["how"] == "exact" and promise["bound"] == promise["drop"] == promise["margin"] == 0
    least = drop_bound(0, 0, 20, 30)
    assert promise["least_budget"] == least and f"still leave a drop of {points(least)} possible" in text
    assert "holds the network exactly as it is" in text and "about 1,020 images" in text
    (path,) = result.artifacts.values()
    for name, value in load_network(path).tensors.items():
        assert torch.equal(value, network.tensors[name]), name
    assert promise["bytes_by_count"] < promise["bytes"] and "The count alone would choose" in text
    assert result.tables["scores"]["agreement"][1] == 1 and not result.tables["path"]["chosen"].any()


def test_weights_of_few_values_cost_nothing(samples: Samples) -> None:
    """A network whose weights are already codes: a budget of 0 keeps its outputs, and the file is small."""
    torch.manual_seed(0)
    net, noise = small(nn.Flatten(), nn.Linear(108, 40), nn.ReLU(), nn.Linear(40, 4))
    with torch.no_grad():
        for name, value in net.module.named_parameters():
            value.copy_((value * 20).round() / 20 if "weight" in name else (value * 64).round() / 64)
    result = prescribe(net, noise, budget=0.0, compensate=False)
    row = result.tables["scores"].row(1, named=True)
    assert row["agreement"] == 1 and row["bytes"] < 0.5 * result.tables["scores"]["bytes"][0]
    assert result.tables["layers"]["noise"].head(2).max() < 0.01  # type: ignore[operator]


def test_a_layer_kept_as_it_is_is_measured_as_it_is_stored() -> None:
    torch.manual_seed(3)
    net, _ = small(nn.Flatten(), nn.Linear(108, 20, bias=False), nn.ReLU(), nn.Linear(20, 4, bias=False))
    rounders = {layer.name: Rounder(net.tensors[layer.weight].detach().numpy()) for layer in net.layers}
    choices = {name: candidates(rounder, "uniform", 2) for name, rounder in rounders.items()}
    for chosen in (0, -1):
        pick = {
            name: range(len(layer_choices))[chosen] if name == "1" else 0 for name, layer_choices in choices.items()
        }
        joint = Joint(net, net.layers, rounders, choices, "float16", "x")
        allocation = Allocation(pick, 0.0, 0.0)
        edit = joint.variant(allocation, {}).edit
        assert isinstance(edit, Replace)
        given = edit.function(net.tensors)
        stands = expanded_network(net, joint.shared(allocation), "float16")
        for name, value in stands.tensors.items():
            assert torch.equal(given[name].to(value), value), name


def test_a_grouped_network_and_kmeans_tables_are_treated() -> None:
    torch.manual_seed(1)
    net, noise = small(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.Flatten(), nn.Linear(128, 4))
    result = prescribe(net, noise, budget=20.0, confidence=0.0, tables="kmeans", other_dtype="exact")
    assert set(result.tables["layers"]["how"].drop_nulls()) <= {"kmeans", "as it is"}
    (path,) = result.artifacts.values()
    compressed = read_compressed(path)
    assert np.array_equal(compressed.kept["4.bias"], net.tensors["4.bias"].detach().numpy())


def test_several_labels_an_image_are_scored_too() -> None:
    torch.manual_seed(2)
    net, noise = small(nn.Flatten(), nn.Linear(108, 20), nn.ReLU(), nn.Linear(20, 4))
    labels = (np.random.default_rng(3).random((24, 4)) < 0.4).astype(np.float32)
    many = Samples("many", noise.records, labels, noise.classes)
    result = prescribe(net, many, budget=10.0, confidence=0.0)
    assert result.tables["scores"].height == 2 and result.tables["scores"]["divergence"][1] >= 0


def test_a_network_without_layers_gets_a_finding_and_no_file() -> None:
    net, noise = small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), classes=3)
    result = prescribe(net, noise)
    assert "no convolution or linear layer" in result.findings[0] and not result.artifacts
    for study in ("prescribe", "compression", "dsd"):
        assert obstacles(net, study) == "It has no convolution or linear layer with a weight."


class Map(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_outputs_that_are_no_scores_are_refused() -> None:
    net, noise = small(Map())
    with pytest.raises(NetworkError, match="one score a class"):
        prescribe(net, noise)
    for study in ("prescribe", "compression", "dsd"):
        assert "does not give one score a class" in str(obstacles(net, study, noise))


def test_maps_without_labels_are_scored_by_their_agreement_with_the_network() -> None:
    net, noise = small(Map(), count=8)
    assert obstacles(net, "prescribe") is None, "random samples have no labels for such outputs"
    result = prescribe(net, Samples("unlabelled", noise.records, None), budget=5.0, confidence=0.0)
    assert result.tables["scores"].height == 2 and len(result.artifacts) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": -1.0}, "budget"),
        ({"budget": float("nan")}, "budget"),
        ({"confidence": -0.1}, "confidence"),
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": 95}, "confidence"),
        ({"tables": "huffman"}, "uniform, kmeans"),
        ({"other_dtype": "int8"}, "exact, float16"),
        ({"probes": 0}, "probes"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], words: str, network: Network) -> None:
    with pytest.raises(SettingsError, match=words):
        prescribe(network, load_samples("digits", count=10), **settings)


def test_one_image_is_too_few(network: Network) -> None:
    with pytest.raises(SamplesError, match="at least 2"):
        prescribe(network, load_samples("digits", count=1))


def test_every_figure_draws(result: Result) -> None:
    import vl_convert

    assert set(result.figures) == {"trade_off", "layers", "sensitivity"}
    for figure in result.figures.values():
        assert figure.reading and vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")


@pytest.mark.real
@pytest.mark.slow
def test_resnet20_is_six_times_smaller_within_a_point(shared: Path) -> None:
    """The public CIFAR ResNet-20, on the first images of the public CIFAR-10 test set if they have been unpacked."""
    packed = shared / "data/images/cifar10-test.npz"
    if not packed.is_file():
        pytest.skip(f"no {packed}: unpack the CIFAR-10 test images there")
    net = trained_resnet20(shared)
    result = prescribe(net, load_samples(str(packed), count=2000), budget=1.0)
    row = result.tables["scores"].row(1, named=True)
    assert row["bytes"] * 6 < result.tables["scores"]["bytes"][0] and row["drop_low"] <= 0.01
