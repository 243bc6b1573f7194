"""The study `stimuli`: against the plain module, hand-worked class make-ups, and networks whose units are known."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image as Picture
from scipy import stats
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, load_samples, stimuli, workspace
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.units import Unit
from netopsy.pictures.patches import patches, reconstructions, usable_rule, window
from netopsy.samples.images import ArrayImages
from netopsy.studies.stimuli import drawing
from netopsy.studies.stimuli.counting import chance, make_up
from netopsy.tallies.moments import ClassMeans
from networks import noise_images, shipped

SIZE, IMAGES = 12, 40


def opened(module: nn.Module) -> Network:
    return Network("test", module, Preprocessing(size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.5,) * 3))


def planted() -> Network:
    """Filter 1 is dead."""
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 6, 3)
    with torch.no_grad():
        conv.bias[:] = torch.tensor([0.0, -100.0, 1.0, 0.0, 0.1, 0.2])
    second = nn.Conv2d(6, 4, 3)
    with torch.no_grad():
        second.bias += 2
    head = [nn.MaxPool2d(2), second, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 5)]
    return opened(nn.Sequential(conv, nn.ReLU(), *head))


@pytest.fixture(scope="module")
def network() -> Network:
    return planted()


@pytest.fixture(scope="module")
def samples() -> Samples:
    return noise_images(IMAGES, SIZE, 5)


def values(network: Network, samples: Samples, upto: int) -> Tensor:
    """The plain module's activations behind its first `upto` modules."""
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        return network.module[:upto](batch.images)  # type: ignore[index]


@pytest.fixture(scope="module")
def result(network: Network, samples: Samples):
    return stimuli(network, samples)


def test_stimuli_are_those_of_the_plain_module(network: Network, samples: Samples, result) -> None:
    nodes = result.tables["units"]["node"].unique(maintain_order=True).to_list()
    assert len(nodes) == 3
    for node, upto in zip(nodes, (2, 5, 7), strict=True):
        plain = values(network, samples, upto)
        for channel in range(plain.shape[1]):
            rows = result.tables["stimuli"].filter((pl.col("node") == node) & (pl.col("channel") == channel))
            maps = plain[:, channel].flatten(1) if upto < 7 else plain[:, channel, None]
            best = maps.amax(1)
            order = sorted(range(IMAGES), key=lambda i, best=best: (-best[i].item(), i))[:9]
            order = [i for i in order if upto == 7 or best[i] > 0]
            assert rows["image"].to_list() == order
            assert rows["value"].to_list() == pytest.approx(best[order].tolist(), rel=1e-5)
            assert rows["rank"].to_list() == list(range(1, len(order) + 1))
            assert rows["class"].to_list() == [samples.classes[samples.labels[i]] for i in order]
            if upto < 7:
                width = plain.shape[-1]
                places = [divmod(int(maps[i].argmax()), width) for i in order]
                assert list(zip(rows["y"].to_list(), rows["x"].to_list(), strict=True)) == places
            else:
                assert rows["y"].null_count() == rows["x"].null_count() == len(order)


def test_a_dead_unit_has_no_stimuli_and_is_named(result) -> None:
    dead = result.tables["units"].filter(pl.col("stimuli") == 0)
    assert dead.select("node", "channel", "class", "share").rows() == [("1", 1, None, None)]
    assert any("1 of 15 units responds to none" in finding and "1 (1)" in finding for finding in result.findings)
    assert result.atlases["atlas"].units.filter((pl.col("node") == "1") & (pl.col("channel") == 1)).is_empty()


def test_selectivity_is_the_formula_on_the_plain_module(network: Network, samples: Samples, result) -> None:
    units = result.tables["units"]
    plain = values(network, samples, 2).double().mean((2, 3)).numpy()
    means = np.stack([plain[samples.labels == c].mean(0) for c in range(5)])
    for channel, row in enumerate(units.filter(pl.col("node") == "1").to_dicts()):
        column = np.sort(means[:, channel])
        if column[-1] == 0:
            assert row["selectivity"] is None
        else:
            a, b = column[-1], column[:-1].mean()
            assert row["selectivity"] == pytest.approx((a - b) / (a + b), rel=1e-5)
    assert units.filter(pl.col("node") == "6")["selectivity"].null_count() == 5, "a linear layer has no index"


def test_class_means_merge_and_reach_both_ends() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    activations = torch.tensor([[0.0, 2.0], [6.0, 2.0], [0.0, 2.0]]).repeat(2, 1)
    whole, first, second = (ClassMeans(labels, 4) for _ in range(3))
    whole.update(activations, torch.arange(6))
    first.update(activations[:2], torch.arange(2))
    second.update(activations[2:], torch.arange(2, 6))
    first.merge(second)
    for tally in (whole, first):
        assert tally.result().selectivity.tolist() == [1.0, 0.0]
        assert tally.result().images.tolist() == [2, 2, 2, 0]


def labelled(labels: np.ndarray, classes: int = 4) -> Samples:
    return Samples("x", ArrayImages(np.zeros((len(labels), 2, 2, 3), np.uint8)), labels, tuple("abcdefgh"[:classes]))


def test_make_up_is_counted_by_hand() -> None:
    samples = labelled(np.array([0, 0, 1, 2, 2, 2]))
    images = np.array([[0, 1, 2, 3], [3, 4, 5, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    excites = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    share, entropy, commonest = make_up(images, excites, samples)
    assert share.tolist()[:3] == [0.5, 1.0, 0.5] and np.isnan(share[3])
    assert entropy[:3] == pytest.approx([stats.entropy(c, base=2) for c in ([2, 1, 1], [3], [1, 1])])
    assert commonest.tolist() == [0, 2, 1, -1], "of equally common classes that of the stronger image"


def test_make_up_of_images_with_several_labels() -> None:
    samples = labelled(np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]], np.float32))
    share, entropy, commonest = make_up(np.array([[0, 1, 2]]), np.ones((1, 3), bool), samples)
    assert share[0] == pytest.approx(2 / 3) and commonest[0] == 0 and np.isnan(entropy[0])


def test_chance_is_the_known_expectation() -> None:
    """Two of two equal classes: alike with probability 499/999, so the share is 1 or 1/2."""
    samples = labelled(np.arange(1000) % 2)
    assert chance(samples, 2, 0) == pytest.approx(0.5 + 0.5 * 499 / 999, abs=0.03)
    assert chance(samples, 1, 0) == 1 and chance(labelled(np.zeros(5, int)), 9, 0) == 1


def tile(atlas, node: str, number: int) -> np.ndarray:
    sheet = atlas.sheets[node][0]
    pixels = np.asarray(Picture.open(io.BytesIO(sheet.data)).convert("RGB"))
    height, width = sheet.tile
    y, x = divmod(number, sheet.columns)
    return pixels[y * height : (y + 1) * height, x * width : (x + 1) * width]


def test_the_atlas_holds_the_patches_of_its_units(network: Network, samples: Samples, result) -> None:
    """Fields of 3 x 3 pixels lose nothing on a sheet."""
    atlas, table = result.atlases["atlas"], result.tables["stimuli"]
    channels = atlas.units.filter(pl.col("node") == "1")["channel"].to_list()
    assert channels == [0, 2, 3, 4, 5] and atlas.sheets["1"][0].count == 5 * 18
    for number, channel in enumerate(channels):
        rows = table.filter((pl.col("node") == "1") & (pl.col("channel") == channel)).to_dicts()
        for k, row in enumerate(rows):
            expected = samples.image(row["image"])[row["y"] : row["y"] + 3, row["x"] : row["x"] + 3]
            np.testing.assert_array_equal(tile(atlas, "1", number * 18 + k), expected)
    assert atlas.stimuli.select("node", "channel").unique().height == atlas.units.height


def test_what_comes_back_from_a_first_layer_is_its_filter(network: Network, samples: Samples) -> None:
    weight = network.module[0].weight.detach()[3]  # type: ignore[index]
    reach = weight.abs().flatten().quantile(0.995)
    expected = (128 + 127 * (weight.clamp(-reach, reach) / reach)).round().permute(1, 2, 0).numpy()
    units = [Unit("1", 3, (2, 4)), Unit("1", 3, (9, 9))]
    pictures = reconstructions(network, samples, units, [7, 7], window(network, "1"), "masked")
    for unit, picture in zip(units, pictures, strict=True):
        (batch,) = samples.batches(network.preprocessing, 1, order=[7])
        alive = network.module[:2](batch.images)[0, 3][unit.place] > 0  # type: ignore[index]
        np.testing.assert_allclose(picture, expected if alive else 128, atol=1)


def test_rules_fall_back_where_masked_meets_nothing() -> None:
    smooth = opened(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(400, 5)))
    linear = opened(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 5)))
    assert usable_rule(planted(), "4", (0, 0)) == "masked"
    assert usable_rule(smooth, "3", ()) == "guided"
    assert usable_rule(linear, "0", (0, 0)) == "gradient"


def test_findings_say_which_rule_was_used_instead(samples: Samples) -> None:
    linear = opened(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 5)))
    assert any("rule `gradient`" in finding for finding in stimuli(linear, samples).findings)
    plain = stimuli(linear, samples, reconstruct=False)
    assert not any("rule" in finding for finding in plain.findings)
    assert plain.atlases["atlas"].rules == {"0": "", "2": ""}
    assert plain.atlases["atlas"].sheets["0"][0].count == 4 * 9


class Windows(nn.Module):
    """The activation's rows are windows, four an image; the last layer's are images again, of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.act, self.head = nn.Conv2d(3, 8, 3, 3), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x.reshape(len(x), 8, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 8)
        return self.head(self.act(self.inner(x)).reshape(-1, 16, 8)).mean(1)


def test_rows_that_are_windows_are_left_out_and_tokens_are_not(samples: Samples) -> None:
    network = opened(Windows())
    result = stimuli(network, samples, most_units=3)
    assert any("Left out" in finding and "act" in finding for finding in result.findings)
    tokens = result.tables["stimuli"].filter(pl.col("node") == "head")
    assert tokens["channel"].n_unique() == 5 and tokens["y"].max() < 16 and tokens["x"].null_count() == tokens.height
    with pytest.raises(SettingsError, match="act"):
        stimuli(network, samples, layers=("act",))


def test_a_network_that_gives_nan_is_no_crash(samples: Samples) -> None:
    conv = nn.Conv2d(3, 3, 3)
    with torch.no_grad():
        conv.weight[1] = torch.nan
    network = opened(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(300, 5)))
    units = stimuli(network, samples).tables["units"]
    assert units.filter((pl.col("node") == "1") & (pl.col("channel") == 1))["stimuli"].to_list() == [0]


def test_one_image_and_layers_chosen_by_name(network: Network, samples: Samples) -> None:
    result = stimuli(network, samples.subset(1), layers=("3", "6"), most_units=2)
    assert result.tables["units"]["node"].unique(maintain_order=True).to_list() == ["4", "6"]
    assert result.tables["stimuli"]["rank"].max() == 1
    assert result.atlases["atlas"].units.group_by("node").len()["len"].max() == 2


@pytest.mark.parametrize(
    "settings", [{"top": 0}, {"most_units": -1}, {"tile": 2}, {"seed": -1}, {"most_classes": -1}, {"top": 101}]
)
def test_settings_are_checked(network: Network, samples: Samples, settings: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        stimuli(network, samples, **settings)


def test_unknown_layers_name_the_nearest(network: Network, samples: Samples) -> None:
    with pytest.raises(UnknownLayer, match="nearest"):
        stimuli(network, samples, layers=("nope",))


def test_the_network_is_unchanged_and_the_same_seed_gives_the_same(network: Network, samples: Samples, result) -> None:
    before = {name: tensor.clone() for name, tensor in network.tensors.items()}
    again = stimuli(network, samples)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.tensors.items())
    assert all(again.tables[name].equals(result.tables[name]) for name in result.tables)
    assert again.findings == result.findings


def test_outputs_of_the_digits_network_are_excited_by_their_own_digit() -> None:
    result = stimuli(shipped("a"), load_samples("digits"), layers=("fc",), reconstruct=False)
    assert result.tables["units"]["class"].to_list() == [str(digit) for digit in range(10)]
    assert result.tables["units"]["share"].min() == 1
    assert len(result.images) == 1 and result.images["stimuli"].pixels.dtype == np.uint8


def test_patches_of_an_unused_entry_are_gray(network: Network, samples: Samples) -> None:
    assert (patches(network, samples, {"1": ([-1], [-1])})["1"] == 128).all()


def test_few_images_a_class_silence_the_class_findings(network: Network) -> None:
    generator = np.random.default_rng(1)
    few = Samples(
        "few", ArrayImages(generator.integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)), np.arange(5), tuple("abcde")
    )
    sentences = stimuli(network, few, reconstruct=False).findings
    assert any("5 images of 5 classes" in finding for finding in sentences)
    assert not any("commonest" in finding or "one class" in finding for finding in sentences)


def same_pictures(one, other) -> bool:
    first, second = one.atlases["atlas"], other.atlases["atlas"]
    alike = first.sheets == second.sheets and first.rules == second.rules
    tables = all(one.tables[name].equals(other.tables[name]) for name in one.tables)
    return alike and tables and np.array_equal(one.images["stimuli"].pixels, other.images["stimuli"].pixels)


def test_a_killed_study_draws_only_the_nodes_that_it_had_not_finished(
    network: Network, samples: Samples, result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes: list[str] = []

    def back(network: Network, samples: Samples, units: list[Unit], *rest, **more) -> np.ndarray:
        nodes.append(units[0].node)
        return reconstructions(network, samples, units, *rest, **more)

    monkeypatch.setattr(drawing, "reconstructions", back)
    reports: list[int] = []

    def kill(label: str, done: int, total: int) -> None:
        if label == "reconstruct":
            reports.append(done)
            if done > total // 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, kill, every=3600):
        stimuli(network, samples)
    assert nodes == ["1", "4"]
    with workspace(tmp_path, lambda label, done, total: reports.append(total - done)):
        again = stimuli(network, samples)
    assert nodes == ["1", "4", "4", "6"] and reports[-1] == 0 and same_pictures(again, result)
    with workspace(tmp_path):
        assert same_pictures(stimuli(network, samples), result) and len(nodes) == 4
        stimuli(network, samples, tile=9)
    assert nodes[4:] == ["1", "4", "6"], "what depends on a setting is drawn anew"


def test_large_nodes_are_drawn_in_parts(
    network: Network, samples: Samples, result, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[int] = []

    def cut(network: Network, samples: Samples, expected, **more):
        parts.append(sum(len(images) for images, _ in expected.values()))
        return patches(network, samples, expected, **more)

    monkeypatch.setattr(drawing, "patches", cut)
    monkeypatch.setattr(drawing, "_BUDGET", 1)
    monkeypatch.setattr(drawing, "_SHEET", 1)
    again = stimuli(network, samples)
    assert max(parts) == 2 * 9 and sum(parts) == 14 * 9, "two units at a time"
    assert np.array_equal(again.images["stimuli"].pixels, result.images["stimuli"].pixels)
    assert again.atlases["atlas"].units.equals(result.atlases["atlas"].units)
    sheets, whole = again.atlases["atlas"].sheets["1"], result.atlases["atlas"]
    assert [sheet.count for sheet in sheets] == [18] * 5
    for number, sheet in enumerate(sheets):
        alone = replace(again.atlases["atlas"], sheets={"1": (sheet,)})
        for k in range(18):
            np.testing.assert_array_equal(tile(alone, "1", k), tile(whole, "1", number * 18 + k))


def test_large_networks_draw_fewer_units(network: Network) -> None:
    from netopsy.studies.stimuli.stimuli import Stimuli

    large = opened(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    large.__dict__["layers"] = (replace(large.layers[0], macs=10**10),)
    assert Stimuli()._most(network, 3) == 12 and Stimuli(most_units=0)._most(large, 50) == 0
    assert Stimuli()._most(large, 50) == 2 and Stimuli(reconstruct=False)._most(large, 50) == 12
