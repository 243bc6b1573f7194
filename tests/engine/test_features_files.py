"""Features given by the user: files and arrays of every kind, and every mistake in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from netopsy import Features, load_features
from netopsy.errors import NetopsyError, SamplesError, SettingsError

N, P = 60, 7
X = np.random.default_rng(0).standard_normal((N, P)).astype(np.float32)
Y = np.arange(N) % 3
WORDS = np.array(["cat", "ape", "bee"])[Y]
HOT = np.stack([Y == 0, Y > 0, Y == 2], 1).astype(np.int64)


def rows(features: Features) -> set[tuple[Any, ...]]:
    """Every vector with its label, of both parts."""
    both = [(features.x_train, features.y_train), (features.x_test, features.y_test)]
    label: Callable[[Any], Any] = (lambda y: tuple(y)) if features.multilabel else (lambda y: features.classes[y])
    return {(row.tobytes(), label(y)) for x, ys in both for row, y in zip(np.asarray(x), ys, strict=True)}


def expected(labels: Any, x: np.ndarray = X) -> set[tuple[Any, ...]]:
    return {(row.tobytes(), label) for row, label in zip(x, labels, strict=True)}


def labels_file(kind: str, folder: Path, labels: np.ndarray = Y) -> Path:
    path = folder / f"labels.{kind}"
    if kind == "npy":
        np.save(path, labels)
    elif kind == "txt":
        path.write_text("\n".join(map(str, labels)) + "\n")
    else:
        pl.DataFrame({"id": range(len(labels)), "label": labels}).write_csv(path)
    return path


@pytest.mark.parametrize("kind", ["npy", "csv", "txt"])
@pytest.mark.parametrize("labels", [Y, WORDS], ids=["numbers", "words"])
def test_vectors_in_a_npy_and_labels_in_a_file(kind: str, labels: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    features = load_features(tmp_path / "x.npy", labels=labels_file(kind, tmp_path, labels))
    assert rows(features) == expected(map(str, labels))
    assert features.classes == (("0", "1", "2") if labels is Y else ("ape", "bee", "cat"))
    assert features.dimensions == P and len(features.x_train) == len(features.x_test) == 30
    assert np.bincount(features.y_train).tolist() == [10, 10, 10]
    assert features.y_train.dtype == np.int64 and not features.multilabel


def test_a_part_is_drawn_by_seed_and_share() -> None:
    one, again, other = (load_features((X, Y), test_share=0.25, seed=seed) for seed in (1, 1, 2))
    assert len(one.x_test) == 15 and one.digest == again.digest != other.digest


def test_an_npz_of_one_part_and_of_two(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=X, y=Y, classes=["zero", "one", "two"])
    one = load_features(tmp_path / "one.npz")
    assert rows(one) == expected(np.array(["zero", "one", "two"])[Y])
    np.savez(tmp_path / "two.npz", e_train=X[:40], e_test=X[40:], t_train=WORDS[:40], t_test=WORDS[40:])
    two = load_features(str(tmp_path / "two.npz"), x="e", y="t")
    assert np.array_equal(two.x_train, X[:40]) and np.array_equal(two.x_test, X[40:])
    assert [two.classes[y] for y in two.y_test] == WORDS[40:].tolist()


@pytest.mark.parametrize("nested", ["list", "array", "columns"])
@pytest.mark.parametrize("labels", [Y, WORDS, HOT], ids=["numbers", "words", "several"])
def test_a_parquet_of_vectors_or_of_columns(nested: str, labels: np.ndarray, tmp_path: Path) -> None:
    if nested == "columns":
        frame = pl.DataFrame(X, schema=[f"e{i}" for i in range(P)])
    else:
        kind = pl.List(pl.Float32) if nested == "list" else pl.Array(pl.Float32, P)
        frame = pl.DataFrame({"embedding": pl.Series(X.tolist(), dtype=kind), "note": ["words"] * N})
    split = pl.Series("split", ["train"] * 40 + ["test"] * 20)
    frame = frame.with_columns(pl.Series("label", labels.tolist()), split)
    frame.write_parquet(tmp_path / "f.parquet")
    features = load_features(tmp_path / "f.parquet", x="embedding" if labels is HOT and nested != "columns" else None)
    assert np.array_equal(features.x_train, X[:40]) and np.array_equal(features.x_test, X[40:])
    assert features.multilabel == (labels is HOT)
    if labels is HOT:
        assert np.array_equal(features.y_test, HOT[40:].astype(np.float32)) and features.y_test.dtype == np.float32
    else:
        assert rows(features) == expected(map(str, labels))


def test_columns_are_named_by_list_or_pattern_and_validation_is_left_out(tmp_path: Path) -> None:
    frame = pl.DataFrame(X, schema=[f"e{i}" for i in range(P)]).with_columns(
        pl.Series("id", range(N)),
        pl.Series("kind", WORDS, dtype=pl.Categorical),
        pl.Series("set", ["train", "val", "test"] * 20),
    )
    frame.write_parquet(tmp_path / "f.parquet")
    with pytest.raises(SamplesError, match="1 of whole numbers"):
        load_features(tmp_path / "f.parquet", y="kind", split="set")
    mixed = frame.with_columns(pl.Series("set", ["train"] * 30 + ["val"] * 10 + ["test"] * 20))
    mixed.write_parquet(tmp_path / "f.parquet")
    features = load_features(tmp_path / "f.parquet", x="e*", y="kind", split="set")
    assert np.array_equal(features.x_train, X[:30]) and np.array_equal(features.x_test, X[40:])
    assert "without 10 rows of validation" in features.name
    two = load_features(tmp_path / "f.parquet", x="e1,e0", y="kind", split="set")
    assert np.array_equal(two.x_train, X[:30, [1, 0]])
    frame.with_columns(pl.Series("set", ["train"] * 30 + ["val"] * 30)).write_parquet(tmp_path / "f.parquet")
    assert np.array_equal(load_features(tmp_path / "f.parquet", x="e*", y="kind", split="set").x_test, X[30:])


def test_pairs_of_arrays_lists_and_tensors() -> None:
    for pair in ((X, Y), [X.tolist(), Y.tolist()], (torch.tensor(X), torch.tensor(Y)), (X.astype(np.float64), Y)):
        features = load_features(pair)
        assert features.x_train.dtype == np.float32 and rows(features) == expected(map(str, Y))
    assert load_features((X.astype(np.float16), Y)).x_train.dtype == np.float16
    assert load_features((torch.tensor(X).bfloat16(), Y)).x_train.dtype == np.float32
    assert load_features((X, WORDS.tolist())).classes == ("ape", "bee", "cat")
    assert load_features((X, WORDS.astype(object))).classes == ("ape", "bee", "cat")
    assert load_features((X, Y > 0)).classes == ("0", "1")
    assert load_features((X, HOT), classes=("a", "b", "c")).classes == ("a", "b", "c")


def test_numbers_that_do_not_begin_at_0_need_no_names_and_absent_classes_are_left_out() -> None:
    features = load_features((X, Y * 10 + 1))
    assert features.classes == ("1", "11", "21") and rows(features) == expected(map(str, Y * 10 + 1))
    known = load_features((X, np.where(Y > 0, Y + 1, Y)), classes=("a", "b", "c", "d"))
    assert known.classes == ("a", "c", "d") and set(known.y_train) == {0, 1, 2}


def test_the_digest_knows_vectors_labels_order_classes_and_type() -> None:
    one = load_features((X, Y))
    assert load_features((X, Y)).digest == one.digest
    changed = X.copy()
    changed[3, 3] += 1
    others = [
        load_features(pair) for pair in ((changed, Y), (X, (Y + 1) % 3), (X[::-1], Y[::-1]), (X.astype(np.float16), Y))
    ]
    others += [load_features((X, Y), classes=("a", "b", "c")), load_features((X, WORDS))]
    others.append(replace(one, y_test=one.y_test[::-1].copy()))
    assert len({one.digest, *(other.digest for other in others)}) == 8


def save(array: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / "x.npy", array, allow_pickle=True)
        return folder / "x.npy"

    return write


def savez(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "x.npz", **arrays)
        return folder / "x.npz"

    return write


def parquet(**columns: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pl.DataFrame(columns).write_parquet(folder / "x.parquet")
        return folder / "x.parquet"

    return write


def cut(write: Callable[[Path], Path], length: int) -> Callable[[Path], Path]:
    def shorter(folder: Path) -> Path:
        path = write(folder)
        path.write_bytes(path.read_bytes()[:length])
        return path

    return shorter


def changed(row: int, column: int, value: float) -> np.ndarray:
    x = X.copy()
    x[row, column] = value
    return x


LISTS = X.tolist()
MISTAKES: list[tuple[Any, dict[str, Any], str]] = [
    ("nowhere.npy", {"labels": Y}, "it is no file"),
    (lambda folder: folder, {}, "it is no file"),
    (lambda folder: (folder / "x.csv").write_text("x") and folder / "x.csv", {}, "is a .csv; give"),
    (3, {}, "a int is no source of features"),
    ((X, Y, Y), {}, "a tuple of 3 is no source"),
    ((X, Y), {"labels": Y}, "takes no labels"),
    (save(X), {}, "vectors without labels"),
    (save(X), {"labels": "nowhere.txt"}, "no labels 'nowhere.txt'"),
    (save(X), {"labels": Y[:-1]}, "60 vectors and 59 labels"),
    (save(X), {"labels": {"csv": ""}}, "no column 'label' among ''"),
    (save(X), {"labels": {"csv": "id,kind\n0,a\n"}}, "no column 'label' among 'id, kind'"),
    (save(X), {"labels": {"csv": "label\n0\n0,1\n"}}, "2 cells in row 3"),
    (save(X), {"labels": {"txt": "a\xff"}}, "give UTF-8 text"),
    (save(X), {"labels": Y, "x": "x"}, "takes no x"),
    (cut(save(X), 300), {"labels": Y}, "damaged"),
    (cut(save(X), 30), {"labels": Y}, "damaged"),
    (cut(save(X), 0), {"labels": Y}, "damaged"),
    (save(np.array([[1], [1, 2]], dtype=object)), {"labels": Y}, "pickled objects"),
    (save(changed(7, 2, np.nan)), {"labels": Y}, "vector 7 of x.npy holds NaN"),
    (save(changed(8, 2, np.inf)), {"labels": Y}, "vector 8 of x.npy holds NaN, infinity"),
    (save(np.full((N, P), 1e300)), {"labels": Y}, "more than float32"),
    (save(X[:, :, None]), {"labels": Y}, r"shape \(60, 7, 1\).*flatten"),
    (save(X[0]), {"labels": Y}, r"shape \(7,\)"),
    (save(X.astype(complex)), {"labels": Y}, "complex"),
    (save(X[:0]), {"labels": Y[:0]}, "holds no vectors"),
    (save(X[:, :0]), {"labels": Y}, "holds no vectors"),
    (cut(savez(x=X, y=Y), 500), {}, "damaged or no .npz"),
    (savez(x=X), {}, "no array 'y'"),
    (savez(a=X, b=Y), {}, "no array 'x'"),
    (savez(), {}, "no array 'x'"),
    (savez(x=X, y=Y), {"x": "z"}, "no array 'z'"),
    (savez(x_train=X, y_train=Y, x_test=X), {}, "no array 'y_test'"),
    (savez(x_train=X, y_train=Y, x_test=X[:, :3], y_test=Y), {}, "both parts alike"),
    (savez(x_train=X, y_train=Y[1:], x_test=X, y_test=Y), {}, "one label each"),
    (savez(x_train=X[Y > 0], y_train=Y[Y > 0], x_test=X, y_test=Y), {}, "no training vector of 0"),
    (savez(x_train=X[:0], y_train=Y[:0], x_test=X, y_test=Y), {}, "no training vectors"),
    (savez(x_train=X, y_train=Y, x_test=X[:0], y_test=Y[:0]), {}, "no test vectors"),
    (savez(x=X, y=np.array([None] * N)), {}, "pickled objects"),
    (cut(parquet(x=LISTS, label=Y), 400), {}, "damaged or no Parquet"),
    (lambda folder: (folder / "x.parquet").write_text("junk") and folder / "x.parquet", {}, "damaged or no Parquet"),
    (parquet(x=LISTS), {}, "no column 'label' among x"),
    (parquet(x=LISTS, label=Y), {"y": "labl"}, "no column 'labl'; nearest: label"),
    (parquet(x=LISTS, label=Y), {"x": "vec"}, "no column 'vec'"),
    (parquet(x=LISTS, label=Y), {"x": "label"}, "is the labels' or the split's"),
    (parquet(x=LISTS, label=Y), {"split": "part"}, "no column 'part'"),
    (parquet(x=LISTS, label=Y, split=["train"] * N), {}, "train only"),
    (parquet(x=LISTS, label=Y, split=["a", "b"] * 30), {}, "says 'a' in row 0"),
    (parquet(x=[*LISTS[:-1], [1.0]], label=Y), {}, "vectors of 1 to 7 values"),
    (parquet(x=[*LISTS[:-1], None], label=Y), {}, "empty cells"),
    (parquet(x=[*LISTS[:-1], [None] * P], label=Y), {}, "empty values"),
    (parquet(x=[[]] * N, label=Y), {}, "without a value|not numbers|no vectors"),
    (parquet(x=[["a"] * P] * N, label=Y), {}, "objects, not numbers"),
    (parquet(x=LISTS, z=LISTS, label=Y), {}, "several columns of vectors"),
    (parquet(x=LISTS, z=LISTS, label=Y), {"x": "x,z"}, "name it alone"),
    (parquet(x=LISTS, label=[None, *Y[1:]]), {}, "rows without a label"),
    (parquet(x=LISTS, label=Y + 0.5), {}, "holds Float64"),
    (parquet(x=["a"] * N, label=Y), {}, "no column of vectors or numbers"),
    (parquet(x=["a"] * N, label=Y), {"x": "x"}, "not numbers"),
    (parquet(a=[None, *X[1:, 0].tolist()], label=Y), {}, "empty cells"),
    (parquet(x=pl.Series([], dtype=pl.List(pl.Float32)), label=pl.Series([], dtype=pl.Int64)), {}, "holds no vectors"),
    (parquet(), {}, "no column 'label'|damaged"),
    ((X, Y), {"classes": ("a", "b")}, "2 class names are given"),
    ((X, WORDS), {"classes": ("ape", "cat", "dog")}, "not among its classes; nearest"),
    ((X, Y - 1), {}, "number the classes from 0"),
    ((X, Y + 0.5), {}, "give whole numbers"),
    ((X, HOT * 2), {}, "other values than 0 and 1"),
    ((X, np.where(Y > 0, "a", "")), {}, "no label at row 0"),
    ((X, np.zeros(N, int)), {}, "one class only"),
    ((X, np.array([9, *Y[1:] * 0])), {}, "single item"),
    ((X, HOT * [1, 1, 0] + [[0, 0, i == 0] for i in range(N)]), {"seed": 1, "test_share": 0.98}, "no training vector"),
    (([[1, 2], [3]], [0, 1]), {}, "differing lengths"),
    ((X, Y), {"test_share": 0}, "test_share 0 must be above 0"),
    ((X, Y), {"seed": -1}, "seed -1"),
    ((X, Y), {"seed": 0.5}, "seed 0.5"),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_a_mistake_is_one_sentence_that_says_what_to_do(number: int, tmp_path: Path) -> None:
    source, options, message = MISTAKES[number]
    if isinstance(options.get("labels"), dict):
        ((ending, text),) = options["labels"].items()
        options = {"labels": tmp_path / f"labels.{ending}"}
        options["labels"].write_text(text, encoding="latin-1")
    with pytest.raises((SamplesError, SettingsError), match=message) as caught:
        load_features(source(tmp_path) if callable(source) else source, **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 400


def test_features_made_by_hand_are_checked() -> None:
    good = load_features((X, Y))
    for change in (
        {"x_train": X.astype(np.float64)},
        {"x_train": X[:3]},
        {"x_test": good.x_test[:, :2]},
        {"classes": ("a",)},
        {"classes": ("a", "b", "c", "d")},
        {"y_train": good.y_train.astype(np.int32)},
        {"y_test": HOT[:30].astype(np.float32)},
        {"x_test": "x"},
        {"y_test": good.y_test + 1},
    ):
        with pytest.raises(NetopsyError):
            Features(
                **{name: getattr(good, name) for name in ("name", "x_train", "y_train", "x_test", "y_test", "classes")}
                | change
            )
