"""The study `transfer`: against LinearSVC and numpy, on features whose answer is known, and after a kill."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import reference_transfer as twin
import torch
import vl_convert
from test_findings import check_findings

import netopsy
from netopsy import Result, Samples, load_samples
from netopsy.cli import main
from netopsy.engine.workspace.workspace import workspace
from netopsy.errors import NetopsyError, SamplesError, SettingsError
from netopsy.examination import examine
from netopsy.features.features import Features
from netopsy.samples.images import ArrayImages
from netopsy.studies.transfer import chains, tables
from netopsy.studies.transfer.chains import drop_order
from netopsy.studies.transfer.figures import NAMES
from netopsy.studies.transfer.transfer import STRESSES, Transfer
from networks import shipped

FEW: dict[str, Any] = {"steps": 5, "levels": (2, 3, 8), "repeats": 2, "tolerance": 1e-9}


def make_features(
    n: int = 90, m: int = 120, p: int = 20, classes: int = 4, *, several: bool = False, seed: int = 0
) -> Features:
    """Rectified vectors about class centres that overlap; with `several` labels two of three classes a vector."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, p))
    parts: list[np.ndarray] = []
    for size in (n, m):
        y = np.arange(size) % classes
        targets = np.eye(classes, dtype=np.float32)[y]
        if several:
            targets = np.maximum(targets, (generator.random((size, classes)) < 0.25).astype(np.float32))
        x = np.maximum(targets @ centres + 1.1 * generator.normal(size=(size, p)), 0) * generator.uniform(
            1, 9, (size, 1)
        )
        parts += [x.astype(np.float32), targets if several else y.astype(np.int64)]
    return Features("made", parts[0], parts[1], parts[2], parts[3], tuple("abcdefgh"[:classes]))


def run(features: Features, **settings: Any) -> Result:
    return netopsy.transfer(features, **{**FEW, **settings})


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written outside a workspace go with the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="module")
def features() -> Features:
    return make_features()


def cell(result: Result, stress: str, **keys: int) -> dict[str, Any]:
    rows = result.tables["scores"].filter(pl.col("stress") == stress, **keys)
    assert rows.height == 1
    return rows.row(0, named=True)


def stressed(stress: str, train: twin.Rows, test: twin.Rows, number: int) -> tuple[twin.Rows, twin.Rows]:
    if stress in ("q1", "q2"):
        return twin.nearest_centres(train, test, number, stress == "q2")
    if stress == "qb":
        return twin.erased(train, number), twin.erased(test, number)
    train, test = twin.projected(train, test)
    if stress == "fc":
        train, test = twin.nearest_centres(train, test, number, True)
        return train[:, :8], test[:, :8]
    return train[:, :number], test[:, :number]


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
@pytest.mark.parametrize(
    ("stress", "key", "numbers"),
    [
        ("dr2", "dimensions", (4, 12)),
        ("q1", "levels", (2, 8)),
        ("q2", "levels", (2, 3)),
        ("fc", "levels", (3, 8)),
        ("qb", "removed_bits", (22, 24)),
    ],
)
def test_scores_are_those_of_liblinear_on_stressed_vectors(
    features: Features, stress: str, key: str, numbers: tuple[int, ...], loss: str
) -> None:
    result = run(features, stresses=(stress,), loss=loss, c=0.7, tolerance=1e-6 if loss == "hinge" else 1e-9)
    train, test = twin.unit(features.x_train), twin.unit(features.x_test)
    plain = twin.accuracy(twin.decisions(train, features.y_train, test, 0.7, loss), features.y_test)
    assert 0.4 < plain < 0.95
    assert cell(result, "none")["score"] == pytest.approx(plain, abs=1e-9)
    for number in numbers:
        x, y = stressed(stress, train, test, number)
        expected = twin.accuracy(twin.decisions(x, features.y_train, y, 0.7, loss), features.y_test)
        row = cell(result, stress, **{key: number}, **({"dimensions": 8} if stress == "fc" else {}))
        assert row["score"] == pytest.approx(expected, abs=1e-9)
        assert row["relative"] == pytest.approx(expected / plain)
        assert row["gap"] <= 1e-6 and row["images"] == 120


def test_random_drops_are_averaged_over_nested_draws(features: Features) -> None:
    result = run(features, stresses=("dr1",), repeats=3, seed=2)
    train, test = twin.unit(features.x_train), twin.unit(features.x_test)
    single = []
    for repeat in range(3):
        columns = drop_order(20, 2000 + repeat).numpy()[:8]
        single.append(
            twin.accuracy(twin.decisions(train[:, columns], features.y_train, test[:, columns]), features.y_test)
        )
    row = cell(result, "dr1", dimensions=8)
    assert len(set(single)) > 1
    assert row["score"] == pytest.approx(np.mean(single)) and row["std"] == pytest.approx(np.std(single, ddof=1))
    assert (row["repeats"], row["share"], row["bits"]) == (3, 0.4, 8 * 32)
    whole = cell(result, "dr1", dimensions=20)
    assert (whole["score"], whole["std"]) == (cell(result, "none")["score"], 0.0)


def test_labels_of_several_classes_are_scored_by_mean_average_precision() -> None:
    features = make_features(several=True, seed=3)
    train, test = twin.unit(features.x_train), twin.unit(features.x_test)
    for measure in ("auto", "map11"):
        row = cell(run(features, stresses=("q2",), measure=measure), "q2", levels=3)
        x, y = twin.nearest_centres(train, test, 3, True)
        scores = twin.decisions(x, features.y_train, y)
        assert row["map"] == pytest.approx(twin.mean_precision(scores, features.y_test), abs=2e-4)
        assert row["map11"] == pytest.approx(twin.mean_precision_11(scores, features.y_test), abs=2e-4)
        assert row["accuracy"] is None and row["score"] == row["map" if measure == "auto" else "map11"]
    with pytest.raises(SamplesError, match="accuracy is not defined"):
        run(features, measure="accuracy")


def test_classes_may_be_ranked_where_each_vector_has_one(features: Features) -> None:
    row = cell(run(features, stresses=(), measure="map"), "none")
    train, test = twin.unit(features.x_train), twin.unit(features.x_test)
    scores = twin.decisions(train, features.y_train, test)
    targets = np.eye(4, dtype=np.float32)[features.y_test]
    assert row["score"] == row["map"] == pytest.approx(twin.mean_precision(scores, targets), abs=2e-4)
    assert row["accuracy"] == pytest.approx(twin.accuracy(scores, features.y_test))


def test_nothing_left_gives_chance(features: Features) -> None:
    result = run(features, stresses=("q1", "q2", "fc", "qb"), levels=(1,))
    rows = result.tables["scores"].filter((pl.col("levels") == 1) | (pl.col("removed_bits") == 32))
    assert rows.height == 2 + 5 + 1
    assert rows["accuracy"].to_list() == pytest.approx([0.25] * rows.height)  # equally many of each class
    several = make_features(several=True, seed=3)
    rows = run(several, stresses=("q2",), levels=(1,)).tables["scores"].filter(pl.col("levels") == 1)
    assert rows["map"][0] == pytest.approx(several.y_test.mean(0).mean())


def test_renormalising_gives_stressed_vectors_unit_length_again(features: Features) -> None:
    train, test = (twin.unit(x) for x in (features.x_train, features.x_test))
    x, y = (twin.unit(z[:, :8]) for z in twin.projected(train, test))  # type: ignore[arg-type]
    expected = twin.accuracy(twin.decisions(x, features.y_train, y), features.y_test)
    row = cell(run(features, stresses=("dr2",), renormalise=True), "dr2", dimensions=8)
    assert row["score"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("stress", "key", "number"), [("dr2", "dimensions", 8), ("q1", "levels", 3), ("q2", "levels", 2)]
)
def test_normalised_after_the_stress_as_the_text_has_it(features: Features, stress: str, key: str, number: int) -> None:
    """The slow twin on rows as they come, of unit length once they are stressed; unstressed nothing changes."""
    plain, result = (run(features, stresses=(stress,), normalise=order) for order in ("before", "after"))
    raw = (features.x_train.astype(np.float64), features.x_test.astype(np.float64))
    train, test = (twin.unit(x) for x in stressed(stress, *raw, number))
    expected = twin.accuracy(twin.decisions(train, features.y_train, test), features.y_test)
    assert cell(result, stress, **{key: number})["score"] == pytest.approx(expected, abs=1e-9)
    assert cell(result, "none")["score"] == cell(plain, "none")["score"]
    assert not result.tables["scores"].equals(plain.tables["scores"])


def test_random_drops_are_of_the_raw_vectors_and_codes_of_unit_ones_where_normalised_after(features: Features) -> None:
    settings: dict[str, Any] = {"stresses": ("dr1", "alternatives"), "repeats": 1}
    plain, result = (run(features, normalise=order, **settings) for order in ("before", "after"))
    columns = drop_order(20, 0)[:12].numpy()
    train, test = (twin.unit(x[:, columns]) for x in (features.x_train, features.x_test))
    expected = twin.accuracy(twin.decisions(train, features.y_train, test), features.y_test)
    assert cell(result, "dr1", dimensions=12)["score"] == pytest.approx(expected, abs=1e-9)
    assert result.tables["alternatives"]["recall_1"].equals(plain.tables["alternatives"]["recall_1"])
    with pytest.raises(SettingsError, match="drop renormalise"):
        run(features, normalise="after", renormalise=True)


def test_the_least_representation_in_the_layout_of_the_paper() -> None:
    """The paper's own numbers for VGG-M, as a table of scores that gives them."""
    rows = [("none", 4096, None, 1.0)]
    rows += [
        ("dr1", int(4096 * share), None, kept) for share, kept in ((1, 1.0), (0.25, 0.985), (0.1, 0.955), (0.05, 0.9))
    ]
    rows += [("dr2", int(4096 * share), None, kept) for share, kept in ((1, 1.0), (0.1, 0.992), (0.05, 0.979))]
    rows += [("q1", 4096, h, kept) for h, kept in ((7, 1.0), (6, 0.99), (4, 0.97), (3, 0.9))]
    rows += [("q2", 4096, h, kept) for h, kept in ((4, 1.0), (3, 0.995), (2, 0.975))]
    frame = pl.DataFrame(
        [
            dict.fromkeys(tables.SCORES)
            | {
                "node": "relu7",
                "stress": s,
                "dimensions": n,
                "share": n / 4096,
                "levels": h,
                "bits": n,
                "compression": 0.0,
                "score": 0.7695 * kept,
                "relative": kept,
            }
            for s, n, h, kept in rows
        ],
        schema=tables.SCORES,
    )
    (row,) = tables.printed_minimum(tables.minimum_table(frame), frame).rows()
    assert row == ("relu7", "76.95 %", "25 %", "10 %", "10 %", "6 values", "4 values", "3 values", "2 values")
    without = frame.filter(pl.col("stress") != "q2")
    assert tables.printed_minimum(tables.minimum_table(without), without).row(0)[-1] == "–"


def test_several_data_sets_stand_in_one_figure() -> None:
    sets = {"few": make_features(classes=3), "many": make_features(classes=6, seed=1), "flat": make_features(seed=2)}
    results = {name: run(each, stresses=("dr1", "dr2", "q2")) for name, each in sets.items()}
    results["flat"] = Result("transfer", tables=tables.empty_tables(), findings=["nothing to stress."])
    whole = Transfer.combine(results)
    check_findings(whole, most=6)
    assert set(whole.tables["minimum_as_printed"]["set"]) == {"few", "many"}
    assert whole.tables["scores"].height == sum(results[name].tables["scores"].height for name in ("few", "many"))
    drawn = json.dumps(whole.figures["dimensions"].spec)
    assert "few (3 classes)" in drawn and "many (6 classes)" in drawn and NAMES["dr1"] in drawn
    kept = whole.tables["scores"].filter(set="many", stress="dr2").filter(pl.col("share") <= 0.2)["relative"].max()
    assert any("flat: nothing to stress." in finding for finding in whole.findings) and kept is not None
    for figure in whole.figures.values():
        vl_convert.vegalite_to_svg(json.dumps(figure.spec))
    assert not Transfer.combine({"flat": results["flat"]}).tables


def test_directions_that_training_vectors_lack_change_no_score() -> None:
    features = make_features(n=12, p=60, classes=3)
    result = run(features, stresses=("dr2",))
    scores = result.tables["scores"].filter(pl.col("stress") == "dr2", pl.col("dimensions") > 12)
    assert scores["dimensions"].to_list() == [24, 36, 48, 60]
    assert set(scores["score"]) == {cell(result, "none")["score"]}


def test_bits_that_change_no_number_cost_no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one 1 each lose nothing with the 23 bits of their fraction."""
    y = np.arange(40) % 4
    x = np.eye(4, dtype=np.float16)[y]
    fits = 0
    fit = chains.Bench.fit

    def counted(*args: Any) -> Any:
        nonlocal fits
        fits += 1
        return fit(*args)

    monkeypatch.setattr(chains.Bench, "fit", counted)
    result = run(Features("rows", x, y, x, y, tuple("abcd")), stresses=("qb",))
    bits = result.tables["scores"].filter(pl.col("stress") == "qb")
    assert bits["removed_bits"].to_list() == list(range(33)) and bits["bits"][-1] == 0
    assert bits["score"].head(24).to_list() == [1.0] * 24
    assert fits <= 1 + 1 + 9


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_at_the_chain(features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**FEW, "stresses": ("dr1", "dr2", "q1", "fc")}
    cells = 1 + 2 * 4 + 5 + 3 + 3 * 5
    whole = run(features, **settings)
    seen: list[tuple[str, int, int]] = []

    def stop(label: str, done: int, total: int) -> None:
        seen.append((label, done, total))
        if done == 20:
            raise Killed

    with pytest.raises(Killed), workspace(tmp_path, stop):
        run(features, **settings)
    assert seen[-1] == ("transfer", 20, cells)
    fits: list[Any] = []
    nested = chains.fit_nested
    monkeypatch.setattr(chains, "fit_nested", lambda *a, **k: fits.append(a) or nested(*a, **k))
    with workspace(tmp_path, lambda *args: seen.append(args)):
        again = run(features, **settings)
    assert len(fits) == 3  # the three chains of the grid; drops and projection were done
    assert seen[-1] == ("transfer", cells, cells)
    for name, table in whole.tables.items():
        assert table.equals(again.tables[name])


def test_the_file_of_a_budget_gives_the_score_that_is_reported(tmp_path: Path) -> None:
    features = make_features(n=160, m=200, p=32, seed=5)
    with workspace(tmp_path):
        result = run(features, stresses=(), budget="3B")
    candidates = result.tables["candidates"]
    best = candidates.filter("chosen").row(0, named=True)
    assert candidates.filter("chosen").height == 1 and (candidates["bits"] <= 24).all()
    assert best["score"] == candidates["score"].max()
    transform = netopsy.load_transform(result.artifacts["transform.safetensors"])
    assert transform.bits <= 24 and transform.encode(features.x_test).shape == (200, 3)
    train, test = (transform.decode(transform.encode(x)).astype(float) for x in (features.x_train, features.x_test))
    expected = twin.accuracy(twin.decisions(train, features.y_train, test), features.y_test)
    assert best["test_score"] == pytest.approx(expected, abs=1e-9)
    assert best["relative"] == pytest.approx(expected / cell(result, "none")["score"])
    exact, near = (
        ((t[:, None] - x[None]) ** 2).sum(2).argsort(1, kind="stable")[:, :1]
        for t, x in ((twin.unit(features.x_test), twin.unit(features.x_train)), (test, train))
    )
    assert best["same_class"] == pytest.approx((features.y_train[near[:, 0]] == features.y_test).mean())
    assert best["recall_1"] == pytest.approx((near == exact).mean())
    assert any("netopsy.load_transform(path).encode(x)" in finding for finding in result.findings)


def test_the_choice_within_a_budget_never_sees_the_test_set(features: Features) -> None:
    wrong = Features(
        "wrong", features.x_train, features.y_train, features.x_test[::-1].copy(), features.y_test, tuple("abcd")
    )
    tried = [run(f, stresses=(), budget="20b").tables["candidates"] for f in (features, wrong)]
    columns = ["recipe", "score", "chosen"]
    assert tried[0].select(columns).equals(tried[1].select(columns))
    assert tried[0]["test_score"].max() != tried[1]["test_score"].max()


def test_alternatives_stand_at_equal_bits(features: Features) -> None:
    result = run(features, stresses=("fc", "alternatives"))
    alternatives = result.tables["alternatives"]
    assert alternatives["budget"].unique().to_list() == [16, 64]
    assert (alternatives["bits"] <= alternatives["budget"]).all()
    assert {"PCA x Q-2", "whitening x Q-2", "PCA signs", "ITQ", "truncation"} <= set(alternatives["method"])
    assert alternatives["recall_1"].is_between(0, 1).all() and alternatives["recall_10"].null_count() == 0
    signs = alternatives.filter(pl.col("method") == "PCA signs").row(0, named=True)
    train, test = (twin.unit(x) for x in (features.x_train, features.x_test))
    z = [x @ np.linalg.svd(train - train.mean(0))[2].T[:, :16] for x in (train - train.mean(0), test - train.mean(0))]
    scores = twin.decisions(np.sign(z[0]), features.y_train, np.sign(z[1]))
    assert signs["score"] == pytest.approx(twin.accuracy(scores, features.y_test), abs=0.02)
    assert any("624 training vectors" in finding for finding in result.findings)


def test_smallest_representations_and_fronts_are_found_among_uneven_scores() -> None:
    rows = [("dr2", 4, None, 0.9), ("dr2", 8, None, 0.994), ("dr2", 12, None, 0.97), ("dr2", 16, None, 1.0)]
    rows += [("fc", 4, 4, 0.5), ("fc", 8, 2, 0.6), ("fc", 4, 8, 0.55), ("fc", 8, 4, 0.6), ("fc", 16, 4, 0.9)]
    scores = pl.DataFrame(
        [
            {
                "node": "a",
                "stress": stress,
                "dimensions": size,
                "share": size / 16,
                "levels": levels,
                "bits": size * (32 if levels is None else (levels - 1).bit_length()),
                "compression": 0.0,
                "score": score,
                "relative": score,
            }
            for stress, size, levels, score in rows
        ]
    )
    minimum = tables.minimum_table(scores).filter(pl.col("stress") == "dr2").sort("loss")
    assert minimum["value"].to_list() == [8] * 5
    assert minimum["holds_above"].to_list() == [False, False, True, True, True]
    grid = tables.minimum_table(scores).filter(pl.col("stress") == "fc")
    assert grid["value"].null_count() == 5
    front = tables.pareto_table(scores)
    assert front.select("dimensions", "levels").rows() == [(8, 2), (16, 4)]


@pytest.mark.real
def test_the_authors_own_tables_give_their_own_minima_and_markers(shared: Path) -> None:
    """carvalho-2016.md: DR-1 1433/1024/409, DR-2 409/409/204, Q-1 6/5/4, Q-2 3/3/2 for 1/2/5 %; 409 x 27 at 98.44 %."""
    folder, parts = shared / "reference/carvalho-2016", []
    for stress in ("DR-1", "DR-2", "Q-1", "Q-2", "FC"):
        table = pl.read_csv(folder / f"{stress}_VGG-M_VOC_2007.csv").rename(
            {"Dimensions": "dimensions", "Values": "levels"}, strict=False
        )
        missing = [pl.lit(4096, pl.Int64).alias("dimensions")] * ("dimensions" not in table.columns)
        missing += [pl.lit(None, pl.Int64).alias("levels")] * ("levels" not in table.columns)
        table = table.with_columns(
            *missing, pl.lit("m").alias("node"), pl.lit(stress.lower().replace("-", "")).alias("stress")
        )
        word = (
            pl.when(pl.col("levels").is_null())
            .then(32)
            .otherwise((pl.col("levels") - 1).cast(pl.Float64).log(2).floor() + 1)
        )
        table = table.with_columns(
            (pl.col("dimensions") * word).cast(pl.Int64).alias("bits"), (pl.col("mAP") / 100).alias("score")
        )
        table = table.with_columns(
            (pl.col("dimensions") / 4096).alias("share"),
            (1 - pl.col("bits") / 4096 / 32).alias("compression"),
            (pl.col("mAP") / 76.952192).alias("relative"),
        )
        parts.append(
            table.select("node", "stress", "dimensions", "share", "levels", "bits", "compression", "score", "relative")
        )
    scores = pl.concat(parts)
    minimum = tables.minimum_table(scores)
    for stress, values in (("dr1", [1433, 1024, 409]), ("dr2", [409, 409, 204]), ("q1", [6, 5, 4]), ("q2", [3, 3, 2])):
        minima = minimum.filter(pl.col("stress") == stress, pl.col("loss").is_in([0.01, 0.02, 0.05]))
        assert minima["value"].to_list() == values
    square = tables.pareto_table(scores).filter(pl.col("marker") == "square").row(0, named=True)
    assert (square["dimensions"], square["levels"]) == (409, 27)
    assert square["compression"] == pytest.approx(0.9844, abs=5e-5) and square["relative"] == pytest.approx(
        0.99125, abs=1e-4
    )


@pytest.fixture(scope="module")
def digits() -> netopsy.Network:
    return shipped("a")


def test_several_nodes_of_a_network_stand_side_by_side(digits: netopsy.Network) -> None:
    samples = load_samples("digits", count=120)
    nodes = ("block3.relu1", "block5.relu3")
    result = netopsy.transfer(
        digits,
        samples,
        nodes=nodes,
        pool="mean",
        baseline=False,
        stresses=STRESSES[:-1],
        steps=4,
        levels=(2, 4),
        repeats=2,
    )
    assert result.tables["unstressed"]["node"].to_list() == list(nodes)
    assert {"layers_dr1", "layers_q2", *(f"grid {node}" for node in nodes)} <= set(result.figures)
    assert result.tables["unstressed"]["images"].to_list() == [60, 60]
    for figure in result.figures.values():
        assert figure.reading and vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")


def test_training_images_of_their_own_are_trained_on(digits: netopsy.Network) -> None:
    train, samples = load_samples("digits", count=80, seed=1), load_samples("digits", count=50, seed=2)
    result = netopsy.transfer(digits, samples, train=train, baseline=False, stresses=())
    row = result.tables["unstressed"].row(0, named=True)
    assert (row["train_images"], row["images"]) == (80, 50)


def test_every_figure_draws_and_says_how_to_read_it(features: Features) -> None:
    result = run(features, budget="2B")
    expected = {"dimensions", "dimensions_absolute", "levels", "levels_absolute", "bits_erased", "grid", "front"}
    assert set(result.figures) == expected | {"alternatives", "retrieval", "candidates"}
    for figure in result.figures.values():
        assert figure.title and figure.reading and figure.source
        assert vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")


def images(labels: list[int], classes: int) -> Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1), np.uint8)
    return Samples("few", ArrayImages(pixels), np.array(labels, np.int64), tuple(f"class {i}" for i in range(classes)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (list(range(30)), "30 classes with a single image each and none with more"),
        ([0] * 20, "of 1 class only"),
    ],
)
def test_samples_that_cannot_be_treated_give_a_finding(
    digits: netopsy.Network, labels: list[int], message: str, tmp_path: Path
) -> None:
    case = examine(digits, images(labels, 30), studies=["transfer"], out=tmp_path / "case")
    (finding,) = case.load("transfer").findings
    assert message in finding


@pytest.mark.parametrize(("factor", "message"), [(None, "No features to transfer"), (np.nan, "NaN")])
def test_networks_without_features_give_a_finding(factor: float | None, message: str) -> None:
    """One without any layer, one whose features are no numbers; as an error where the node was named."""
    layer = torch.nn.Linear(64, 4)
    torch.nn.init.constant_(layer.weight, factor or 0.0)
    body = [] if factor is None else [layer, torch.nn.ReLU(), torch.nn.Linear(4, 3)]
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU(), *body)
    shape = netopsy.Preprocessing(size=(8, 8), mean=(0.0,), std=(1.0,), channels="L")
    network, samples = netopsy.Network("bare", module, shape), images([0, 1] * 10, 2)
    (finding,) = netopsy.transfer(network, samples).findings
    assert message in finding
    if factor is not None:
        with pytest.raises(NetopsyError, match="NaN"):
            netopsy.transfer(network, samples, nodes=("3",))


def test_classes_of_one_image_and_unknown_classes_are_left_out_and_counted(digits: netopsy.Network) -> None:
    result = netopsy.transfer(digits, images([0, 1] * 10 + [2, 3, 4], 5), baseline=False, stresses=())
    assert any("3 classes with a single image cannot be both learned and tested" in f for f in result.findings)
    assert result.tables["unstressed"]["classes"].to_list() == [2]
    train = images([0, 1] * 10, 2)
    result = netopsy.transfer(digits, images([0, 1, 2, 2, 0], 3), train=train, baseline=False, stresses=())
    assert any("2 test images of class 2 were left out" in f for f in result.findings)
    assert result.tables["unstressed"]["images"].to_list() == [3]


def test_the_smallest_features_are_treated() -> None:
    """One dimension has nothing to drop; a score of 0 has nothing to lose; a class without a test image no rank."""
    result = run(make_features(n=12, m=12, p=1, classes=2), budget="1B")
    assert result.tables["scores"].filter(pl.col("stress") == "dr1").is_empty()
    features = make_features(n=40, m=6, p=30, classes=2, seed=4)
    plain = twin.decisions(twin.unit(features.x_train), features.y_train, twin.unit(features.x_test))
    features.y_test[:] = 1 - plain.argmax(1)
    result = run(features, stresses=("dr1", "q2", "fc"))
    assert any("A score of 0 cannot fall" in finding for finding in result.findings)
    assert result.tables["scores"]["relative"].null_count() == result.tables["scores"].height
    several = make_features(several=True)
    several.y_test[:, 1] = 0
    assert any("is without b, which no test image has" in f for f in run(several, stresses=()).findings)
    several.y_test[:] = 0
    with pytest.raises(SamplesError, match="no test vector of made has a label"):
        run(several)


def test_the_command_takes_a_file_of_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = make_features()
    x, y = np.concatenate([features.x_train, features.x_test]), np.concatenate([features.y_train, features.y_test])
    np.savez(tmp_path / "vectors.npz", x=x, y=y)
    words = ["transfer", str(tmp_path / "vectors.npz"), "--stresses", "q2", "--levels", "2,4", "--budget", "2B"]
    main([*words, "--out", str(tmp_path / "case"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [row["levels"] for row in printed["tables"]["scores"]] == [None, 2, 4]
    transform = netopsy.load_transform(tmp_path / "case/transfer/artifacts/transform.safetensors")
    assert transform.encode(x).shape == (210, 2)
    assert (tmp_path / "case/transfer.html").exists()


def test_vectors_that_are_no_numbers_are_refused() -> None:
    features = make_features()
    features.x_test[3, 2] = np.nan
    with pytest.raises(SamplesError, match="test vectors of made hold NaN"):
        run(features)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stresses": ("dr3",)}, "stresses 'dr3' is unknown; nearest: dr"),
        ({"levels": ()}, "levels is empty"),
        ({"levels": (0,)}, "levels 0 must be a whole number from 1 to 65,536"),
        ({"repeats": 0}, "repeats 0"),
        ({"steps": 0}, "steps 0"),
        ({"c": 0.0}, "c 0.0 must be a number above 0"),
        ({"tolerance": 1.0}, "tolerance 1.0"),
        ({"measure": "auc"}, "measure 'auc' is unknown; .*auto, accuracy"),
        ({"pool": "sum"}, "pool 'sum' is unknown"),
        ({"test_share": 1.0}, "test_share 1.0"),
        ({"budget": "64 kilograms"}, "64 kilograms"),
        ({"words": 0}, "words 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Transfer(**settings)


def test_named_nodes_that_do_not_exist_are_an_error(digits: netopsy.Network) -> None:
    with pytest.raises(NetopsyError, match="block9"):
        netopsy.transfer(digits, load_samples("digits", count=60), nodes=("block9.relu1",), baseline=False)
