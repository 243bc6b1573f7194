"""The study `triage`: what it does to a network, its tables against their definitions, and how it goes on."""

from __future__ import annotations

import json
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from reference_triage import cochran_q, keras_plateau
from scipy.stats import spearmanr
from scipy.stats import t as student
from test_findings import check_findings
from torch import nn

from netopsy import Network, Preprocessing, Samples, load_network, load_samples, score
from netopsy.blocks.find import find_block
from netopsy.blocks.layer import new_layer
from netopsy.blocks.least_squares import least_squares
from netopsy.blocks.section import compressed_network, layer_path, section
from netopsy.engine.train.objective import plateau
from netopsy.engine.trials.pool import workers
from netopsy.engine.workspace.workspace import workspace
from netopsy.errors import NetworkError, SettingsError, UnknownLayer
from netopsy.result import Result
from netopsy.stats.hypothesis_tests import paired_difference, pattern_test, wilson
from netopsy.studies.study import perform
from netopsy.studies.table import study_class
from netopsy.studies.triage.combine import own_pattern, patterns
from netopsy.studies.triage.figures import GREEN, RED, map_rows, marked
from netopsy.studies.triage.findings import critical
from netopsy.studies.triage.run import run_design
from netopsy.studies.triage.tables import epochs_to_99
from netopsy.studies.triage.triage import Triage
from treatable import obstacles


class Small(nn.Module):
    """Two blocks of two convolutions and one of a single one, each before a pooling; its maps are 8x8."""

    def __init__(self) -> None:
        super().__init__()
        width = 4
        for name, count in (("a", 2), ("b", 2), ("c", 1)):
            block = nn.Sequential()
            for i in range(count):
                block.add_module(f"conv{i}", nn.Conv2d(1 if (name, i) == ("a", 0) else width, width, 3, padding=1))
                block.add_module(f"bn{i}", nn.BatchNorm2d(width))
                block.add_module(f"relu{i}", nn.ReLU())
            block.add_module("pool", nn.MaxPool2d(2))
            self.add_module(name, block)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.c(self.b(self.a(x))).flatten(1))


@cache
def small() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Network("small", Small(), Preprocessing(size=(8, 8), mean=(0.3,), std=(0.3,), channels="L"))


@cache
def digits(split: str, count: int) -> Samples:
    return load_samples("digits", split=split, count=count)


def quick(**settings: object) -> Triage:
    plain = {"epochs": 2, "stn_epochs": 1, "repeats": 2, "augment": "none", "batch_size": 40, "learning_rate": 0.02}
    return Triage(
        **{
            "train": digits("train", 80),
            "starts": ("RW", "STN"),
            "matching_images": 20,
            "pictures": 3,
            "networks": "none",
            **plain,
            **settings,
        }
    )  # type: ignore[arg-type]


@cache
def result() -> Result:
    return perform(quick(deeper=True, max_drop=100.0), small(), digits("test", 60))


def tables(result_of_run: Result) -> dict[str, list[dict]]:
    """All that the same seed must give again: tables without the seconds."""
    return {name: frame.drop("seconds", strict=False).to_dicts() for name, frame in result_of_run.tables.items()}


def alike(a: Result, b: Result) -> bool:
    return json.dumps(tables(a), default=str) == json.dumps(tables(b), default=str) and a.findings == b.findings


def test_every_cell_is_there_and_the_network_is_left_alone() -> None:
    before = {name: tensor.clone() for name, tensor in small().tensors.items()}
    cells = result().tables["cells"]
    assert cells.height == 2 * 2 * 2 * 2 and cells["status"].unique().to_list() == ["done"]
    assert cells["block"].unique(maintain_order=True).to_list() == ["a", "b"]
    assert all(before[name].equal(tensor) for name, tensor in small().tensors.items())
    assert not small().module.training


def test_findings_are_plain_and_weighted() -> None:
    check_findings(result(), most=12)


def test_accuracies_and_intervals_are_their_definitions() -> None:
    outcome = result()
    history, base = outcome.tables["history"], outcome.tables["baselines"]
    expected = score(small(), digits("test", 60)).row(0, named=True)
    assert base["top1"].to_list() == [expected["top1"]] * 2
    for row in outcome.tables["cells"].iter_rows(named=True):
        keys = ("seed", "block", "start", "training")
        accuracies = history.filter([pl.col(key) == row[key] for key in keys])["validation_top1"].to_list()
        assert len(accuracies) == 2 and row["best"] == max(accuracies) and row["top1"] == pytest.approx(accuracies[-1])
        assert row["drop"] == pytest.approx(expected["top1"] - row["top1"])
        assert (row["top1_low"], row["top1_high"]) == wilson(round(60 * row["top1"]), 60)
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
        assert row["epochs_to_99"] == epochs_to_99(accuracies)


def test_sizes_are_those_of_the_compressed_network() -> None:
    cells = result().tables["cells"]
    for name in ("a", "b"):
        block = find_block(small(), name)
        compressed = compressed_network(small(), [(block, new_layer(small(), block, 0))])
        row = cells.filter(pl.col("block") == name).row(0, named=True)
        assert row["parameters"] == compressed.parameters
        assert row["macs"] == sum(layer.macs for layer in compressed.layers)
        assert row["share"] == pytest.approx(compressed.parameters / small().parameters)
    blocks = result().tables["blocks"].filter(pl.col("block") == "a").row(0, named=True)
    assert blocks["parameters"] == 4 * 9 + 4 + 16 * 9 + 4 + 16 and blocks["new_parameters"] == 4 * 9 + 4 + 8


def test_epochs_to_within_one_per_cent_of_the_best() -> None:
    assert epochs_to_99([0.5, 0.989, 0.991, 1.0, 0.2]) == 3  # 0.989 is below 0.99
    assert epochs_to_99([0.3]) == 1 and epochs_to_99([0.0, 0.0]) == 1


def test_frozen_training_leaves_all_else_bit_for_bit() -> None:
    """By the trained state itself: the whole network of an FM cell differs from its parent in the new layer alone."""
    from netopsy.blocks.training import train_module
    from netopsy.studies.triage.work import parts_outside

    network, block = small(), find_block(small(), "b")
    module = section(network, replaced=[(block, new_layer(network, block, 0))])
    recipe = quick().recipe_for(0, 2)
    frozen = parts_outside(module, [block])
    assert not any(name.startswith(layer_path(block)) for name in frozen)
    state = train_module(
        module, digits("train", 80), recipe, spec={}, preprocessing=network.preprocessing, frozen=frozen
    ).state
    prefix = f"{layer_path(block)}."
    assert any(name.startswith(prefix) for name in state)
    for name, value in state.items():
        same = value.equal(dict(module.state_dict())[name])
        assert same != name.startswith(prefix) or name.endswith("num_batches_tracked")


def test_stored_values_give_what_the_images_give() -> None:
    stored = tables(result())["cells"]
    plain = tables(perform(quick(deeper=True, max_drop=100.0, storage=0.0), small(), digits("test", 60)))["cells"]
    for a, b in zip(stored, plain, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3), (a, b)
        assert abs(a["top1"] - b["top1"]) <= 1 / 60


def test_a_single_convolution_fitted_by_least_squares_costs_nothing() -> None:
    """`c` is one convolution: its least-squares fit is itself, so no image is lost before the training."""
    block = find_block(small(), "c.conv0:c.relu0")
    layer = new_layer(small(), block, 0)
    fit = least_squares(small(), block, layer, digits("train", 80))
    assert fit["r2"] == pytest.approx(1, abs=1e-4)
    again = compressed_network(small(), [(block, layer)])
    images = next(digits("test", 60).batches(small().preprocessing, 60)).images
    with torch.no_grad():
        assert again.module.eval()(images) == pytest.approx(small().module(images), abs=1e-3)
    result = perform(
        quick(
            blocks=("c.conv0:c.relu0",),
            starts=("LSQ",),
            training=("FM",),
            learning_rate=1e-7,
            min_learning_rate=1e-7,
            repeats=1,
        ),
        small(),
        digits("test", 60),
    )
    row = result.tables["cells"].row(0, named=True)
    assert row["drop"] == 0 and row["matched_correlation"] > 0.95 and "criticality" in result.tables


@pytest.mark.parametrize(("least", "blind"), [(0.02, True), (0.015, False)])
def test_what_so_few_seeds_cannot_show_is_said(least: float, blind: bool) -> None:
    """Three tests under Holm: the smallest p that can come out is three times the smallest of one."""
    row = {"over": "seeds (permutation)", "start": "RW", "training": "TM", "spread": 0.1, "count": 3, "p": 0.5}
    row |= {"least_critical": "a", "most_critical": "b", "p_holm": 1.0, "least_p": least, "detectable": 0.2}
    (message,) = critical(pl.DataFrame([row] * 3))
    assert ("no p could have come below 0.05" in message) == blind


def test_the_tests_of_criticality_are_over_the_cells() -> None:
    criticality = result().tables["criticality"]
    assert criticality.height == 4 * (2 + 1) + 1
    seeds = criticality.filter(pl.col("over") == "seeds (permutation)")
    cells = result().tables["cells"]
    together = criticality.filter(pl.col("start") == "all").row(0, named=True)
    means = cells.group_by("block").agg(pl.col("top1").mean())["top1"]
    assert together["spread"] == pytest.approx(means.max() - means.min()) and together["p"] >= together["least_p"]
    for row in seeds.iter_rows(named=True):
        of_way = cells.filter((pl.col("start") == row["start"]) & (pl.col("training") == row["training"]))
        means = of_way.group_by("block").agg(pl.col("top1").mean())["top1"]
        assert row["spread"] == pytest.approx(means.max() - means.min()) and row["least_p"] == 0.5
    run = run_design(
        quick().design,
        small(),
        digits("train", 80),
        digits("test", 60),
        blocks=None,
        control=True,
        max_drop=None,
        storage=2e10,
    )
    compared = {}
    for seed, start, training in (
        criticality.filter(seed=pl.col("seed")).select("seed", "start", "training").iter_rows()
    ):
        way = seed, start, training
        of_way = [t.right for t in run.cells if tuple(t.spec[key] for key in ("seed", "start", "training")) == way]
        row = criticality.filter(seed=seed, start=start, training=training)
        compared[way] = row["statistic"][0], cochran_q(np.stack(of_way, 1))
    assert all(actual == pytest.approx(expected) for actual, expected in compared.values())
    assert any(expected > 0 for _, expected in compared.values())
    right = [t.right for t in run.cells if (t.spec["seed"], t.spec["start"], t.spec["training"]) == (1, "RW", "TM")]
    base = run.baselines[0].right
    cell = cells.filter((pl.col("seed") == 1) & (pl.col("start") == "RW") & (pl.col("training") == "TM")).row(
        0, named=True
    )
    losses, gains = (base & ~right[0]).sum(), (~base & right[0]).sum()
    assert (cell["drop_low"], cell["drop_high"]) == paired_difference(losses, gains, 60)


def test_deeper_goes_from_the_least_critical_block_to_all() -> None:
    deeper, summary = result().tables["deeper"], result().tables["summary"]
    assert deeper["compressed"].to_list() == [1, 2] and deeper["blocks"].to_list()[1] == "a + b"
    way = (deeper["start"][0], deeper["training"][0])
    of_way = summary.filter((pl.col("start") == way[0]) & (pl.col("training") == way[1])).sort("drop")
    assert deeper["blocks"][0] == of_way["block"][0] and deeper["drop"][0] == pytest.approx(of_way["drop"][0])
    assert deeper["parameters"][1] < deeper["parameters"][0] < small().parameters
    halted = perform(quick(deeper=True, max_drop=0.0, starts=("RW",), training=("FM",)), small(), digits("test", 60))
    assert halted.tables["deeper"].height == (1 if halted.tables["deeper"]["drop"][0] > 0 else 2)


@pytest.mark.parametrize(("patience", "cooldown"), [(1, 3), (1, 0), (2, 1), (3, 2)])
def test_the_plateau_is_that_of_keras(patience: int, cooldown: int) -> None:
    generator = np.random.default_rng(0)
    study = quick(patience=patience, cooldown=cooldown, factor=0.7, learning_rate=0.1, min_learning_rate=0.005)
    recipe = study.recipe_for(0, 40)
    for _ in range(20):
        losses = (np.linspace(1, 0.6, 40) + 0.2 * generator.random(40)).tolist()
        expected = keras_plateau(losses, 0.7, patience, cooldown, 0.05)
        rates = [plateau(losses[:n], recipe.factor, recipe.patience, recipe.cooldown, recipe.final) for n in range(40)]
        assert rates == pytest.approx(expected)


def test_a_run_that_diverges_is_a_row_with_its_reason() -> None:
    result = perform(quick(stn_learning_rate=1e30, repeats=1, training=("TM",)), small(), digits("test", 60))
    cells = {(r["block"], r["start"]): r for r in result.tables["cells"].iter_rows(named=True)}
    assert cells["a", "RW"]["status"] == "done" and cells["a", "RW"]["top1"] is not None
    failed = cells["b", "STN"]
    assert failed["status"] == "diverged" and failed["top1"] is None and "diverged" in failed["reason"]
    assert any("2 of 4 compressed networks failed" in finding for finding in result.findings)
    assert "accuracy" in result.figures
    none = perform(quick(learning_rate=1e30, repeats=1, control=False), small(), digits("test", 60))
    assert set(none.tables["cells"]["status"]) == {"diverged"} and not none.figures


def test_a_baseline_trained_from_scratch_belongs_to_its_seed() -> None:
    result = perform(
        quick(network_start="random", baseline_epochs=2, blocks=("a",), starts=("RW",), training=("FM",)),
        small(),
        digits("test", 60),
    )
    base = result.tables["baselines"]
    assert base["epochs"].to_list() == [2, 2] and base["loss"].n_unique() == 2
    history = result.tables["history"].filter(pl.col("training") == "baseline")
    assert history["epoch"].to_list() == [1, 2, 1, 2] and history["seed"].to_list() == [0, 0, 1, 1]
    assert base["further"].is_not_null().all()


def test_the_same_seed_gives_the_same_tables_also_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """What no trial survives."""

    from netopsy.studies.triage import work as module

    whole = result()  # before the calls are counted
    calls, real = [], module.right

    def dying(*given: object) -> object:
        calls.append(given)
        if len(calls) == 6:
            raise Killed
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "right", dying)
        with workspace(tmp_path), pytest.raises(Killed):
            perform(quick(deeper=True, max_drop=100.0), small(), digits("test", 60))
    counted = []
    monkeypatch.setattr(module, "right", lambda *given: counted.append(1) or real(*given))
    with workspace(tmp_path):
        again = perform(quick(deeper=True, max_drop=100.0), small(), digits("test", 60))
    assert alike(again, whole)
    trials = 1 + 2 + 16 + 2  # baseline, controls, cells, the second step of deeper
    assert len(counted) == trials - 5  # five were scored before the kill
    assert not (tmp_path / "triage-stored").exists()


def test_networks_without_blocks_are_told_so() -> None:
    flat = Network("flat", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), small().preprocessing)
    result = perform(quick(), flat, digits("test", 60))
    assert not result.tables and "no block of two or more layers" in result.findings[0]
    assert "block" in str(obstacles(flat, "triage")) and obstacles(small(), "triage") is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"starts": ("RW", "XW")}, "RW, MW, STN, LSQ"),
        ({"starts": ()}, "starts is empty"),
        ({"training": ("FM", "FM")}, "twice"),
        ({"blocks": ()}, "blocks"),
        ({"network_start": "given"}, "trained, random"),
        ({"min_learning_rate": 1.0}, "min_learning_rate"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"dtype": "float8"}, "dtype"),
        ({"matching_images": 1}, "matching_images"),
        ({"storage": -1.0}, "storage"),
        ({"stn_loss": "mae"}, "mse, sse"),
    ],
)
def test_settings_out_of_range(settings: dict, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        quick(**settings)


def test_what_cannot_be_run_is_said() -> None:
    with pytest.raises(SettingsError, match="--train"):
        perform(Triage(), small(), digits("test", 60))
    with pytest.raises(UnknownLayer):
        perform(quick(blocks=("nosuch",)), small(), digits("test", 60))
    assert study_class("triage") is Triage


@pytest.mark.slow
def test_workers_give_the_same_tables() -> None:
    study = quick(blocks=("a",), repeats=1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = perform(study, small(), digits("test", 60))
        with workers(2, threads=1):
            assert alike(perform(study, small(), digits("test", 60)), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_compressed_network_is_a_file_that_opens_and_goes_on_to_compression(whole: bool, tmp_path: Path) -> None:
    """Its score, weights, input and layers are those of the run, and so is what its weights as shared ones give."""
    settings = {"max_drop": 100.0, "repeats": 1, "starts": ("LSQ",), "control": False, "pictures": 0, "epochs": 1}
    part = {"training": ("FM",), "blocks": ("a",)}
    with workspace(tmp_path):
        study = quick(**settings, networks="all", bits=("3",), deeper=whole, **({} if whole else part))
        done = perform(study, small(), digits("test", 60))
    sizes, cells = done.tables["sizes"], done.tables["cells"]
    names = sorted(name for name in done.artifacts if name.endswith(".pt2"))
    assert len(names) == cells.height + whole and names[-1].startswith("deeper2") == whole
    for row in sizes.filter(pl.col("block").is_in(["a", "b"]), weights="as trained").iter_rows(named=True):
        cell = cells.filter(**{key: row[key] for key in ("block", "start", "training", "seed")}).row(0, named=True)
        assert (row["top1"], row["drop_low"]) == (cell["top1"], cell["drop_low"])
    for name in names:
        network = load_network(done.artifacts[name])
        row = sizes.filter(file=name, weights="as trained").row(0, named=True)
        assert network.preprocessing == small().preprocessing
        assert score(network, digits("test", 60))["top1"].item() == row["top1"]
        assert row["bytes"] == sum(t.numel() * t.element_size() for t in network.tensors.values())
        assert row["share"] == row["bytes"] / sizes["bytes"][0] < 1
    network = load_network(done.artifacts["a.FM-LSQ.seed0.pt2"])
    assert [layer.name for layer in network.layers] == ["a.conv", "b.conv0", "b.conv1", "c.conv0", "fc"]
    assert all(torch.equal(network.tensors[k], v) for k, v in small().tensors.items() if k.startswith(("b.", "c.")))
    shared = sizes.filter(weights="shared weights")
    assert shared["block"].to_list() == [*(["a", "b"] if whole else ["a"]), "uncompressed"] and shared["best"].all()
    row = shared.row(0, named=True)
    path = done.artifacts[row["file"]]
    coded = load_network(path)  # opens where its program lies beside it
    assert row["bytes"] == path.stat().st_size and score(coded, digits("test", 60))["top1"].item() == row["top1"]
    assert all(len(coded.tensors[layer.weight].unique()) <= 8 for layer in coded.layers)
    program, elsewhere = path.with_name(path.name.replace(".netopsy.safetensors", ".pt2")), tmp_path / path.name
    path.rename(elsewhere)
    with pytest.raises(NetworkError, match="code of its own"):
        load_network(elsewhere)
    assert load_network(program, weights=elsewhere).digest == coded.digest
    assert "sizes" in done.figures and any("can be opened by load_network" in text for text in done.findings)
    check_findings(done, most=14)


def test_of_too_many_bytes_each_blocks_best_network_is_written() -> None:
    study = quick(repeats=1, epochs=1, networks="all", storage=1e-6, starts=("RW",), control=False, pictures=0)
    done = perform(study, small(), digits("test", 60))
    best = (
        done.tables["cells"]
        .group_by("block", maintain_order=True)
        .agg(pl.all().sort_by("top1", descending=True).first())
    )
    assert len(done.artifacts) == 2 and any("raise storage" in text for text in done.findings)
    assert done.tables["sizes"].filter(pl.col("block") != "uncompressed")["top1"].to_list() == best["top1"].to_list()
    assert not result().artifacts and "sizes" not in result().tables
    with pytest.raises(UnknownLayer, match="bits"):
        perform(quick(bits=("nosuch=3",)), small(), digits("test", 60))


def test_maps_are_marked_where_they_differ_from_the_parents() -> None:
    """A red frame from the correlation, a green circle at the place of the largest difference."""
    outcome = result()
    rows = outcome.tables["maps"]
    assert set(rows["block"]) == {"a", "b"} and rows["seed"].unique().to_list() == [0]
    assert rows.height == 2 * 4 * 3 and rows["channel"].unique().to_list() == [0, 1, 2]
    assert set(outcome.images) == {"maps a", "maps b"}
    parent = np.zeros((3, 4, 4), np.float32)
    parent[:, 1, 2], parent[1, 3, 3] = 2.0, 1.0
    new = parent.copy()
    new[1, 0, 1] = 1.5  # a source of activation that the parent has not
    new[2] = 0.0  # a constant map
    first, second, third = map_rows(parent, new, np.array([2, 0, 1]), np.array([1.0, 0.4, 0.0]))
    assert first["difference"] == 0 and first["pictured_correlation"] == pytest.approx(1) and first["partner"] == 2
    assert (second["y"], second["x"], second["difference"]) == (0, 1, 0.75)
    assert second["pictured_correlation"] == pytest.approx(np.corrcoef(parent[1].ravel(), new[1].ravel())[0, 1])
    assert third["pictured_correlation"] is None and (third["y"], third["x"], third["difference"]) == (1, 2, 1.0)
    square = np.full((64, 64, 3), 7, np.uint8)
    plain, both = (marked(square, row, (4, 4)) for row in (first, second))
    assert (plain == 7).all()
    red, green = ((both == colour).all(2) for colour in (RED, GREEN))
    assert red[63].all() and red[:, 63].all() and not red[10:50, 10:50].any()
    y, x = (values.mean() for values in np.nonzero(green))
    assert (y, x) == (pytest.approx(8, abs=1), pytest.approx(24, abs=1))  # the middle of the place (0, 1) of 4 x 4
    wide = marked(np.zeros((32, 64, 3), np.uint8), {**second, "y": 1, "x": 3}, (2, 4))
    y, x = (values.mean() for values in np.nonzero((wide == GREEN).all(2)))
    assert (y, x) == (pytest.approx(24, abs=1), pytest.approx(56, abs=1))


def pattern_results(patterns: dict[str, list[list[float]]], start: str = "random") -> dict[str, Result]:
    """Results of sets with what each block costs each seed."""
    results = {}
    for name, seeds in patterns.items():
        rows = [
            {"seed": seed, "block": f"block{i}", "start": way, "training": "FM", "drop": drop}
            for seed, drops in enumerate(seeds)
            for i, drop in enumerate(drops)
            for way in ("RW", "LSQ")
        ]
        results[name] = Result("triage", settings={"network_start": start}, tables={"cells": pl.DataFrame(rows)})
    return results


def test_whether_the_pattern_of_the_blocks_is_the_sets_own_is_tested() -> None:
    rising, falling = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]
    apart = pattern_results({"one": [rising] * 4, "other": [falling] * 4})
    rows = patterns(apart)
    assert rows.height == 8 * 4 and own_pattern(apart, rows)[0].startswith("The pattern of the blocks is the data set")
    assert "correlation of 1.00 in two networks of one set and -1.00" in own_pattern(apart, rows)[0]
    same = pattern_results({"one": [rising, falling, rising], "other": [rising, falling, falling]})
    assert "is undecided" in own_pattern(same, patterns(same))[0]
    given = pattern_results({"one": [rising] * 4, "other": [falling] * 4}, "trained")
    assert patterns(given).is_empty() and "was not tested" in own_pattern(given, patterns(given))[0]


def test_the_test_of_patterns_is_its_definition() -> None:
    generator = np.random.default_rng(3)
    values, groups = generator.normal(size=(7, 5)), ["a", "b", "a", "b", "b", "a", "a"]
    correlations = {(i, j): spearmanr(values[i], values[j]).statistic for i in range(7) for j in range(i)}

    def difference(names: tuple[str, ...], left_out: int | None = None) -> float:
        pairs = {k: v for k, v in correlations.items() if left_out not in k}
        within = [v for (i, j), v in pairs.items() if names[i] == names[j]]
        return float(np.mean(within) - np.mean([v for (i, j), v in pairs.items() if names[i] != names[j]]))

    found = pattern_test(values, groups)
    assert found is not None and found.difference == pytest.approx(difference(tuple(groups)))
    drawn = [difference(names) for names in set(permutations(groups))]
    assert len(drawn) == 35 and found.least_p == 1 / 35
    assert found.p == pytest.approx(np.mean(np.array(drawn) >= found.difference - 1e-12))
    left = np.array([difference(tuple(groups), i) for i in range(7)])
    half = student.ppf(0.975, 6) * np.sqrt(6 / 7 * ((left - left.mean()) ** 2).sum())
    assert (found.low, found.high) == pytest.approx((found.difference - half, found.difference + half))
    assert pattern_test(values[:4], list("abab")).low is None and pattern_test(values, ["a"] * 7) is None
    assert pattern_test(np.ones((4, 3)), list("aabb")) is None
