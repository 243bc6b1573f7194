"""The study `dsd`: its two ways, against each other and against `fit`; its figures of the weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import ttest_rel
from test_findings import check_findings
from test_train import noise, tiny

from netopsy import Network, Samples, examine, load_network, load_samples, score
from netopsy.deep_compression.compress import keep_share
from netopsy.engine.train.fit import fit
from netopsy.engine.train.recipe import Recipe
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.network import fresh
from netopsy.result import Result
from netopsy.studies.dsd.dsd import Dsd
from netopsy.studies.dsd.report import summary
from netopsy.studies.study import perform
from netopsy.studies.table import study_class
from netopsy.wording import points

QUICK = Dsd(train=noise(80), epochs=(1, 1, 1), learning_rate=0.05, batch_size=20, repeats=2, weight_decay=0.0)
FIVE = ["dense", "pruned", "sparse", "restored", "dense again"]


@cache
def result() -> Result:
    return perform(QUICK, tiny(), noise(60, seed=1))


def test_steps_hold_the_zeros_they_should() -> None:
    steps = result().tables["steps"]
    for seed in (0, 1):
        of_seed = steps.filter((pl.col("seed") == seed) & (pl.col("branch") == "dsd"))
        assert of_seed["step"].to_list() == FIVE and of_seed["epochs"].to_list() == [0, 0, 1, 1, 2]
        zeros = of_seed["zeros"].to_list()
        expected = (round(0.3 * 216) + round(0.3 * 360)) / 576
        assert zeros[0] == zeros[4] == 0 and zeros[1:4] == pytest.approx([expected] * 3)
        assert of_seed["loss"][2] == of_seed["loss"][3]  # restored weights are zeros
        base = steps.filter((pl.col("seed") == seed) & (pl.col("branch") == "baseline"))
        assert base["step"].to_list() == ["dense", "further", "end"] and base["zeros"].sum() == 0
        assert base["epochs"].to_list() == [0, 1, 2] and base["loss"][0] == of_seed["loss"][0]
    assert steps["images"].unique().to_list() == [60]


def test_findings_are_plain_and_weighted() -> None:
    check_findings(result())
    gain = result().tables["summary"].filter(pl.col("what") == "dsd - baseline").row(0, named=True)
    assert points(abs(gain["top1"])).lstrip("-") in result().findings[0]
    assert gain["low"] is None and gain["images_low"] <= gain["top1"] <= gain["images_high"]
    assert "Two seeds say too little" in result().findings[0] and result().findings[0].weight < 1  # type: ignore[attr-defined]


def test_the_way_is_that_of_fit_phase_by_phase() -> None:
    network, samples = tiny(), noise(60, seed=1)
    masks = {name: keep_share(network.tensors[name], 0.7) for name in ("conv.weight", "fc.weight")}
    pruned = network.with_tensors({name: network.tensors[name] * mask for name, mask in masks.items()})
    recipe = Recipe(epochs=1, batch_size=20, learning_rate=0.05, schedule="cosine", seed=1000)
    sparse = fit(pruned, QUICK.train, recipe, masks=masks).network
    dense = fit(sparse, QUICK.train, replace(recipe, learning_rate=0.005, seed=1001)).network
    steps = result().tables["steps"].filter((pl.col("seed") == 1) & (pl.col("branch") == "dsd"))
    for step, stage in (("pruned", pruned), ("sparse", sparse), ("dense again", dense)):
        row = steps.filter(pl.col("step") == step).row(0, named=True)
        expected = score(stage, samples).row(0, named=True)
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-6) and row["top1"] == expected["top1"]


def test_pruning_that_takes_nothing_is_the_baseline() -> None:
    """Both ways share all but the mask: where it holds no zero, they end alike to the bit."""
    result = perform(replace(QUICK, sparsity=("0.0001",), repeats=1), tiny(dropout=0.3), noise(60, seed=1))
    ends = result.tables["steps"].filter(pl.col("step").is_in(["dense again", "end"]))
    assert ends["loss"].n_unique() == 1 and ends.height == 2
    start = result.tables["steps"].filter(pl.col("step") == "dense")["loss"][0]
    assert abs(start - ends["loss"][0]) > 1e-3
    gain = result.tables["summary"].filter(pl.col("what") == "dsd - baseline").row(0, named=True)
    assert gain["top1"] == 0 and gain["spread"] is None and "nothing of the spread" in result.findings[0]


def test_history_has_every_epoch_and_ends_where_the_steps_do() -> None:
    tables = result().tables
    history = tables["history"]
    assert history.group_by("seed", "branch", maintain_order=True).agg("epoch")["epoch"].to_list() == [[1, 2]] * 4
    last = history.filter((pl.col("epoch") == 2) & (pl.col("branch") == "dsd")).sort("seed")
    end = tables["steps"].filter(pl.col("step") == "dense again").sort("seed")
    assert last["validation_top1"].to_list() == pytest.approx(end["top1"].to_list())
    assert last["phase"].to_list() == ["dense again"] * 2


def test_a_random_start_is_trained_first_and_shared_by_both_ways() -> None:
    result = perform(replace(QUICK, start="random", baseline="single"), tiny(), noise(60, seed=1))
    steps, history = result.tables["steps"], result.tables["history"]
    begins = steps.filter(pl.col("step") == "dense")
    assert begins.group_by("seed").agg(pl.col("loss").n_unique())["loss"].to_list() == [1, 1]
    assert begins["loss"].n_unique() == 2 and begins["epochs"].unique().to_list() == [1]
    assert steps.filter(pl.col("branch") == "baseline")["step"].to_list() == ["dense", "end"] * 2
    of_seed = history.filter(pl.col("seed") == 0)
    assert of_seed.filter(pl.col("branch") == "both")["epoch"].to_list() == [1]
    assert of_seed.filter(pl.col("branch") == "baseline")["epoch"].to_list() == [2, 3]
    rates = of_seed.filter(pl.col("branch") == "baseline")["rate"].to_list()
    assert 0.02 < rates[0] < 0.05 and rates[1] < 0.005  # one cosine over both epochs


def test_summary_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    rows = []
    top1 = {"dsd": generator.random(5), "baseline": generator.random(5)}
    for seed in range(5):
        rows += [{"seed": seed, "branch": b, "step": "dense", "top1": 0.5, "loss": 1.0} for b in ("dsd", "baseline")]
        rows.append({"seed": seed, "branch": "dsd", "step": "dense again", "top1": top1["dsd"][seed], "loss": 0.5})
        rows.append({"seed": seed, "branch": "baseline", "step": "end", "top1": top1["baseline"][seed], "loss": 0.7})
    table = {
        row["what"]: row
        for row in summary(pl.DataFrame(rows), {"dsd - baseline": [(-0.1, 0.3), (0.1, 0.5)]}).iter_rows(named=True)
    }
    interval_of_t = ttest_rel(top1["dsd"], top1["baseline"]).confidence_interval(0.95)
    gain = table["dsd - baseline"]
    assert (gain["low"], gain["high"]) == pytest.approx((interval_of_t.low, interval_of_t.high))
    assert gain["top1"] == pytest.approx((top1["dsd"] - top1["baseline"]).mean()) and gain["loss"] == pytest.approx(
        -0.2
    )
    assert table["dsd"]["spread"] == pytest.approx(np.std(top1["dsd"], ddof=1))
    assert (gain["images_low"], gain["images_high"]) == pytest.approx((0.0, 0.4))
    assert table["start"]["spread"] == 0 and table["start"]["images_low"] is None


def test_histograms_count_the_weights_that_there_are() -> None:
    bins = result().tables["histograms"]
    counts = bins.group_by("layer", "step", maintain_order=True).agg(pl.col("count").sum())
    pruned = {"conv": 216 - round(0.3 * 216), "fc": 360 - round(0.3 * 360)}
    for layer, step, count in counts.iter_rows():
        assert count == (pruned[layer] if step in ("pruned", "sparse") else {"conv": 216, "fc": 360}[layer])
    fc = bins.filter(pl.col("layer") == "fc")
    middle = fc.filter((pl.col("left") < 0) & (pl.col("right") > 0))
    counts_near_zero = dict(zip(middle["step"].to_list(), middle["count"].to_list(), strict=True))
    assert counts_near_zero["pruned"] == 0 and counts_near_zero["restored"] >= 108


def test_fresh_weights_are_drawn_by_the_seed_alone() -> None:
    network = tiny()
    state = torch.random.get_rng_state()
    one, again, other = (fresh(network, seed).module.state_dict() for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])

    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

    with pytest.raises(SettingsError, match="scale"):
        fresh(Network("bare", Bare(), network.preprocessing), 0)


def test_a_case_keeps_the_network_and_is_not_run_again(tmp_path: Path) -> None:
    network = load_network("netopsy:lenet5", weights="random", seed=1)
    train = load_samples("digits", split="train", count=100)
    samples = load_samples("digits", count=60)
    study = Dsd(train=train, epochs=(1, 1, 1), repeats=1, batch_size=50)
    case = examine(network, samples, studies=[study], out=tmp_path)
    result = case.load("dsd")
    loaded = load_network(result.artifacts["dsd.safetensors"])
    assert loaded.preprocessing == network.preprocessing and loaded.digest != network.digest
    expected = result.tables["steps"].filter(pl.col("step") == "dense again").row(0, named=True)
    assert score(loaded, samples)["loss"][0] == pytest.approx(expected["loss"], rel=1e-6)
    assert (tmp_path / "index.html").exists() and "weights features.0" not in result.findings
    assert sum(name.startswith("weights ") for name in result.figures) == 4


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"epochs": (1, 1)}, "epochs has 2 values; give 3"),
        ({"epochs": (1, 0, 1)}, "epochs 0 must be a whole number of at least 1"),
        ({"start": "given"}, "trained, random"),
        ({"baseline": "none"}, "phases, single"),
        ({"schedule": "plateau"}, "constant, step"),
        ({"dtype": "float8"}, "dtype 'float8'"),
        ({"repeats": 0}, "repeats 0"),
        ({"last_learning_rate": 0.0}, "last_learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"sparsity": ()}, "sparsity"),
    ],
)
def test_settings_out_of_range(settings: dict, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        replace(QUICK, **settings)


def test_what_cannot_be_run_is_said() -> None:
    samples: Samples = noise(20)
    with pytest.raises(SettingsError, match="--train"):
        perform(Dsd(), tiny(), samples)
    with pytest.raises(SettingsError, match="below 1"):
        perform(replace(QUICK, sparsity=("1.0",)), tiny(), samples)
    with pytest.raises(SettingsError, match="prunes no layer"):
        perform(replace(QUICK, sparsity=("0",)), tiny(), samples)
    with pytest.raises(UnknownLayer, match="conv"):
        perform(replace(QUICK, sparsity=("convv=0.3",)), tiny(), samples)
    assert study_class("dsd") is Dsd
