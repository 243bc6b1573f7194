"""The study `facets`: on networks whose units are known Boolean functions of known patterns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Result, Samples, facets, load_samples
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.samples.images import ArrayImages
from netopsy.studies.facets.account import Account, Score, account, firing_value, score, split_images
from netopsy.studies.facets.minimise import minimise, truth_table
from netopsy.studies.facets.report import account_sentence
from networks import shipped, trained_resnet20

SIZE = 6
IMAGES = 480
CLASSES = ("left", "right")


def patterned(present: np.ndarray, seed: int = 0) -> Samples:
    """Images of noise, bright all over in red, green or blue where `present` (n, 3) says so."""
    generator = np.random.default_rng(seed)
    dark, bright = (generator.integers(low, low + 55, (len(present), SIZE, SIZE, 3), np.uint8) for low in (0, 200))
    pixels = np.where(present[:, None, None], bright, dark)
    return Samples("patterns", ArrayImages(pixels), present[:, 2].astype(np.int64), CLASSES)


class Known(nn.Module):
    """Detectors A, B, C and a sum S of them; then the units (A and not B) or C, A with S, never, always."""

    def __init__(self) -> None:
        super().__init__()
        self.detect, self.norm, self.relu = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.unit, self.act = nn.Conv2d(4, 4, 1), nn.ReLU()
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            self.detect.weight[:3, :, 0, 0] = torch.eye(3)
            self.detect.weight[3] = 0.3
            self.detect.bias[:] = torch.tensor([-0.5, -0.5, -0.5, -0.05])
            self.unit.weight[:, :, 0, 0] = torch.tensor([[1.0, -2, 4, 0], [1, 0, 0, 0.5], [0, 0, 0, -1], [0, 0, 0, 1]])
            self.unit.bias[:] = torch.tensor([-0.1, -0.1, -0.01, 5.0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.unit(self.relu(self.norm(self.detect(x)))))
        return self.head(x.amax((2, 3)))


def known() -> Network:
    return Network("known", Known(), Preprocessing(size=(SIZE, SIZE)))


@pytest.fixture(scope="module")
def net() -> Network:
    return known()


@pytest.fixture(scope="module")
def every() -> Samples:
    """Every combination of the patterns equally often."""
    combinations = np.array([[n >> 2 & 1, n >> 1 & 1, n & 1] for n in range(8)], bool)
    return patterned(combinations[np.random.default_rng(1).integers(0, 8, IMAGES)])


@pytest.fixture(scope="module")
def apart() -> Samples:
    """At most one pattern an image: 60 of A, 50 of C, the rest of B or none."""
    kinds = np.repeat([0, 2, 1, 3], [60, 50, 100, 270])
    present = np.eye(4, dtype=bool)[np.random.default_rng(2).permutation(kinds)][:, :3]
    return patterned(present, 3)


@pytest.fixture(scope="module")
def of_every(net: Network, every: Samples) -> Result:
    return facets(net, every, units=("act:0",), firing_rate=0.0)


def test_the_expression_of_a_known_unit_is_recovered(of_every: Result) -> None:
    (row,) = of_every.tables["formulas"].to_dicts()
    a, b, c = "relu:0", "relu:1", "relu:2"
    assert row["expression"] == f"{c} OR ({a} AND NOT {b})"
    assert (row["precision"], row["recall"], row["f1"]) == (1.0, 1.0, 1.0)
    assert row["images"] == IMAGES // 2 and row["always_recall"] == 1.0
    assert row["always_precision"] == row["fires"] == pytest.approx(5 / 8, abs=0.1)
    assert row["single"] == c and 0 < row["single_f1"] < 1
    assert any(f'"{row["expression"]}"' in f and "precision 100 % and recall 100 %" in f for f in of_every.findings)


def test_a_known_unit_has_one_circuit_and_its_product_of_sums(of_every: Result) -> None:
    sum_of_products, product_of_sums = of_every.tables["circuits"].to_dicts()
    a, b, c = "relu:0", "relu:1", "relu:2"
    assert product_of_sums["expression"] == f"({c} OR {a}) AND ({c} OR NOT {b})"
    assert product_of_sums["f1"] == sum_of_products["f1"] == 1.0 and product_of_sums["minimal"] is None
    assert (sum_of_products["shortest"], sum_of_products["minimal"], sum_of_products["exact"]) == (1, 1.0, True)
    assert sum_of_products["input_sets"] == sum_of_products["sets_tried"] == 3 and sum_of_products["sets_as_good"] == 0
    told = (
        "is the only sum of products from which nothing can be left out. Of 3 other sets of as many inputs 0 do (0 %)"
    )
    assert any(told in finding for finding in of_every.findings)
    assert "As a product of sums: (" in of_every.figures["karnaugh act:0"].reading


def test_the_truth_table_holds_every_training_image_and_the_expression_equals_it(of_every: Result) -> None:
    table = of_every.tables["truth_tables"]
    assert table["fired"].sum() + table["rested"].sum() == IMAGES // 2
    assert table.height == 8 and set(table["majority"]) == {"fires", "rests"}
    assert (table["expression"] == (table["majority"] == "fires")).all()
    inputs = dict(of_every.tables["inputs"].select("letter", "input").rows())
    for row in table.to_dicts():
        on = {name.removeprefix("relu:") for name, bit in zip(inputs.values(), row["cell"], strict=True) if bit == "1"}
        assert row["expression"] == (("0" in on and "1" not in on) or "2" in on)


def test_the_two_patterns_of_a_known_unit_are_its_facets(net: Network, apart: Samples) -> None:
    result = facets(net, apart, units=("act:0",), stimuli=110, firing_rate=0.0)
    table = result.tables["facets"]
    assert table["stimuli"].to_list() == [60, 50] and table["inputs"].to_list() == ["relu:0", "relu:2"]
    assert table["top_class"].to_list() == ["left", "right"] and (table["silhouette"] > 0.7).all()
    stimuli = result.tables["stimuli"]
    truth = apart.labels[stimuli["image"].to_numpy()] == 1
    assert ((stimuli["facet"].to_numpy() == 2) == truth).all()
    assert (stimuli["value"].to_numpy()[1:] <= stimuli["value"].to_numpy()[:-1]).all()
    assert result.findings[0] == "1 of 1 unit responds to several patterns: act:0 (2)."
    assert result.findings[1].startswith("act:0 responds to 2 patterns: 60 images driven by relu:0 (all of class left)")
    assert " and 50 images driven by relu:2 (all of class right) (dip test, p" in result.findings[1]


def test_stimuli_are_the_strongest_of_the_plain_module_at_their_places(net: Network, of_every: Result) -> None:
    stimuli = of_every.tables["stimuli"]
    combinations = np.array([[n >> 2 & 1, n >> 1 & 1, n & 1] for n in range(8)], bool)
    samples = patterned(combinations[np.random.default_rng(1).integers(0, 8, IMAGES)])
    module = net.module
    assert isinstance(module, Known)
    (batch,) = samples.batches(net.preprocessing, IMAGES)
    with torch.no_grad():
        maps = module.unit(module.relu(module.norm(module.detect(batch.images))))[:, 0].flatten(1)
    best = maps.amax(1).sort(descending=True).values[: stimuli.height]
    assert stimuli["value"].to_list() == pytest.approx(best.tolist(), rel=1e-5)
    at = maps[stimuli["image"].to_list(), stimuli["place"].to_list()]
    assert at.tolist() == pytest.approx(stimuli["value"].to_list(), rel=1e-5)


def test_a_unit_with_one_pattern_has_one_facet_only(net: Network, apart: Samples) -> None:
    result = facets(net, apart, units=("act:1",), stimuli=60, firing_rate=0.0)
    assert result.tables["facets"]["stimuli"].to_list() == [60]
    assert result.tables["facets"]["silhouette"].to_list() == [None]
    assert result.findings[0].startswith("act:1 responds to one pattern: its top 60 images form one cluster (dip test")


def test_silent_and_constant_units_are_findings(net: Network, every: Samples) -> None:
    result = facets(net, every, units=("act:2", "act:3", "relu:0", "act:0:1:1"), firing_rate=0.0)
    text = " ".join(result.findings)
    assert "act:2 fires on 0 of 480 images" in text
    assert "act:3 has no Boolean account: it fires on 240 of 240 training" in text
    assert "relu:0 reads the image itself" in text
    assert result.tables["formulas"]["unit"].to_list() in ([], ["act:0:1:1"])


def test_a_unit_with_a_place_of_its_own_is_measured_there(net: Network) -> None:
    present = np.eye(4, dtype=bool)[np.random.default_rng(4).integers(0, 4, 400)][:, :3]
    generator = np.random.default_rng(5)
    pixels = generator.integers(0, 40, (400, SIZE, SIZE, 3), np.uint8)
    pixels[:, 2, 3] = np.where(present, 240, pixels[:, 2, 3])
    samples = Samples("fixed", ArrayImages(pixels), present[:, 2].astype(np.int64), CLASSES)
    here = facets(net, samples, units=("act:0:2:3",), firing_rate=0.0)
    # of these images no one tells A from A and B together, so NOT relu:1 may be missing
    assert here.tables["formulas"]["f1"].to_list() == [1.0]
    assert "act:0:2:3 fires on 0 of" not in " ".join(here.findings)
    assert set(here.tables["stimuli"]["place"]) == {2 * SIZE + 3}
    mostly_c = here.tables["facets"].filter(pl.col("top_class") == "right")["facet"].to_list()
    pushes = here.tables["drivers"].filter(pl.col("facet").is_in(mostly_c)).row(0, named=True)
    assert pushes["input"] == "relu:2" and pushes["push"] > 0.9, "what drives the unit is measured there too"
    there = facets(net, samples, units=("act:0:0:0",), firing_rate=0.0)
    assert there.findings == ["act:0:0:0 fires on 0 of 400 images; its facets need 10 or more."]


def test_training_and_held_out_images_share_none_and_keep_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [100, 60, 40]).astype(np.int64)
    train, test = split_images(labels, 150, 0.4, 3)
    assert not set(train) & set(test) and len(train) == 90 and len(test) == 60
    assert np.bincount(labels[test]).tolist() == [30, 18, 12]
    again = split_images(labels, 150, 0.4, 3)
    assert (again[0] == train).all() and (again[1] == test).all()
    assert not (split_images(labels, 150, 0.4, 4)[1] == test).all()


def test_held_out_images_play_no_part_in_the_account() -> None:
    generator = np.random.default_rng(6)
    value, strength = generator.standard_normal(200), generator.random((200, 5)).astype(np.float32)
    how = {"firing_rate": 0.3, "rectified": True, "most": 4, "seed": 0}
    one = account(value, strength, np.arange(5), 100, **how)
    value[100:], strength[100:] = value[:99:-1], strength[:99:-1].copy()
    other = account(value, strength, np.arange(5), 100, **how)
    assert not isinstance(one, str) and not isinstance(other, str)
    assert one.expression == other.expression and one.cuts == other.cuts and one.firing == other.firing


def test_a_score_is_precision_and_recall() -> None:
    predicted, fires = np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool)
    result = score(predicted, fires)
    assert (result.precision, result.recall, result.f1) == (pytest.approx(1 / 3), 0.5, pytest.approx(0.4))
    assert np.isnan(score(np.zeros(5, bool), fires).precision) and score(np.zeros(5, bool), fires).f1 == 0


def test_what_counts_as_firing() -> None:
    value = np.arange(-50.0, 50.0)
    assert (value > firing_value(value, 0.2, True)).mean() == pytest.approx(0.2)
    assert firing_value(value, 0.8, True) == 0.0 and firing_value(value, 0.8, False) < -20
    assert firing_value(value, 0.0, False) == 0.0


def test_only_so_many_images_are_kept_whatever_the_number_of_samples(net: Network, every: Samples) -> None:
    result = facets(net, every, units=("act:0",), images=100, stimuli=30, held_out=0.25)
    assert result.tables["formulas"]["images"].to_list() == [25]
    assert result.tables["stimuli"].height == 30
    counted = result.tables["truth_tables"].select((pl.col("fired") + pl.col("rested")).sum()).item()
    assert counted == 75


def test_units_choose_themselves(net: Network, every: Samples) -> None:
    before = net.digest
    result = facets(net, every, chosen=2, firing_rate=0.0)
    assert set(result.tables["facets"]["unit"]) <= {"act:0", "act:1", "act:3"}
    assert result.tables["facets"]["unit"].n_unique() == 2
    net.__dict__.pop("digest")
    assert net.digest == before
    again = facets(net, every, chosen=2, firing_rate=0.0)
    assert all(again.tables[name].equals(table) for name, table in result.tables.items())


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"units": ("nowhere:1",)}, UnknownLayer, "nearest"),
        ({"units": ("act:9",)}, UnknownLayer, "0 to 3"),
        ({"units": ("act",)}, SettingsError, "node:channel"),
        ({"layer": "nowhere"}, UnknownLayer, "nearest"),
        ({"chosen": 0}, SettingsError, "chosen"),
        ({"stimuli": 3}, SettingsError, "stimuli"),
        ({"inputs": 9}, SettingsError, "inputs"),
        ({"firing_rate": 1.0}, SettingsError, "firing_rate"),
        ({"held_out": 0.0}, SettingsError, "held_out"),
        ({"images": 5}, SettingsError, "images"),
        ({"alpha": -0.1}, SettingsError, "alpha"),
        ({"patches": True}, SettingsError, "patches"),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: dict[str, object], error: type[Exception], word: str, net: Network, every: Samples
) -> None:
    with pytest.raises(error, match=word):
        facets(net, every, **settings)


def test_a_network_of_one_layer_gets_a_finding(every: Samples) -> None:
    single = Network(
        "one", nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2)), Preprocessing(size=(SIZE, SIZE))
    )
    result = facets(single, every)
    assert len(result.findings) == 1 and "no layer" in result.findings[0]
    assert all(table.is_empty() for table in result.tables.values()) and "formulas" in result.tables


def test_activations_that_are_not_numbers_are_a_finding(every: Samples) -> None:
    broken = known()
    with torch.no_grad():
        broken.module.unit.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    text = " ".join(facets(broken, every, units=("act:0",)).findings)
    assert "act:0 fires on 0 of" in text


def test_pictures_and_maps_say_how_to_read_them(of_every: Result) -> None:
    import vl_convert

    (image,) = of_every.images.values()
    assert (
        image.pixels.dtype == np.uint8
        and image.pixels.shape[0] >= 90
        and image.alt
        and "row per facet" in image.reading
    )
    (figure,) = of_every.figures.values()
    assert "NOT" in figure.title and "relu:2" in figure.reading
    svg = vl_convert.vegalite_to_svg(figure.spec)
    counts = of_every.tables["truth_tables"]
    for fired, rested in counts.select("fired", "rested").rows():
        assert f">{fired}/{fired + rested}<" in svg


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3 * SIZE * SIZE, 30), nn.Linear(30, 20), nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x.flatten(1)).relu()).relu())


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.inner, self.outer, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.outer(nn.functional.gelu(self.inner(self.norm(tokens))))
        return self.head(tokens.mean(1))


@pytest.mark.parametrize("kind", [Perceptron, Tokens])
def test_neurons_and_tokens_are_treated(kind: type[nn.Module], every: Samples) -> None:
    torch.manual_seed(0)
    result = facets(Network("net", kind(), Preprocessing(size=(SIZE, SIZE))), every, chosen=2, stimuli=40)
    assert result.tables["facets"]["unit"].n_unique() == 2 and len(result.images) == 2
    assert result.tables["formulas"].height == 2
    assert result.tables["facets"].group_by("unit").agg(pl.col("stimuli").sum())["stimuli"].to_list() == [40, 40]


def test_few_images_give_facets_but_no_account(net: Network, every: Samples) -> None:
    text = " ".join(facets(net, every.subset(16), units=("act:3",)).findings)
    assert "act:3 responds to one pattern" in text
    assert "act:3 has no Boolean account: 16 images are too few" in text


def test_the_shipped_network_has_units_that_answer_to_two_digits() -> None:
    result = facets(shipped("a"), load_samples("digits"), chosen=1)
    table = result.tables["facets"]
    assert table.height == 2 and (table["top_class_share"] > 0.9).all()
    assert (result.tables["formulas"]["f1"] > result.tables["formulas"]["single_f1"]).all()


@pytest.mark.real
def test_a_unit_of_a_real_network_is_a_frog_or_ship_cell(shared: Path, tmp_path: Path) -> None:
    """The facets are found without the labels; that they are classes is the test."""
    packed = tmp_path / "test.npz"
    command = [sys.executable, shared / "data/unpack.py", "cifar10", "test", packed, "--sheets", "1"]
    subprocess.run(command, check=True, capture_output=True)
    samples = load_samples(packed)
    net = trained_resnet20(shared)
    table = facets(net, samples, units=("layer3.2.relu2:9",), images=200).tables["facets"]
    assert table["top_class"].to_list() == ["6", "8"]  # frogs, ships
    assert (table["top_class_share"] > 0.7).all()


def sentence_of(fires: Callable[[np.ndarray], np.ndarray], inputs: int) -> str:
    """What is said of a unit that fires where `fires` says so of every combination of its inputs."""
    bits = (np.arange(2**inputs)[:, None] >> np.arange(inputs) & 1).astype(bool)
    table, even, poor, zeros = truth_table(bits, fires(bits)), Score(0.9, 0.8), Score(0.5, 0.4), (0.0,) * inputs
    expression = minimise(table.majority)
    account = Account(tuple(range(inputs)), zeros, zeros, 0.0, table, expression, even, 0, False, poor, poor, 10, 0.5)
    return account_sentence("layer:1", account, [f"before:{k}" for k in range(inputs)], "before:0")


def test_an_expression_too_long_to_read_is_left_to_the_table() -> None:
    sentence = sentence_of(lambda bits: bits.sum(1) % 2 == 1, 5)  # the parity: no two products can be joined
    assert sentence.startswith("A sum of 16 products of 5 inputs (see the table `formulas`) predicts when")
    assert len(sentence) < 300


def test_an_expression_that_is_no_better_than_one_input_is_not_given() -> None:
    bits = np.array([[False, False], [True, False], [False, True], [True, True]])
    table, even = truth_table(bits, bits.all(1)), Score(0.9, 0.8)
    expression, zeros = minimise(table.majority), (0.0, 0.0)
    account = Account((0, 1), zeros, zeros, 0.0, table, expression, even, 0, False, even, even, 10, 0.5)
    sentence = account_sentence("layer:1", account, ["before:0", "before:1"], "before:0")
    assert sentence.startswith('"before:0" predicts when layer:1 fires, with precision 90 % and recall 80 %')
    assert "before:1" not in sentence and sentence.endswith("more inputs add nothing.")


def test_more_than_three_inputs_are_written_with_letters() -> None:
    assert "(with" not in sentence_of(lambda bits: bits.all(1), 3)
    assert "(with A = before:0, B = before:1, C = before:2, D = before:3)" in sentence_of(lambda bits: bits.all(1), 4)
