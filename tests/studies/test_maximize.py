"""The study `maximize`: what it measures, says and refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, load_network, load_samples, maximize, workspace
from netopsy.errors import NetopsyError, SettingsError, UnknownLayer
from netopsy.network.units import Unit
from netopsy.studies.maximize.ascend import Climb
from netopsy.studies.maximize.records import correlations, run_table
from netopsy.studies.maximize.target import candidate_nodes
from networks import Tokens, noise_images, shipped

SIZE = 12


def wrap(module: nn.Module) -> Network:
    return Network("test", module, Preprocessing(size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3))


@pytest.fixture(scope="module")
def net() -> Network:
    torch.manual_seed(5)
    return wrap(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 5))
    )


@pytest.fixture(scope="module")
def samples() -> Samples:
    return noise_images(40, SIZE, 5)


def images(network: Network, samples: Samples) -> Tensor:
    (batch,) = samples.batches(network.preprocessing, len(samples))
    return batch.images


@pytest.mark.parametrize("way", ["plain", "fourier"])
def test_the_strongest_samples_are_those_of_the_plain_module(way: str, net: Network, samples: Samples) -> None:
    result = maximize(net, samples, units=("3:2:1:4", "5:3"), way=way, steps=20, runs=2)
    layers = list(net.module.children())
    with torch.no_grad():
        before = nn.Sequential(*layers[:3])(images(net, samples))[:, 2]
        scores = net.module(images(net, samples))[:, 3]
    runs = result.tables["runs"]
    for row in runs.filter(pl.col("node") == "3").iter_rows(named=True):
        assert row["strongest"] == pytest.approx(before.max().item(), rel=1e-5)
        assert row["strongest_here"] == pytest.approx(before[:, 1, 4].max().item(), rel=1e-5)
        assert row["strongest_image"] == int(before.amax((1, 2)).argmax()) and row["climbed_at"] == "2"
    for row in runs.filter(pl.col("node") == "5").iter_rows(named=True):
        assert row["strongest"] == row["strongest_here"] == pytest.approx(scores.max().item(), rel=1e-5)
        assert row["ratio"] == pytest.approx(row["reached"] / scores.max().item(), rel=1e-5)
    assert runs["state"].to_list() == ["risen"] * 4 and runs["run"].to_list() == [0, 1, 0, 1]
    assert "reached more than the strongest of 40 images" in result.findings[0]
    steps = result.tables["steps"]
    assert steps.height == 4 * 20 and steps["step"].max() == 19
    assert set(result.images) == {"pictures", "unit 3:2", "unit 5:3"} and set(result.figures) == {"ascent"}
    assert set(runs["way"]) == set(steps["way"]) == {way}
    assert runs.select("node", "layer").unique(maintain_order=True).rows() == [("3", "2"), ("5", "5")]


def test_by_default_the_readable_pictures_come_first_and_those_of_the_paper_next_to_them(
    net: Network, samples: Samples
) -> None:
    units = ("3:2:1:4", "5:3", "5:1")
    result, plain, fourier = (
        maximize(net, samples, units=units, steps=20, **way)
        for way in ({}, {"way": "plain"}, {"way": "fourier", "runs": 1})
    )
    for name in ("runs", "steps"):  # each way does what it does alone
        assert result.tables[name].equals(pl.concat([fourier.tables[name], plain.tables[name]]))
    assert result.tables["runs"]["way"].to_list() == ["fourier"] * 3 + ["plain"] * 9
    keys = ["pictures", "pictures_plain", "unit 3:2", "unit 5:3", "unit 5:1"]
    assert list(result.images) == keys and list(result.figures) == ["ascent", "ascent_plain"]
    assert "Fourier" in result.images["pictures"].title and "plain" in result.images["pictures_plain"].title
    for one, other in (("pictures", fourier), ("pictures_plain", plain)):
        assert np.array_equal(result.images[one].pixels, other.images["pictures"].pixels)
    assert "3 of 3 runs of Fourier ascent" in result.findings[0] and "plain ascent: 9 of 9" in result.findings[0]
    assert sum(f.startswith("Other starts lead to") and "in plain ascent" in f for f in result.findings) == 1


@pytest.mark.parametrize("way", ["plain", "fourier"])
def test_a_unit_s_own_picture_is_its_best_without_frame_or_text(way: str, net: Network, samples: Samples) -> None:
    result = maximize(net, samples, units=("5:3",), way=way, steps=10, runs=2)
    image = result.images["unit 5:3"]
    assert image.pixels.shape == (SIZE, SIZE, 3) and image.zoom == 224 // SIZE
    shown = torch.from_numpy(image.pixels).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        value = net.module((shown - 0.5) / 0.25)[0, 3].item()
    assert value == pytest.approx(result.tables["runs"]["reached"].max(), rel=1e-4)


def test_the_start_kept_is_the_correlation_of_each_picture_with_its_own_start() -> None:
    lot = torch.Generator().manual_seed(0)
    starts, moves = (torch.rand(3, 3, 5, 5, generator=lot) * 255 for _ in range(2))
    pictures = torch.lerp(starts, moves, torch.tensor([0.2, 0.5, 0.9])[:, None, None, None])
    starts, pictures = starts.byte(), pictures.byte()
    zero = torch.zeros(3)
    climb = Climb(pictures=pictures, starts=starts, start=zero, reached=zero + 1, curve=zero[:, None], woken=zero == 0)
    target: Any = SimpleNamespace(unit=Unit("3", 2, (1, 4)), node="2")
    table = run_table([target], [climb], [None], steps=1)
    expected = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(starts, pictures, strict=True)]
    assert table["start_kept"].to_list() == pytest.approx(expected, abs=1e-5)
    alike = np.corrcoef(pictures.flatten(1))
    assert table["similarity"].to_list() == pytest.approx(((alike.sum(1) - 1) / 2).tolist(), abs=1e-5)


def test_the_channel_objective_is_compared_with_the_strongest_mean(net: Network, samples: Samples) -> None:
    row = (
        maximize(net, samples, units=("3:2",), way="plain", objective="channel", steps=3)
        .tables["runs"]
        .row(0, named=True)
    )
    with torch.no_grad():
        means = nn.Sequential(*list(net.module.children())[:3])(images(net, samples))[:, 2].mean((1, 2))
    assert row["strongest"] == row["strongest_here"] == pytest.approx(means.max().item(), rel=1e-5)
    assert row["strongest_image"] == int(means.argmax()) and row["unit"] == "3:2"


def test_without_settings_it_chooses_the_channels_that_the_samples_drive_hardest(
    net: Network, samples: Samples
) -> None:
    assert candidate_nodes(net) == {"3": 3, "5": 2}
    result = maximize(net, samples, way="plain", steps=2)
    with torch.no_grad():
        best, image = net.module(images(net, samples)).max(0)
    units = result.tables["runs"]["unit"].unique(maintain_order=True).to_list()
    assert 5 <= len(units) <= 10 and all(unit.endswith(":4:4") for unit in units[:-2])
    assert f"5:{int(best.argmax())}" in units[-2:]
    assert len({int(image[int(unit.split(":")[1])]) for unit in units[-2:]}) == 2
    text = " ".join(result.findings)
    assert "The units were chosen by the study" in text and "the centre of the map was taken" in text


def test_without_samples_it_says_that_it_compared_with_none(net: Network) -> None:
    result = maximize(net, steps=5, way="fourier")
    runs = result.tables["runs"]
    assert runs["strongest"].null_count() == runs["ratio"].null_count() == runs.height == 15
    text = " ".join(result.findings)
    assert "compared with none" in text and "covariance is unknown" in text and "strongest of" not in text


def test_units_that_get_no_gradient_are_not_called_maximised(samples: Samples) -> None:
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.bias.fill_(-1000.0)
    net = wrap(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AvgPool2d(8), nn.Flatten()))
    result = maximize(net, samples, way="plain")
    assert set(result.tables["runs"]["state"]) >= {"no gradient"}
    assert "got no gradient" in result.findings[0] and "not maxima of anything" in result.findings[0]
    assert not any("reached more than" in f and "4:" in f for f in result.findings)
    assert not any(name.startswith("unit 2:") for name in result.images)


def test_values_that_are_no_numbers_are_said_to_be(samples: Samples) -> None:
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.weight[1] = float("nan")
    network = wrap(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)))
    for way in ("plain", "fourier"):
        result = maximize(network, samples, units=("1:1", "1:2"), way=way, steps=3, runs=2)
        # 0 times a weight that is no number is none either: the other filters get no gradient
        assert result.tables["runs"]["state"].to_list() == ["not finite"] * 2 + ["no gradient"] * 2
        assert "2 runs of 1:1:5:5 met values that are no finite numbers" in result.findings[1]
    assert maximize(network, samples, way="plain", steps=2).tables["runs"].height  # whatever it chooses


@pytest.mark.parametrize("way", ["plain", "fourier"])
def test_tokens_and_perceptrons_are_treated(way: str, samples: Samples) -> None:
    tokens = maximize(wrap(Tokens(nn.GELU())), samples, way=way, steps=3).tables["runs"]
    # the token in the middle sees one patch of the image
    assert tokens["unit"][0].endswith(":4") and tokens.height == 3 * tokens["unit"].n_unique() >= 15
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 9), nn.ReLU(), nn.Linear(9, 5))
    runs = maximize(wrap(layers), samples, way=way, steps=3).tables["runs"]
    assert runs["node"].unique(maintain_order=True).to_list() == ["2", "3"] and (runs["state"] == "risen").all()


def test_the_same_seed_gives_the_same_tables(net: Network, samples: Samples) -> None:
    first, again, other = (
        maximize(net, samples, units=("3:1", "5:2"), way="fourier", steps=4, seed=seed) for seed in (0, 0, 1)
    )
    for name in ("runs", "steps"):
        assert first.tables[name].equals(again.tables[name]) and not first.tables[name].equals(other.tables[name])
    assert np.array_equal(first.images["pictures"].pixels, again.images["pictures"].pixels)


@pytest.mark.parametrize(("way", "images"), [("plain", 9), ("both", 12)])
def test_a_killed_study_goes_on_with_the_next_batch(way: str, images: int, net: Network, tmp_path: Path) -> None:
    study: dict[str, Any] = {"units": ("5:1", "3:2", "1:0"), "way": way, "steps": 5}
    whole = maximize(net, **study).tables["runs"]
    calls: list[int] = []

    def kill(label: str, done: int, total: int) -> None:
        if label == "maximize":
            calls.append(done)
            if done > total // 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, kill, every=0):
        maximize(net, **study)
    reached = max(calls)
    calls.clear()
    with workspace(tmp_path, lambda label, done, total: calls.append(done), every=0):
        again = maximize(net, **study).tables["runs"]
    assert again.equals(whole) and min(calls) > reached // 2 and max(calls) == images * 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"way": "adam"}, "plain, fourier"),
        ({"objective": "layer"}, "unit, channel"),
        ({"runs": 0}, "at least 1"),
        ({"steps": 0}, "at least 1"),
        ({"step_size": 0.0}, "above 0"),
        ({"step_size": float("nan")}, "above 0"),
        ({"diversity": -1.0}, "of at least 0"),
        ({"movement": 9.0}, "from 0 to 5"),
        ({"units": "5:1"}, "must be a tuple"),
        ({"units": ("5",)}, "node:channel"),
        ({"units": ("input:0",)}, "pixel"),
        ({"units": ("3:1:2:2",), "objective": "channel"}, "names a place"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str, net: Network) -> None:
    with pytest.raises(SettingsError, match=words):
        maximize(net, **settings)


@pytest.mark.parametrize("unit", ["nowhere:1", "3:6", "3:1:8:0", "5:0:1:1"])
def test_units_that_are_not_there_are_refused(unit: str, net: Network) -> None:
    with pytest.raises(UnknownLayer):
        maximize(net, units=(unit,))


def test_runs_are_compared_with_those_of_other_units_of_the_same_field(net: Network) -> None:
    runs = maximize(net, units=("5:1", "5:2", "3:0"), way="plain", steps=30, runs=2).tables["runs"]
    assert runs["similarity_others"].is_null().to_list() == [False] * 4 + [True] * 2
    # two scores of one small network are climbed by other pictures than one score twice
    assert (runs["similarity"] > runs["similarity_others"]).head(4).all()


def test_correlations_are_numpy_s() -> None:
    pictures = torch.randint(0, 256, (3, 3, 5, 6), dtype=torch.uint8)
    assert np.allclose(correlations(pictures).numpy(), np.corrcoef(pictures.flatten(1).numpy()))


def test_a_user_s_mistake_on_the_command_line_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from netopsy.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["maximize", "netopsy:digits_a", "--units", "fc:77"])
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("netopsy: no unit 77 in node 'fc'")


def test_on_the_shipped_network_three_runs_of_a_class_score_differ_and_beat_the_samples() -> None:
    network, digits = shipped("a"), load_samples("digits").subset(100)
    result = maximize(network, digits, units=("fc:7",), way="plain", steps=40)
    runs = result.tables["runs"]
    assert (runs["ratio"] > 1).all() and (runs["similarity"] < 0.5).all() and runs.height == 3
    assert any(f.startswith("Other starts lead to different pictures") for f in result.findings)


@pytest.mark.real
def test_squeezenet_s_pictures_excite_their_units_more_than_any_image(shared: Path) -> None:
    network = load_network(
        "torchvision:squeezenet1_1", weights=shared / "data/networks/imagenet-squeezenet1_1.safetensors"
    )
    folder = shared / "data/images/imagenet-sample"
    try:
        some = load_samples(folder, labels=folder / "labels.csv", count=30)
    except NetopsyError:
        pytest.skip("no folder of images")
    unit = "features.9.expand3x3_activation:7:6:6"
    for way in ("plain", "fourier"):
        runs = maximize(network, some, units=(unit,), way=way, steps=30, runs=2).tables["runs"]
        assert (runs["state"] == "risen").all() and (runs["ratio_here"] > 2).all()
