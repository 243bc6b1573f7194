"""Samples of every kind from every source: what reaches the network, how a sample shows itself, and each mistake."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from netopsy import Network, load_network, score, sparsity
from netopsy.errors import MissingExtra, NetopsyWarning, NotApplicable, SamplesError
from netopsy.network.signature import Input, Signature
from netopsy.provenance import provenance
from netopsy.samples.load import load_samples
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import REGRESSION, find_task
from patients import TEXT


def refusal(source: object, **options: object) -> str:
    with pytest.raises(SamplesError) as caught:
        load_samples(source, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 400
    return message


def inputs(samples: Samples, signature: Signature | None = None) -> dict[str, np.ndarray]:
    """All samples as one batch for a network that takes them as they are."""
    (batch,) = samples.batches(signature or samples.records.signature(), len(samples))
    return {name: values.numpy() for name, values in batch.inputs.items()}


# ---------------------------------------------------------------------------------------------- text


def test_a_text_file_has_one_text_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two\nthree <b>&\n\n", encoding="utf-8")
    for source in (path, f"text:{path}"):
        samples = load_samples(source)
        assert samples.kind == "tokens" and len(samples) == 2 and not samples.labelled
        assert samples.read(1) == "three <b>&"
    assert samples.title(1) == "text 1: three <b>&" and samples.thumbnail(1) is None
    assert samples.show(1) == "<span>text 1: three &lt;b&gt;&amp;</span>"
    (tmp_path / "b").write_text("x\n")
    assert load_samples(f"text:{tmp_path / 'b'}").read(0) == "x"


def test_text_that_cannot_be(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\nthree\n")
    assert "line 2 of" in refusal(path)
    assert len(load_samples(path, empty="skip")) == 2
    path.write_text(" \n\n")
    assert "without text" in refusal(path)
    path.write_bytes("ä".encode("latin-1"))
    assert "not UTF-8" in refusal(path)
    assert "text 1 of arrays (counted from 0) is empty" in refusal(["a", " "])
    assert "3 texts and 2 labels" in refusal((["a", "b", "c"], [0, 1]))


def test_long_texts_are_cut_counted_and_said_once():
    samples = load_samples((["ab", "a" * 12, "b" * 13, "c" * 40], [0, 1, 0, 1]))
    with pytest.warns(NetopsyWarning, match="2 of 4 samples are longer than the 12 tokens") as caught:
        for _ in range(2):
            (batch,) = samples.batches(TEXT, 4)
    assert len(caught) == 1 and samples.records.truncated == 2
    assert batch.mask.sum(1).tolist() == [2, 12, 12, 12]
    assert batch.inputs["input_ids"][3].tolist() == [3] * 12
    assert "2 of 4" in provenance(None, samples, 0)["samples"]["notes"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(load_samples(["ab", "a" * 12]).batches(TEXT, 2))


def test_a_title_is_one_line_of_characters_that_print():
    samples = load_samples(["a\x00b\tc\u202ed " + "word " * 100, "short"])
    title = samples.title(0)
    assert (
        len(title) <= 100 and title.isprintable() and title.startswith("text 0: a b c d word") and title.endswith("...")
    )
    assert samples.title(-1) == "text 1: short"


# -------------------------------------------------------------------------------------------- tables


TABLE = pl.DataFrame(
    {"age": [31, 40, 22], "colour": ["red", "blue", "red"], "ok": [True, False, True], "label": ["cat", "dog", "cat"]}
)


def write(frame: pl.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".tsv":
        frame.write_csv(path, separator="\t")
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix in (".jsonl", ".ndjson"):
        frame.write_ndjson(path)
    elif path.suffix == ".json":
        frame.write_json(path)
    elif path.suffix == ".feather":
        frame.write_ipc(path)
    else:
        frame.write_ipc_stream(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".arrow", ".feather"])
def test_a_table_gives_rows_or_texts(tmp_path, suffix):
    samples = load_samples(write(TABLE, tmp_path / f"t{suffix}"))
    assert samples.kind == "vector" and samples.classes == ("cat", "dog") and samples.labels.tolist() == [0, 1, 0]
    # age, then blue and red in alphabetical order, then ok
    assert inputs(samples)["input"].tolist() == [[31, 0, 1, 1], [40, 1, 0, 0], [22, 0, 1, 1]]
    assert samples.title(1) == "row 1: age 40, colour blue, ok False" and samples.thumbnail(1) is None
    texts = load_samples(tmp_path / f"t{suffix}", text="colour", label=None)
    assert texts.kind == "tokens" and texts.read(1) == "blue" and not texts.labelled


def test_frames_lists_of_dicts_and_lazy_frames_are_tables():
    for source in (TABLE, TABLE.lazy(), TABLE.to_dicts()):
        assert inputs(load_samples(source))["input"][:, 0].tolist() == [31, 40, 22]


def test_codes_for_an_embedding_and_columns_by_input():
    samples = load_samples(TABLE, encoding="codes")
    fields = inputs(samples)
    assert fields["numbers"].dtype == np.float32 and fields["numbers"].tolist() == [[31, 1], [40, 0], [22, 1]]
    assert fields["codes"].dtype == np.int64 and fields["codes"].tolist() == [[1], [0], [1]]
    samples = load_samples(TABLE, columns={"x": ["ok", "age"], "c": ["colour"]}, encoding="codes")
    assert {name: v.tolist() for name, v in inputs(samples).items()} == {
        "x": [[1, 31], [0, 40], [1, 22]],
        "c": [[1], [0], [1]],
    }
    samples = load_samples(TABLE, columns="age", categorical="age", encoding="codes")
    assert inputs(samples)["codes" if len(samples.records.fields) > 1 else "input"].tolist() == [[1], [2], [0]]
    assert "mixes numbers and codes" in refusal(TABLE, columns={"x": ["age", "colour"]}, encoding="codes")


def test_the_coding_of_one_part_is_kept_for_another(tmp_path):
    train = load_samples(TABLE)
    other = pl.DataFrame({"ok": [True], "colour": ["blue"], "age": [5], "label": ["dog"]})
    test = load_samples(other, like=train)
    assert inputs(test)["input"].tolist() == [[5, 1, 0, 1]] and test.labels.tolist() == [1]
    unseen = other.with_columns(colour=pl.lit("green"))
    assert "'green' in row 0 (counted from 0), none of its 2 categories (blue, red)" in refusal(unseen, like=train)
    assert "label 'cow', not among its classes" in refusal(other.with_columns(label=pl.lit("cow")), like=train)
    assert "no column 'age'" in refusal(other.drop("age"), like=train)
    words = {"colour": ["red", "green", "blue"]}
    (tmp_path / "words.json").write_text(json.dumps(words))
    for given in (words, tmp_path / "words.json"):
        assert inputs(load_samples(TABLE, categories=given))["input"][:, 1:4].tolist() == [
            [1, 0, 0],
            [0, 0, 1],
            [1, 0, 0],
        ]


@pytest.mark.parametrize(
    ("frame", "options", "says"),
    [
        (TABLE, {"text": "txt"}, r"no column 'txt'; nearest"),
        (TABLE, {"columns": ["ages"]}, r"no column 'ages'; nearest: age"),
        (TABLE, {"label": "labels"}, r"no column 'labels'; nearest: label"),
        (TABLE, {"text": "age"}, r"'age' .* holds Int64; give a column of text"),
        (TABLE, {"encoding": "hot"}, r"no encoding 'hot'; give|no encoding 'hot' of categories; give onehot or codes"),
        (TABLE, {"colour": 1}, r"no option 'colour'"),
        (TABLE[:0], {}, r"has no rows"),
        (pl.DataFrame({"a": [1.0, None, 2.0]}), {}, r"column 'a' .* no value in row 1 \(counted from 0; 1 in all\)"),
        (pl.DataFrame({"a": [1.0, 2.0, float("nan")]}), {}, r"column 'a' .* nan in row 2"),
        (pl.DataFrame({"a": [float("inf"), 2.0]}), {}, r"column 'a' .* inf in row 0"),
        (pl.DataFrame({"a": ["x", None], "b": [1, 2]}), {}, r"column 'a' .* no value in row 1"),
        (pl.DataFrame({"a": ["1", "2", "n/a", "4"], "b": [1] * 4}), {}, r"'n/a' in row 2 .*where others are numbers"),
        (pl.DataFrame({"a": [f"w{i}" for i in range(300)], "b": [1] * 300}), {}, r"300 different texts"),
        (pl.DataFrame({"text": ["a", ""], "label": [0, 1]}), {}, r"'text' .* empty in row 1"),
        (pl.DataFrame({"text": ["a", None], "label": [0, 1]}), {}, r"'text' .* empty in row 1"),
        (pl.DataFrame({"a": [1, 2], "label": ["x", None]}), {}, r"no label in row 1"),
        (pl.DataFrame({"a": [1, 2], "label": [0.5, float("nan")]}), {}, r"label of row 1 .* is NaN"),
        (pl.DataFrame({"a": [1, 2], "label": [1, 10**6]}), {}, r"task='regression'"),
        (TABLE.select("label"), {}, r"no columns beside its labels"),
        (TABLE.with_columns(day=pl.date(2020, 1, 1)), {}, r"'day' .* holds Date"),
    ],
)
def test_tables_that_cannot_be(frame, options, says):
    assert re.search(says, refusal(frame, **options))


def test_labels_of_tables():
    x = {"a": [1.0, 2.0, 3.0]}
    numbers = load_samples(pl.DataFrame({**x, "y": [0.5, 1.0, 2.5]}))
    assert numbers.labels.dtype == np.float32 and numbers.classes == () and not numbers.multilabel
    several = load_samples(pl.DataFrame({**x, "u": [0.5, 1.0, 2.5], "v": [1.0, 0.0, 1.0]}), label=["u", "v"])
    assert several.labels.tolist() == [[0.5, 1.0], [1.0, 0.0], [2.5, 1.0]] and not several.multilabel
    hot = load_samples(pl.DataFrame({**x, "u": [0, 1, 1], "v": [1, 0, 1]}), label=["u", "v"])
    assert hot.multilabel and hot.classes == ("u", "v")
    lists = load_samples(pl.DataFrame({**x, "label": [["red"], [], ["blue", "red"]]}))
    assert lists.multilabel and lists.classes == ("blue", "red") and lists.labels.tolist() == [[0, 1], [0, 0], [1, 1]]
    prices = load_samples(pl.DataFrame({**x, "label": [250_000, 1, 2]}), task="regression")
    assert (
        prices.labels.tolist() == [250_000, 1, 2] and prices.labels.dtype == np.float32 and prices.task == "regression"
    )
    whole = load_samples(pl.DataFrame({**x, "label": [0.0, 2.0, 1.0]}), task="classification")
    assert whole.labels.dtype == np.int64 and whole.classes == ("0", "1", "2")
    hidden = load_samples(pl.DataFrame({**x, "label": [-1, -1, -1]}))
    assert not hidden.labelled
    assert load_samples(pl.DataFrame({**x, "label": [True, False, True]})).labels.tolist() == [1, 0, 1]
    with pytest.raises(NotApplicable, match="has no labels"):
        _ = load_samples(pl.DataFrame(x)).labels


def test_lists_of_numbers_in_a_table_are_tokens_series_or_arrays():
    ids = pl.DataFrame({"input_ids": [[5, 6, 7], [8]], "attention_mask": [[1, 1, 1], [1]], "labels": [[0, 1, 0], [1]]})
    samples = load_samples(ids)
    assert samples.kind == "tokens" and samples.labels.tolist() == [[0, 1, 0], [1, -100, -100]]
    fields = inputs(samples)
    assert fields["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]] and fields["attention_mask"].tolist()[1] == [1, 0, 0]
    series = load_samples(pl.DataFrame({"wave": [[0.1, 0.2], [0.3]], "label": [0, 1]}))
    assert series.kind == "series" and series.records.lengths.tolist() == [2, 1]
    vectors = load_samples(pl.DataFrame({"v": [[0.1, 0.2], [0.3, 0.4]]}))
    assert vectors.kind == "vector" and vectors.records.lengths is None
    grids = load_samples(pl.DataFrame({"m": [[[1.0, 2.0]], [[3.0, 4.0]]]}))
    assert grids.kind == "array" and grids.read(1).tolist() == [[3.0, 4.0]]
    assert "no array of numbers in row 1" in refusal(pl.DataFrame({"v": [[1.0], None]}))


def test_folders_of_tables_have_parts(tmp_path):
    write(TABLE, tmp_path / "train.csv")
    write(TABLE[:1], tmp_path / "test.csv")
    assert len(load_samples(tmp_path, split="train")) == 3 and len(load_samples(tmp_path, split="test")) == 1
    assert "holds the parts test, train" in refusal(tmp_path)
    assert "no split 'dev'; it has test, train" in refusal(tmp_path, split="dev")
    data = tmp_path / "hub" / "data"
    data.mkdir(parents=True)
    for i in range(2):
        write(TABLE, data / f"train-0000{i}-of-00002.parquet")
    assert len(load_samples(tmp_path / "hub", split="train")) == len(load_samples(tmp_path / "hub")) == 6
    parts = TABLE.with_columns(split=pl.Series(["train", "test", "train"]))
    path = write(parts, tmp_path / "one.parquet")
    assert load_samples(path, split="train").labels.tolist() == [0, 0]
    assert "no split 'val'; it has test, train" in refusal(path, split="val")


def test_damaged_tables(tmp_path):
    for suffix in (".parquet", ".jsonl", ".json", ".arrow", ".feather"):
        (tmp_path / f"a{suffix}").write_bytes(b"\x00junk{")
        assert "damaged" in refusal(tmp_path / f"a{suffix}")
    (tmp_path / "a.csv").write_text("")
    assert "damaged" in refusal(tmp_path / "a.csv")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3,4,5\n")
    assert "ragged.csv" in refusal(tmp_path / "ragged.csv")


def test_pandas_frames():
    frame = pytest.importorskip("pandas").DataFrame(TABLE.to_dict(as_series=False))
    assert inputs(load_samples(frame))["input"].tolist() == [[31, 0, 1, 1], [40, 1, 0, 0], [22, 0, 1, 1]]
    frame["colour"] = frame["colour"].astype("category").cat.set_categories(["green", "red", "blue"])
    assert inputs(load_samples(frame, columns="colour"))["input"].tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]
    frame.loc[1, "age"] = np.nan
    assert "column 'age' of table has nan in row 1" in refusal(frame)


# ------------------------------------------------------------------------------ Hugging Face folders


def png(colour: int = 0, size: tuple[int, int] = (4, 5)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def wav(values: np.ndarray, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, rate, values)
    return file.getvalue()


def save_to_disk(folder: Path, frame: pl.DataFrame, features: dict, indices: list[int] | None = None) -> None:
    """What `datasets` writes."""
    folder.mkdir(parents=True)
    frame.write_ipc_stream(folder / "data-00000-of-00001.arrow")
    state: dict = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": None}
    if indices is not None:
        pl.DataFrame({"indices": indices}).write_ipc_stream(folder / "indices.arrow")
        state["_indices_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


LABEL = {"names": ["neg", "pos", "none"], "_type": "ClassLabel"}


def test_saved_data_sets(tmp_path):
    frame = pl.DataFrame({"text": ["a b", "c d", "e"], "label": [0, 1, 0]})
    features = {"text": {"_type": "Value"}, "label": LABEL}
    save_to_disk(tmp_path / "one", frame, features, indices=[2, 1])
    samples = load_samples(tmp_path / "one")
    assert samples.kind == "tokens" and samples.read(0) == "e" and samples.classes == ("neg", "pos", "none")
    save_to_disk(tmp_path / "all" / "train", frame, features)
    save_to_disk(tmp_path / "all" / "test", frame[:1], features)
    (tmp_path / "all" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    assert len(load_samples(tmp_path / "all", split="train")) == 3
    assert "give split= one of train, test" in refusal(tmp_path / "all")
    assert "no split 'dev'" in refusal(tmp_path / "all", split="dev")
    state = tmp_path / "one" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../all/train/data-00000-of-00001.arrow"}]}))
    assert "names no files that are in the folder" in refusal(tmp_path / "one")
    state.write_text("junk")
    assert "cannot read" in refusal(tmp_path / "one")


def test_pictures_and_sound_in_columns(tmp_path):
    frame = pl.DataFrame({"image": [{"bytes": png(9), "path": None}, {"bytes": png(8), "path": None}], "label": [0, 2]})
    save_to_disk(tmp_path / "images", frame, {"image": {"_type": "Image"}, "label": LABEL})
    samples = load_samples(tmp_path / "images")
    assert samples.kind == "image" and samples.image(1)[0, 0].tolist() == [8, 0, 0] and samples.classes[2] == "none"
    write(frame, tmp_path / "images.parquet")
    assert load_samples(tmp_path / "images.parquet").image(0).shape == (5, 4, 3)
    waves = [np.arange(80, dtype=np.int16), np.arange(40, dtype=np.int16)]
    frame = pl.DataFrame({"audio": [{"bytes": wav(values), "path": "a.wav"} for values in waves]})
    save_to_disk(tmp_path / "sound", frame, {"audio": {"_type": "Audio"}})
    samples = load_samples(tmp_path / "sound")
    assert samples.kind == "series" and samples.records.lengths.tolist() == [80, 40] and not samples.labelled
    assert np.array_equal(inputs(samples)["input"][1, :40], waves[1].astype(np.float32) / 32768)
    (tmp_path / "a.png").write_bytes(png(7))
    write(pl.DataFrame({"file": ["a.png"], "label": [0]}), tmp_path / "files.jsonl")
    assert load_samples(tmp_path / "files.jsonl").image(0)[0, 0, 0] == 7
    write(pl.DataFrame({"file": ["b.png"], "label": [0]}), tmp_path / "files.jsonl")
    assert "no file in row 0 (b.png)" in refusal(tmp_path / "files.jsonl")


# --------------------------------------------------------------------------------------------- sound


def tone(rate: int, seconds: float = 0.5, hertz: float = 200) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32) / 2


def test_a_folder_of_sound(tmp_path):
    for name, values in (("a", tone(8000)), ("b", tone(8000, 0.25))):
        (tmp_path / name).mkdir()
        wavfile.write(tmp_path / name / "x.wav", 8000, values)
    samples = load_samples(tmp_path)
    assert samples.kind == "series" and samples.classes == ("a", "b") and samples.records.rate == 8000
    assert samples.title(1) == "recording 1: 0.25 s" and samples.thumbnail(0).shape[2] == 3
    (batch,) = samples.batches(samples.records.signature(), 2)
    assert batch.mask.sum(1).tolist() == [4000, 2000]
    assert np.array_equal(batch.images[0].numpy(), tone(8000)) and not batch.images[1, 2000:].any()
    cut = None
    with pytest.warns(NetopsyWarning, match="1 of 2 samples are longer than the 3,000 values"):
        cut = load_samples(tmp_path, length=3000)
    assert inputs(cut)["input"].shape == (2, 3000)
    slow = load_samples(tmp_path, rate=4000)
    assert slow.records.lengths.tolist() == [2000, 1000]
    assert np.abs(inputs(slow)["input"][0, 50:-50] - tone(4000)[50:-50]).max() < 2e-3  # the same tone, sampled anew
    flat = load_samples(tmp_path, label=None)
    assert not flat.labelled and len(flat) == 2


@pytest.mark.parametrize(
    ("values", "back"),
    [
        (np.array([0, 16384, -32768], np.int16), [0, 0.5, -1]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
        (np.array([0, 0.5, -1], np.float32), [0, 0.5, -1]),
    ],
)
def test_sound_of_any_depth_is_in_minus_one_to_one(tmp_path, values, back):
    (tmp_path / "c").mkdir()
    wavfile.write(tmp_path / "c" / "x.wav", 8000, values)
    assert inputs(load_samples(tmp_path))["input"].tolist() == [back]


def test_sound_that_cannot_be(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    wavfile.write(folder / "a.wav", 8000, tone(8000))
    wavfile.write(folder / "b.wav", 16000, tone(16000))
    assert "8,000 and 16,000 Hz" in refusal(tmp_path) and "rate=8000" in refusal(tmp_path)
    assert len(load_samples(tmp_path, rate=8000)) == 2
    wavfile.write(folder / "b.wav", 8000, np.stack([tone(8000)] * 2, 1))
    assert "1 and 2 channels; give mono=True" in refusal(tmp_path)
    assert np.allclose(inputs(load_samples(tmp_path, mono=True))["input"], tone(8000))
    (folder / "b.wav").write_bytes(b"RIFF\x00\x00")
    assert "cannot read the recording" in refusal(tmp_path)
    wavfile.write(folder / "b.wav", 8000, tone(8000)[:0])
    assert "b.wav is empty" in refusal(tmp_path)
    assert "at least 1" in refusal(tmp_path, rate=0)
    (tmp_path / "d").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "d" / "x.png")
    assert "no sound; leave rate" in refusal(tmp_path, rate=8000)


def test_flac_needs_an_extra_or_is_read(tmp_path):
    (tmp_path / "c").mkdir()
    path = tmp_path / "c" / "a.flac"
    try:
        import soundfile
    except ImportError:
        path.write_bytes(b"fLaC")
        with pytest.raises(MissingExtra, match=r"pip install 'netopsy\[audio\]'"):
            load_samples(tmp_path)
        return
    soundfile.write(path, tone(8000), 8000)
    assert np.abs(inputs(load_samples(tmp_path))["input"][0] - tone(8000)).max() < 1e-4
    path.write_bytes(b"fLaC")
    assert "cannot read the recording" in refusal(tmp_path)


def test_labels_of_sound_in_a_table(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8000, tone(8000))
    (tmp_path / "labels.csv").write_text("file,label\na.wav,2.5\n")
    samples = load_samples(tmp_path, task="regression")
    assert samples.kind == "series" and samples.labels.tolist() == [2.5]


# -------------------------------------------------------------------------------------------- arrays


def test_arrays_of_every_shape(tmp_path):
    rng = np.random.default_rng(0)
    cases = [
        (rng.normal(size=(4, 7)), "vector"),
        (rng.integers(0, 9, (4, 7)), "tokens"),
        (rng.integers(-9, 9, (4, 7)).astype(np.int16), "series"),
        (rng.integers(0, 255, (4, 7, 6), np.uint8), "image"),
        (rng.integers(0, 255, (4, 7, 6, 13), np.uint8), "image"),
        (rng.normal(size=(4, 2, 5, 6, 7)), "array"),
        (rng.normal(size=(4, 3, 2, 5, 6, 7)), "array"),
        (rng.normal(size=4), "vector"),
    ]
    for x, kind in cases:
        for source in (x, torch.from_numpy(x), (x, np.arange(4)), {"x": x, "y": np.arange(4)}):
            samples = load_samples(source)
            assert samples.kind == kind and len(samples) == 4
            assert samples.labelled == isinstance(source, tuple | dict)
        np.savez(tmp_path / "a.npz", x=x)
        assert load_samples(tmp_path / "a.npz").kind == kind
        np.save(tmp_path / "a.npy", x)
        assert load_samples(tmp_path / "a.npy").kind == kind
        if kind != "image":
            assert np.allclose(
                inputs(samples)[samples.records.signature().names[0]].reshape(x.shape)
                * (32768 if kind == "series" else 1),
                x,
                atol=1e-3,
            )


def test_kind_says_what_a_shape_does_not():
    x = np.random.default_rng(0).normal(size=(4, 2, 9))
    assert "give 0..1, or uint8, or range=(low, high)" in refusal(x)
    assert load_samples(x, kind="series").records.signature().inputs[0].kind == "series"
    assert load_samples(x, kind="array").thumbnail(0).dtype == np.uint8
    assert "no kind of samples 'serie'; nearest: series" in refusal(x, kind="serie")
    assert load_samples(np.zeros((4, 9), np.uint8), kind="vector").kind == "vector"
    assert "whole numbers from 0" in refusal(np.full((4, 9), -1), kind="tokens")
    assert "whole numbers from 0" in refusal(np.full((4, 9), 0.5), kind="tokens")
    assert "NaN or infinite in row 2" in refusal(np.where(np.arange(4)[:, None] == 2, np.nan, np.ones((4, 3))))


def test_pictures_of_any_range_and_number_of_channels():
    rng = np.random.default_rng(0)
    for channels in (1, 2, 4, 5, 13):
        x = rng.integers(0, 65536, (3, 6, 5, channels)).astype(np.uint16)
        assert np.allclose(load_samples(x).read(1), x[1] / 65535 * 255, atol=1e-3)
        assert load_samples(x).thumbnail(0).shape == (6, 5, 3)
    x = rng.uniform(-3, 5, (3, 6, 5, 2))
    assert np.allclose(load_samples(x, range=(-3, 5)).read(0), (x[0] + 3) / 8 * 255, atol=1e-3)
    assert "the range given is 0 to 1" in refusal(x, range=(0, 1))
    for wrong in ((1, 0), (0, np.inf), 3, "ab", (1, 1)):
        assert "must be two numbers" in refusal(x, range=wrong)
    volumes = rng.integers(0, 256, (2, 1, 4, 5, 6), np.uint8)
    assert np.allclose(inputs(load_samples(volumes))["input"], volumes / 255)
    assert load_samples(volumes).thumbnail(0).shape == (5, 6, 3)


def test_wrong_channels_are_one_sentence():
    samples = load_samples(np.zeros((2, 32, 32, 13), np.uint8))
    network = load_network("netopsy:digits-a")
    with pytest.raises(SamplesError, match=r"13 channels and the network takes [13]; give images of"):
        list(samples.batches(network.preprocessing, 2))


def test_labels_of_arrays():
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    numbers = load_samples((x, np.array([0.0, 1.0, 2.0, 0.5])))
    assert numbers.labels.dtype == np.float32 and numbers.labels.shape == (4,) and not numbers.multilabel
    table = load_samples((x, x[:, :2]))
    assert table.labels.shape == (4, 2) and not table.multilabel and table.classes == ()
    hot = load_samples((x, np.eye(4)[:, :2]))
    assert hot.multilabel
    as_numbers = load_samples((x, np.eye(4)[:, :2]), task="regression")
    assert not as_numbers.multilabel and as_numbers.classes == ()
    ids = np.arange(12).reshape(4, 3)
    tags = load_samples((ids, ids % 2))
    assert tags.labels.dtype == np.int64 and tags.labels.shape == (4, 3) and not tags.multilabel
    masks = load_samples((np.zeros((4, 6, 5), np.uint8), np.zeros((4, 6, 5), int)))
    assert masks.labels.shape == (4, 6, 5)
    network = load_network(torch.nn.Sequential(torch.nn.Linear(3, 2)), example=table)
    assert find_task(network, table).name == REGRESSION.name


def test_inputs_by_name():
    ids, mask = np.array([[4, 5, 6], [7, 0, 0]]), np.array([[1, 1, 1], [1, 0, 0]])
    samples = load_samples({"input_ids": ids, "attention_mask": mask, "labels": np.array([1, 0])})
    assert samples.kind == "tokens" and samples.records.lengths.tolist() == [3, 1] and samples.labels.tolist() == [1, 0]
    assert not load_samples({"input_ids": ids, "attention_mask": mask}).labelled
    two = load_samples(({"a": np.zeros((2, 3)), "b": np.ones((2, 4))}, [0, 1]))
    assert set(inputs(two)) == {"a", "b"} and two.labels.tolist() == [0, 1]
    assert "one row a sample; they have a 2, b 3" in refusal({"a": np.zeros((2, 3)), "b": np.ones((3, 4))})
    assert "no array 'z'" in refusal({"a": np.zeros((2, 3))}, label="z")
    assert "'t' of arrays is text beside" in refusal({"a": np.zeros((2, 3)), "t": ["x", "y"]})


def test_lengths_in_an_npz(tmp_path):
    x = np.arange(12, dtype=np.int16).reshape(2, 6) * 1000
    np.savez(tmp_path / "a.npz", x=x, length=[4, 6], y=[0, 1], rate=8000, speaker=[3, 4])
    samples = load_samples(tmp_path / "a.npz")
    assert samples.kind == "series" and samples.records.lengths.tolist() == [4, 6] and samples.records.rate == 8000
    assert np.allclose(inputs(samples)["input"][1], x[1] / 32768)
    np.savez(tmp_path / "b.npz", x=x, length=[4, 7], y=[0, 1])
    assert "go from 4 to 7; its samples are 6 long" in refusal(tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", x=x, length=[4, 5, 6], y=[0, 1])
    assert "one whole number a sample" in refusal(tmp_path / "b.npz")
    assert "8,000 Hz and not of 16,000" in refusal(tmp_path / "a.npz", rate=16000)


def test_folders_of_arrays_and_of_texts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "arrays" / name).mkdir(parents=True)
        (tmp_path / "texts" / name).mkdir(parents=True)
        np.save(tmp_path / "arrays" / name / "x.npy", np.full((2, 3, 4), 0.5, np.float32))
        (tmp_path / "texts" / name / "x.txt").write_text(f"text of {name}\nand more")
    samples = load_samples(tmp_path / "arrays")
    assert samples.kind == "array" and inputs(samples)["input"].shape == (2, 2, 3, 4)
    texts = load_samples(tmp_path / "texts")
    assert texts.kind == "tokens" and texts.classes == ("a", "b") and texts.title(1) == "text 1: text of b and more"
    np.save(tmp_path / "arrays" / "b" / "y.npy", np.zeros((2, 3, 5), np.float32))
    with pytest.raises(SamplesError, match="row 2, unlike before"):
        inputs(load_samples(tmp_path / "arrays"))


def test_a_plain_folder_of_images_without_labels(tmp_path):
    for i in range(3):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i}.png")
    assert "label=None" in refusal(tmp_path)
    samples = load_samples(tmp_path, label=None)
    assert len(samples) == 3 and not samples.labelled and samples.image(2)[0, 0, 0] == 2
    assert samples.title(2) == "image 2" and samples.thumbnail(2).tolist() == samples.image(2).tolist()
    data = samples.show(0).split("base64,")[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (4, 4)
    assert len(samples.subset(2)) == 2


# --------------------------------------------------------------------------- data sets and DataLoaders


class Listed(torch.utils.data.Dataset):
    """A dataset of whatever items it is given."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_datasets_of_every_kind():
    x = torch.arange(12.0).reshape(4, 3)
    assert inputs(load_samples(Listed(*((row, 0) for row in x))))["input"].tolist() == x.tolist()
    assert not load_samples(Listed(*x)).labelled
    assert load_samples(Listed(("good film", 1), ("bad", 0))).read(0) == "good film"
    assert load_samples(Listed("good film", "bad")).kind == "tokens"
    item = {"input_ids": torch.tensor([3, 4]), "attention_mask": torch.tensor([1, 1]), "labels": 1}
    longer = {"input_ids": torch.tensor([3, 4, 5]), "attention_mask": torch.tensor([1, 1, 1]), "labels": 0}
    samples = load_samples(Listed(item, longer))
    assert samples.kind == "tokens" and samples.records.lengths.tolist() == [2, 3] and samples.labels.tolist() == [1, 0]
    assert inputs(samples)["input_ids"].tolist() == [[3, 4, 0], [3, 4, 5]]
    images = load_samples(
        Listed({"image": Image.new("L", (5, 4)), "label": 1}, {"image": Image.new("L", (5, 4)), "label": 0})
    )
    assert images.kind == "image" and images.image(0).shape == (4, 5, 1) and images.labels.tolist() == [1, 0]
    assert load_samples(Listed(Image.new("L", (5, 4)))).kind == "image"
    series = load_samples(Listed(*((torch.zeros(2, n), 0.5) for n in (5, 7))))
    assert (
        series.kind == "series" and series.records.lengths.tolist() == [5, 7] and series.labels.tolist() == [0.5, 0.5]
    )
    video = load_samples(Listed((torch.zeros(3, 4, 8, 8), 0)))
    assert video.kind == "array" and video.thumbnail(0).shape == (8, 8, 3)
    pair = load_samples(Listed((torch.zeros(2), torch.ones(3), 1)))
    assert set(inputs(pair)) == {"input_0", "input_1"}
    five = load_samples(Listed((torch.zeros(5, 8, 9, dtype=torch.uint8), 0)))
    assert five.kind == "image" and five.image(0).shape == (8, 9, 5)


def test_datasets_that_cannot_be():
    assert "other axes, than item 0" in refusal(Listed((torch.zeros(2), 0), (torch.zeros(2, 2), 0)))
    assert "is a object; give tensors or arrays of numbers" in refusal(Listed((object(), 0)))
    assert "have no 'kind'" in refusal(Listed({"x": torch.zeros(2)}), label="kind")
    samples = load_samples(Listed((torch.tensor([1.0, np.nan]), 0)))
    with pytest.raises(SamplesError, match="NaN or infinite in row 0"):
        inputs(samples)


def test_a_dataloader_as_it_is():
    x, y = torch.arange(20.0).reshape(10, 2), torch.arange(10) % 3
    data = TensorDataset(x, y)
    for loader in (
        DataLoader(data, batch_size=4, shuffle=True),
        DataLoader(data, batch_size=4, drop_last=True),
        DataLoader(data, batch_size=None),
    ):
        state = torch.get_rng_state()
        samples = load_samples(loader)
        assert torch.equal(state, torch.get_rng_state())
        kept = len(samples)
        assert inputs(samples)["input"].tolist() == x[:kept].tolist() and samples.labels.tolist() == y[:kept].tolist()
    part = load_samples(DataLoader(data, sampler=SubsetRandomSampler([7, 2, 5])))
    assert part.labels.tolist() == [2, 2, 1]

    def collate(items):
        return {"a": torch.stack([one for one, _ in items]) * 2, "label": torch.tensor([label for _, label in items])}

    samples = load_samples(DataLoader(data, batch_size=3, collate_fn=collate))
    assert (
        np.array_equal(next(iter(inputs(samples).values())), (x * 2).numpy()) and samples.labels.tolist() == y.tolist()
    )


class Stream(IterableDataset):
    def __iter__(self):
        yield from ((torch.full((3,), float(i)), i % 2) for i in range(7))


def test_iterable_datasets_are_kept_within_a_bound(monkeypatch):
    for source in (DataLoader(Stream(), batch_size=3), Stream()):
        samples = load_samples(source)
        assert inputs(samples)["input"][:, 0].tolist() == list(range(7)) and samples.labels.tolist() == [0, 1] * 3 + [0]
    monkeypatch.setattr("netopsy.samples.datasets.MOST_BYTES", 40)
    assert "give fewer samples" in refusal(DataLoader(Stream(), batch_size=3))


# -------------------------------------------------------------------------------------------- shards


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
    return path


def test_shards(tmp_path):
    for i in range(3):
        members = {f"{i}/a.png": png(i), f"{i}/a.cls": str(i).encode(), f"{i}/b.png": png(9), f"{i}/b.cls": b"0"}
        shard(tmp_path / f"s-{i:03}.tar", members)
    samples = load_samples(tmp_path)
    assert samples.kind == "image" and len(samples) == 6 and samples.labels.tolist() == [0, 0, 1, 0, 2, 0]
    assert samples.image(2)[0, 0, 0] == 1
    assert len(load_samples(str(tmp_path / "s-{001..002}.tar"))) == 4
    assert len(load_samples(tmp_path / "s-000.tar", label=None)) == 2
    other = shard(
        tmp_path / "t.tar", {"x.wav": wav(np.arange(9, dtype=np.int16)), "x.json": b'{"label": "dog", "age": 3}'}
    )
    sound = load_samples(other)
    assert sound.kind == "series" and sound.classes == ("dog",)
    assert load_samples(other, label="age", task="regression").labels.tolist() == [3.0]
    assert "has no 'name'" in refusal(other, label="name")
    texts = load_samples(shard(tmp_path / "u.tar", {"x.txt": b"hello", "y.txt": b"there"}))
    assert texts.kind == "tokens" and texts.read(1) == "there" and not texts.labelled
    np.save(file := io.BytesIO(), np.arange(3.0))
    assert load_samples(shard(tmp_path / "v.tar", {"x.npy": file.getvalue()})).kind == "vector"
    assert "some samples" in refusal(shard(tmp_path / "w.tar", {"x.png": png(), "y.png": png(), "x.cls": b"1"}))
    assert "has none of .png" in refusal(shard(tmp_path / "w.tar", {"x.png": png(), "y.cls": b"1", "x.cls": b"1"}))
    assert "give shards with pictures" in refusal(shard(tmp_path / "w.tar", {"x.bin": b"1"}))
    (tmp_path / "w.tar").write_bytes(b"junk" * 300)
    assert "cannot read the shard" in refusal(tmp_path / "w.tar")
    assert "cannot read the shard" in refusal(str(tmp_path / "z-{00..01}.tar"))


# --------------------------------------------------------------------------------------------- tasks


def score_by_length(outputs, targets):
    return outputs.sum(1)


def test_tasks_by_name_and_by_function():
    x = np.zeros((4, 3))
    assert load_samples(x, task="agreement").task == "agreement"
    assert load_samples((x, [0, 1, 0, 1]), task="next_token").task == "next token"
    assert load_samples(x, task=score_by_length).task is score_by_length
    assert load_samples(x, task=f"{__name__}:score_by_length").task is score_by_length
    assert load_samples(load_samples(x), task="embedding").task == "embedding"
    assert "no task 'agrement'; nearest: agreement" in refusal(x, task="agrement")
    assert "cannot import the task 'nowhere:f'" in refusal(x, task="nowhere:f")
    assert "the task is a int" in refusal(x, task=3)
    assert load_samples(x, task="agreement").subset(2).task == "agreement"


def test_a_series_of_one_channel_fits_networks_with_and_without_its_axis():
    x = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    samples = load_samples((x, np.zeros(5, int)), kind="series")
    conv = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten())
    assert load_network(conv, example=samples).signature.inputs[0].shape == (1, 16)
    linear = torch.nn.Linear(16, 3)
    assert load_network(linear, example=samples).signature.inputs[0].shape == (16,)
    signature = Signature((Input("x", (1, 16), kind="series"),))
    assert np.array_equal(inputs(samples, signature)["input"], x[:, None])
    assert np.array_equal(
        inputs(load_samples(x[:, None], kind="series"), Signature((Input("x", (16,), kind="series"),)))["input"], x
    )


# ---------------------------------------------------------------------------------------------- real


@pytest.mark.real
def test_real_samples(shared):
    data = shared / "data"
    trec = load_samples(data / "text" / "trec-test.csv")
    assert trec.kind == "tokens" and len(trec) == 500 and trec.classes == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    assert trec.read(0) == "How far is it from Denver to Aspen ?" and trec.classes[trec.labels[0]] == "NUM"
    assert len(load_samples(data / "text" / "tinystories-17.txt")) == 17
    digits = load_samples(data / "audio" / "spoken-digits.npz", rate=8000)
    assert digits.kind == "series" and len(digits) == 600 and digits.records.rate == 8000
    raw = np.load(data / "audio" / "spoken-digits.npz")
    (batch,) = digits.batches(digits.records.signature(), 3, order=[0, 1, 599])
    assert np.array_equal(batch.images[2].numpy(), raw["x"][599] / np.float32(32768))
    assert batch.mask.sum(1).tolist() == raw["length"][[0, 1, 599]].tolist()
    assert digits.title(0) == "recording 0: 0.30 s"


class Apart(nn.Module):
    """What changes from the first picture to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 2, 1)

    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        return self.mix(image2 - image1)


def film(folder: Path, scenes: dict[str, int], size: tuple[int, int] = (16, 24)) -> np.ndarray:
    """Frames in a folder a scene, as PNG; returns their pixels in order."""
    pixels = np.random.default_rng(5).integers(0, 256, (sum(scenes.values()), *size, 3), np.uint8)
    rows = iter(pixels)
    for scene, count in scenes.items():
        (folder / scene).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(next(rows)).save(folder / scene / f"{number:04}.png")
    return pixels


def flow_network(size: tuple[int, int], pixels: tuple[float, float] = (-1.0, 1.0)) -> Network:
    pair = [Input(name, (3, *size), kind="image", pixels=pixels) for name in ("image1", "image2")]
    return load_network(Apart(), example=Signature(tuple(pair)))


def test_frames_of_a_film_are_pairs_within_each_scene(tmp_path: Path) -> None:
    pixels = film(tmp_path / "film", {"a": 3, "b": 2, "c": 1})
    samples = load_samples(f"frames:{tmp_path / 'film'}")
    (batch,) = samples.batches(flow_network((16, 24)).preprocessing, 8)
    for name, rows in (("image1", [0, 1, 3]), ("image2", [1, 2, 4])):
        expected = pixels[rows].transpose(0, 3, 1, 2) / 127.5 - 1
        np.testing.assert_allclose(batch.inputs[name], expected, atol=1e-6)
    assert samples.title(2).endswith("0000.png, 0001.png") and samples.thumbnail(0).shape == (16, 24, 3)
    row = score(flow_network((8, 8)), samples).row(0, named=True)  # of another size they are resized
    assert row["images"] == 3 and row["agreement"] == 1
    with pytest.raises(SamplesError, match="no two pictures in one folder"):
        load_samples(f"frames:{tmp_path / 'film' / 'c'}")
    with pytest.raises(SamplesError, match="have no labels"):
        load_samples(f"frames:{tmp_path / 'film'}", label="flow")
    with pytest.raises(SamplesError, match="holds 2 pictures"):
        sparsity(load_network("netopsy:lenet5", weights="random"), samples)


def test_pictures_and_flow_of_several_folders_go_together_by_name(tmp_path: Path) -> None:
    first, second = (film(tmp_path, {scene: 3}, (17, 30)) for scene in ("one", "two"))
    flows = np.random.default_rng(0).normal(size=(3, 2, 17, 30)).astype("<f4")
    (tmp_path / "flow").mkdir()
    for number, flow in enumerate(flows):
        head = b"PIEH" + np.array([30, 17], "<i4").tobytes()
        (tmp_path / "flow" / f"{number}.flo").write_bytes(head + flow.transpose(1, 2, 0).tobytes())
    source = ",".join(
        f"{name}={tmp_path / folder}" for name, folder in [("image2", "two"), ("image1", "one"), ("flow", "flow")]
    )
    samples = load_samples(source)
    np.testing.assert_array_equal(samples.labels, flows[:, :, 0:16, 3:27])  # the middle, in multiples of 8
    network = flow_network((16, 24), (0.0, 1.0))
    (batch,) = samples.batches(network.preprocessing, 8)
    np.testing.assert_allclose(batch.inputs["image1"], first[:, 0:16, 3:27].transpose(0, 3, 1, 2) / 255, atol=1e-6)
    np.testing.assert_allclose(batch.inputs["image2"], second[:, 0:16, 3:27].transpose(0, 3, 1, 2) / 255, atol=1e-6)
    with torch.no_grad():
        error = (network.module(**batch.inputs) - torch.from_numpy(samples.labels)).abs().mean().item()
    assert score(network, samples)["loss"][0] == pytest.approx(error, rel=1e-5)
    with pytest.raises(SamplesError, match=r"maps of 16x24 .*8x8.*size=\(16, 24\)"):
        score(flow_network((8, 8)), samples)
    (tmp_path / "two" / "0001.png").unlink()
    with pytest.raises(SamplesError, match="image2 has 2, image1 has 3, flow has 3"):
        load_samples(source)
    (tmp_path / "flow" / "1.flo").write_bytes(b"PIEH" + bytes(20))
    (tmp_path / "one" / "0001.png").unlink()
    (tmp_path / "flow" / "2.flo").unlink()
    with pytest.raises(SamplesError, match=r"1\.flo is damaged"):
        load_samples(source)


class Flow(torch.utils.data.Dataset):
    """As torchvision's data sets of optical flow: two Pillow images, the flow, and perhaps where it is valid."""

    def __init__(self, *beyond: object) -> None:
        self.beyond = beyond

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> tuple[object, ...]:
        pictures = [Image.fromarray(np.full((16, 8, 3), 10 * row + k, np.uint8)) for k in (0, 1)]
        return (*pictures, *self.beyond)


def test_both_pictures_of_a_data_set_of_flow_are_taken() -> None:
    samples = load_samples(Flow(np.ones((2, 16, 8), np.float32)))
    (batch,) = samples.batches(flow_network((16, 8)).preprocessing, 8)
    assert (batch.inputs["image2"] - batch.inputs["image1"]).numpy() == pytest.approx(1 / 127.5, abs=1e-6)
    assert samples.labels.shape == (2, 2, 16, 8)
    assert not load_samples(Flow(None)).labelled  # a part to be judged elsewhere
    sparse = Flow(np.ones((2, 16, 8), np.float32), np.ones((16, 8), bool))
    with pytest.raises(SamplesError, match="no score leaves places out; give label=None"):
        load_samples(sparse)
    assert len(load_samples(sparse, label=None)) == 2
