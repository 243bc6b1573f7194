"""The study `compression`: what it reports is what the file holds, and it chooses without the test images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from reference_compress import code_width, relative_bits, top1
from test_findings import check_findings
from torch import nn

from netopsy import Case, Network, Preprocessing, Result, Samples, compression, load_network, workspace
from netopsy.codec.file import read_compressed
from netopsy.deep_compression.compress import masks_at
from netopsy.engine.train.fit import fit
from netopsy.engine.train.recipe import Recipe
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.samples.images import ArrayImages
from netopsy.studies.compression.compression import DENSITIES, Compression, Training, lowest_within, sensitivity
from netopsy.wording import percent, points

STAGES = ["float32", "pruned", "shared", "shared, retrained", "file"]


def images(count: int, seed: int) -> Samples:
    """Grey 6x6 images of four classes: a bright quarter in noise."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, count)
    pixels = draw.integers(0, 120, (count, 6, 6, 1))
    for number, label in enumerate(labels):
        top, left = 3 * (label // 2), 3 * (label % 2)
        pixels[number, top : top + 3, left : left + 3] += 70
    return Samples(f"quarters {seed}", ArrayImages(pixels.astype(np.uint8)), labels, tuple("abcd"))


TRAIN, TEST = images(600, 0), images(200, 1)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 24), nn.ReLU(), nn.Linear(24, 4)
    )
    raw = Network("quarters", module, Preprocessing((6, 6), mean=(0.4,), std=(0.2,), channels="L"))
    return fit(raw, TRAIN, Recipe(epochs=6, learning_rate=0.02, batch_size=32)).network


@pytest.fixture(scope="module")
def result(network: Network) -> Result:
    return compression(
        network, TEST, train=TRAIN, density=("0.2", "0=0.5"), bits=("3",), rounds=2, epochs=(1, 2), share_epochs=1
    )


def file_of(result: Result) -> Path:
    (path,) = result.artifacts.values()
    return path


def test_the_last_row_is_the_plain_accuracy_of_the_network_in_the_file(network: Network, result: Result) -> None:
    table = result.tables["stages"]
    assert table["stage"].to_list() == STAGES
    (batch,) = TEST.batches(network.preprocessing, len(TEST))
    loaded = load_network(network.module, weights=file_of(result), **vars(network.preprocessing))
    for row, module in ((0, network.module), (-1, loaded.module)):
        assert table["top1"][row] == pytest.approx(top1(module, batch.images, batch.labels.tolist()))
    assert table["bytes"][-1] == file_of(result).stat().st_size
    values = sum(tensor.numel() for tensor in network.module.state_dict().values())
    assert table["bytes"][0] == 4 * values
    assert table["ratio"][-1] == pytest.approx(4 * values / file_of(result).stat().st_size)


def test_the_file_has_the_densities_and_the_numbers_of_values_asked_for(network: Network, result: Result) -> None:
    shared = read_compressed(file_of(result)).shared
    assert set(shared) == {layer.weight for layer in network.layers}
    for name, one in shared.items():
        expected = round((0.5 if name == "0.weight" else 0.2) * len(one.codes))
        assert one.kept == expected and len(one.table) <= 8 and one.zero is not None


def test_stages_between_are_counted_as_a_walk_over_the_weights_counts_them(network: Network, result: Result) -> None:
    shared = read_compressed(file_of(result)).shared
    weights = [one.decode().reshape(-1).tolist() for one in shared.values()]
    values = sum(tensor.numel() for tensor in network.module.state_dict().values())
    rest = 4 * (values - sum(map(len, weights)))
    tables = sum(4 * len(one.table) for one in shared.values())
    bytes_ = dict(result.tables["stages"].select("stage", "bytes").iter_rows())
    assert bytes_["pruned"] == pytest.approx(rest + sum(min(relative_bits(w, 32) / 8, 4 * len(w)) for w in weights))
    coded = rest + tables + sum(relative_bits(w, code_width(w)) for w in weights) / 8
    assert bytes_["shared"] == bytes_["shared, retrained"] == pytest.approx(coded)


def test_codes_are_counted_and_values_follow_their_codes(result: Result) -> None:
    for name, one in read_compressed(file_of(result)).shared.items():
        rows = result.tables["codes"].filter(pl.col("layer") == name.removesuffix(".weight"))
        assert rows["value"].to_list() == [float(value) for value in one.table]
        assert rows["weights"].to_list() == [int((one.codes == code).sum()) for code in range(len(one.table))]
        moved = result.tables["values"].filter(pl.col("layer") == name.removesuffix(".weight"))
        assert set(moved["after"]) == set(rows["value"]) and moved["weights"].sum() == len(one.codes)
        assert moved.filter(pl.col("before") == 0)["after"].to_list() == [0.0]
    assert (result.tables["values"]["before"] != result.tables["values"]["after"]).any()


def test_the_history_has_a_row_an_epoch_of_each_round(result: Result) -> None:
    assert result.tables["history"]["fit"].to_list() == ["prune 1", "prune 2", "prune 2", "share"]


def test_findings_repeat_the_tables(result: Result) -> None:
    size = file_of(result).stat().st_size
    last = result.tables["stages"].row(-1, named=True)
    assert f"{size:,} bytes" in result.findings[0] and f"1/{last['ratio']:.1f}" in result.findings[0]
    assert f" {percent(1 - last['top1'])}." in result.findings[1] and "on 200 images" in result.findings[1]
    assert f"{points(last['drop'])} (95 % interval" in result.findings[1]
    assert any("With Huffman coding the file would take" in sentence for sentence in result.findings)
    check_findings(result)
    assert set(result.figures) == {"sizes", "accuracy", "layers", "codes", "values", "centroids"}


def test_the_zeros_of_each_layer_are_its_measure(result: Result) -> None:
    shared = read_compressed(file_of(result)).shared
    expected = [float((one.decode() == 0).mean()) for one in shared.values()]
    assert result.measures["value"].to_list() == pytest.approx(expected)
    assert result.measures["layer"].to_list() == ["0", "4", "6"] and set(result.measures["measure"]) == {"prunable"}


def test_a_run_that_is_stopped_goes_on_to_the_same_file(network: Network, result: Result, tmp_path: Path) -> None:
    shown: list[str] = []

    def stop(label: str, done: int, total: int) -> None:
        if label == "share" and "prune, round 2 of 2" in shown:
            raise KeyboardInterrupt
        shown.append(label)

    settings = dict(density=("0.2", "0=0.5"), bits=("3",), rounds=2, epochs=(1, 2), share_epochs=1)
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, stop, every=0):
        compression(network, TEST, train=TRAIN, **settings)
    begun: list[tuple[str, int]] = []
    with workspace(tmp_path, lambda label, done, total: begun.append((label, done)), every=0):
        again = compression(network, TEST, train=TRAIN, **settings)
    assert file_of(again).read_bytes() == file_of(result).read_bytes()
    assert again.tables["stages"].equals(result.tables["stages"])
    assert not [done for label, done in begun if label.startswith("prune, round") and done == 0]


def test_the_network_is_left_as_it_was(network: Network, result: Result) -> None:
    now = Network("again", network.module, network.preprocessing).digest
    assert now == network.digest == result.provenance["network"]["digest"]


def test_without_retraining_nothing_is_trained_and_the_stages_say_so(network: Network) -> None:
    plain = compression(
        network, TEST, train=TRAIN, threshold=("0.5",), bits=("8",), rounds=1, epochs=(0,), share_epochs=0
    )
    assert plain.tables["stages"]["stage"].to_list() == ["float32", "pruned", "shared", "file"]
    assert "history" not in plain.tables and "values" not in plain.figures
    for name, one in read_compressed(file_of(plain)).shared.items():
        weight = network.tensors[name].detach().numpy()
        assert np.array_equal(one.decode() != 0, np.abs(weight) > 0.5 * weight.std())


def test_a_budget_is_a_number_of_points() -> None:
    for wrong in (-0.5, 100.5):
        with pytest.raises(SettingsError, match="budget"):
            Compression(budget=wrong)
    Compression(budget=100.0)


def test_a_budget_chooses_densities_on_training_images_alone(network: Network) -> None:
    settings = dict(budget=3.0, bits=("4",), rounds=1, epochs=(0,), share_epochs=0)
    one = compression(network, TEST, train=TRAIN, **settings)
    other = compression(network, images(50, 9), train=TRAIN, **settings)
    assert file_of(one).read_bytes() == file_of(other).read_bytes()
    scores = one.tables["sensitivity"]
    assert scores["images"].unique().to_list() == [600]
    for layer in network.layers:
        share = read_compressed(file_of(one)).shared[layer.weight]
        drops = {row["density"]: row["drop"] for row in scores.filter(pl.col("layer") == layer.name).to_dicts()}
        chosen = min(
            (d for d in DENSITIES if all(100 * drops[e] <= 3 for e in DENSITIES if e >= d)),
            default=1.0,
        )
        assert share.kept == round(chosen * len(share.codes))
    assert sum("on 600 training images" in finding for finding in one.findings) == 1


def test_a_density_below_one_that_loses_too_much_is_not_chosen() -> None:
    drops = [("a", 0.9, 0.0), ("a", 0.5, 0.02), ("a", 0.1, 0.0), ("b", 0.9, 0.011), ("b", 0.5, 0.0), ("all", 1.0, 0.0)]
    frame = pl.DataFrame(drops, schema=["layer", "density", "drop"], orient="row")
    assert lowest_within(frame, 1.0) == {"a": 0.9, "b": 1.0}
    assert lowest_within(frame, 2.0) == {"a": 0.1, "b": 0.5}


def test_each_round_prunes_the_same_share_of_what_is_left(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[dict[str, float]] = []

    def watched(network: Network, densities: dict[str, float]) -> dict[str, torch.Tensor]:
        rounds.append(densities)
        return masks_at(network, densities)

    monkeypatch.setattr("netopsy.studies.compression.compression.masks_at", watched)
    pruned, _ = Training(TRAIN, Recipe(), None).prune(network, {"0": 0.125, "4": 0.064, "6": 1.0}, 3, (0,))
    assert rounds == [
        pytest.approx(expected) for expected in ({"0": 0.5, "4": 0.4}, {"0": 0.25, "4": 0.16}, {"0": 0.125, "4": 0.064})
    ]
    assert [int((pruned.tensors[f"{name}.weight"] != 0).sum()) for name in ("0", "4", "6")] == [9, 197, 96]


def test_sensitivity_scores_one_layer_at_a_time(network: Network) -> None:
    scores = sensitivity(network, TEST, 0)
    row = scores.filter((pl.col("layer") == "6") & (pl.col("density") == 0.1)).row(0, named=True)
    weight = network.tensors["6.weight"].detach()
    cut = weight.abs().flatten().sort(descending=True).values[round(0.1 * weight.numel()) - 1]
    pruned = network.with_tensors({"6.weight": weight * (weight.abs() >= cut)})
    (batch,) = TEST.batches(network.preprocessing, len(TEST))
    assert row["top1"] == pytest.approx(top1(pruned.module, batch.images, batch.labels.tolist()))


def test_the_result_goes_into_a_case_with_its_file(result: Result, tmp_path: Path) -> None:
    case = Case(tmp_path / "case")
    case.add(result)
    loaded = case.load("compression")
    assert file_of(loaded).read_bytes() == file_of(result).read_bytes()
    assert json.loads(json.dumps(loaded.settings))["train"]["count"] == 600


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, SettingsError, "--train"),
        ({"train": TRAIN, "density": ("0.1",), "threshold": ("1",)}, SettingsError, "not both"),
        ({"train": TRAIN, "density": ("nosuch=0.1",)}, UnknownLayer, "nearest"),
        ({"train": TRAIN, "density": ("0.1",), "bits": ("conv=4",)}, SettingsError, "has no bits"),
        ({"train": TRAIN, "density": ("2",)}, SettingsError, "from 0 to 1"),
        ({"train": TRAIN, "rounds": 0}, SettingsError, "rounds"),
        ({"train": TRAIN, "epochs": ()}, SettingsError, "epochs"),
        ({"train": TRAIN, "epochs": (2, -1)}, SettingsError, "epochs"),
        ({"train": TRAIN, "epochs": (1, 2, 3), "rounds": 2}, SettingsError, "more than the 2 rounds"),
        ({"train": TRAIN, "bits": ("1.5",)}, SettingsError, "bits 1.5 for .* whole number"),
        ({"train": TRAIN, "teacher": 1.5}, SettingsError, "teacher"),
        ({"train": TRAIN, "other_dtype": "float8"}, SettingsError, "exact, float16"),
        ({"train": TRAIN, "start": "middle"}, SettingsError, "dp, linear"),
        ({"train": TRAIN, "dtype": "float8"}, SettingsError, "dtype 'float8'"),
        ({"train": TRAIN, "learning_rate": 0.0}, SettingsError, "learning_rate"),
        ({"train": TRAIN, "augment": "turn"}, SettingsError, "crop"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(
    network: Network, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compression(network, TEST, **settings)


def test_a_network_without_layers_gets_a_finding() -> None:
    bare = Network(
        "bare",
        nn.Sequential(nn.AvgPool2d(3), nn.Flatten()),
        Preprocessing((6, 6), mean=(0.4,), std=(0.2,), channels="L"),
    )
    result = compression(bare, TEST, train=TRAIN)
    assert result.findings == ["bare has no convolution or linear layer whose weights to share."] and not result.tables


def test_the_starts_of_kmeans_and_its_ends_lie_over_the_largest_layers_weights(
    network: Network, result: Result
) -> None:
    table = result.tables["centroids"]
    (layer,) = table["layer"].unique()
    row = result.tables["layers"].filter(pl.col("layer") == layer).row(0, named=True)
    coded = result.tables["layers"].filter(pl.col("bits_before").is_not_null() & (pl.col("layer") != "all"))
    assert row["kept"] == coded["kept"].max()
    codes = result.tables["codes"].filter((pl.col("layer") == layer) & (pl.col("value") != 0))
    linear = table.filter((pl.col("start") == "linear") & (pl.col("stage") == "start"))["value"].to_numpy()
    assert len(linear) == codes.height and np.allclose(np.diff(linear, 2), 0, atol=1e-6)
    values = result.tables["values"].filter((pl.col("layer") == layer) & (pl.col("before") != 0))
    ends = table.filter((pl.col("start") == "dp") & (pl.col("stage") == "after k-means"))
    assert ends["value"].to_list() == pytest.approx(sorted(values["before"].to_list()))
    trained = table.filter(pl.col("stage") == "after retraining")["value"].to_list()
    assert sorted(trained) == pytest.approx(sorted(values["after"].to_list()))
    errors = table.filter(pl.col("stage") == "after k-means")["error"]
    assert errors.min() >= ends["error"][0] * (1 - 1e-5) and errors.null_count() == 0  # type: ignore[operator]
    assert table.filter(pl.col("start") == "random")["draw"].n_unique() == 10
    assert "centroids" in result.figures and any(
        "times the least possible squared error from the linear start" in f for f in result.findings
    )
