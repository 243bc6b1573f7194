"""A user's mistake with samples gets one sentence that names it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import nn

from netopsy import load_network, score
from netopsy.cli import main
from netopsy.errors import NetopsyWarning, SamplesError
from netopsy.network.signature import Input, Signature, signature_of
from netopsy.samples.load import load_samples
from patients import Letters

X = np.zeros((4, 5, 6, 3), np.uint8)
Y = np.arange(4)


def refusal(source: object, **options: object) -> str:
    with pytest.raises(SamplesError) as caught:
        load_samples(source, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 400
    return message


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X, Y[:3], r"4 images and 3 labels"),
        (X, Y - 1, r"down to -1; number the classes from 0"),
        (X, np.where(Y == 2, np.nan, Y), r"label of row 2 .* is NaN or infinite"),
        (X, np.array(list("abcd")), r"<U1 of shape \(4,\); give whole numbers"),
        (X, Y[:, None].repeat(3, 1), r"other values than 0 and 1"),
        (X, Y * 10**9, r"up to 3000000000; number the classes"),
        (X, np.array([2**63] * 4, np.uint64), r"up to 9223372036854775808"),
        (X.transpose(0, 3, 1, 2), Y, r"\(4, 3, 5, 6\).*move the channels last"),
        (np.zeros((4, 70, 70, 65), np.uint8), Y, r"\(4, 70, 70, 65\).*1, 3 or 4 channels, or as many as the network"),
        (X[0, 0], Y, r"uint8 of shape \(6, 3\)"),
        (X.astype(np.int64), Y, r"int64 of shape .*give uint8, or floats in 0\.\.1"),
        (X.astype(bool), Y, r"bool"),
        (X.astype(complex), Y, r"complex128"),
        (X - np.float32(2.5), Y, r"floats from -2\.5 to -2\.5; give 0\.\.1"),
        (X + 255.0, Y, r"from 255 to 255"),
        (np.where(np.arange(6)[:, None] == 3, np.nan, X), Y, r"NaN"),
        (X[:0], Y[:0], r"no images"),
        (X[:, :0], Y, r"\(4, 0, 6, 3\)"),
        ([[1, 2], [3]], Y, r"differing lengths"),
    ],
)
def test_arrays_that_cannot_be(x, y, says, tmp_path):
    with pytest.raises(SamplesError, match=says):
        load_samples((x, y))
    if isinstance(x, np.ndarray):
        np.savez(tmp_path / "bad.npz", x=x, y=y)
        with pytest.raises(SamplesError, match=says):
            load_samples(tmp_path / "bad.npz")


def test_damaged_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 255, (50, 9, 9), dtype=np.uint8), y=np.arange(50))
    whole = path.read_bytes()
    damaged = [b"", b"junk\n", whole[:200], whole[: len(whole) // 2], whole[:1000] + bytes(64) + whole[1064:]]
    damaged.append(whole.replace(b"NUMPY", b"NUMPI"))
    for contents in damaged:
        path.write_bytes(contents)
        assert "damaged" in refusal(path)


def test_pickled_objects_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "a.npz", x=np.array([Trap()], dtype=object), y=Y, allow_pickle=True)
    assert "pickled objects" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=X, y=Y, classes=np.array([Trap()], dtype=object), allow_pickle=True)
    assert "pickled objects" in refusal(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


def test_npz_without_the_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", images=X, y=Y)
    assert "no array 'x_test'; it holds images, y" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=X, y=Y)
    assert "no array 'x_train'; it holds x, y" in refusal(tmp_path / "b.npz", split="train")
    assert "no array 'pixels'" in refusal(tmp_path / "b.npz", x="pixels")


def test_folders_that_hold_no_samples(tmp_path):
    assert "is empty" in refusal(tmp_path)
    (tmp_path / "cat").mkdir()
    assert "is empty" in refusal(str(tmp_path))
    Image.new("L", (4, 4)).save(tmp_path / "loose.png")
    assert "has images but no labels" in refusal(tmp_path)
    assert "no subfolder 'test'; nearest: cat" in refusal(tmp_path, split="test")
    (tmp_path / "classes.txt").write_text("dog\ncow\n")
    Image.new("L", (4, 4)).save(tmp_path / "cat" / "a.png")
    assert "subfolder 'cat', not among its class names; nearest: cow" in refusal(tmp_path)
    (tmp_path / "classes.txt").write_text("\n\n")
    assert "holds no class names" in refusal(tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(tmp_path)
    assert "cannot read the class names" in refusal(tmp_path, classes="nowhere.txt")


def test_parts_are_not_classes(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / part / "cat" / "a.png")
    assert "split='val'" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("file,label\na.png,0\nb.png,1\nc.png,1\n", {}, r"names 2 of 3 files that are not in .*, the first 'b\.png'"),
        ("file,label\n", {}, r"no rows"),
        ("", {}, r"no column 'file'"),
        ("file\na.png\n", {}, r"no labels"),
        ("name,label\na.png,0\n", {}, r"no column 'file'; it has name, label"),
        ("file,label\na.png,0\n", {"label": "kind"}, r"no column 'kind'; it has file, label"),
        ("file,label\na.png,0,1\n", {}, r"3 cells in row 2"),
        ("file,label\na.png,-1\n", {}, r"down to -1"),
        ("file,label\na.png,\n", {}, r"no label in row 2"),
        ("file,label\na.png,;\n", {}, r"no label in any row"),
        ("file,label\na.png,1234567890123456789012\n", {}, r"over 18 digits"),
        ("file,label\na.png,3\n", {"classes": ["x", "y"]}, r"labels for 4 classes, but 2 class names"),
        ("file,label\na.png,cut\n", {"classes": ["dog", "cat"]}, r"label 'cut', not among its classes; nearest: cat"),
        ("file,label\na.png,crane\n", {"classes": ["crane", "crane"]}, r"'crane', the name of several classes"),
        ("file,cat,dog\na.png,1,2\n", {}, r"'2' in one of its label columns cat, dog"),
        ("file,label\na.png,0\n", {"labels": "nowhere.csv"}, r"cannot read the labels in .*nowhere\.csv: No such file"),
    ],
)
def test_tables_that_cannot_be(tmp_path, text, options, says):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(SamplesError, match=says):
        load_samples(tmp_path, **options)


def test_tables_in_no_known_encoding(tmp_path):
    (tmp_path / "labels.csv").write_bytes("file,label\nä.png,0\n".encode("latin-1"))
    assert "UTF-8 CSV" in refusal(tmp_path)


def test_files_that_are_no_pictures(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\nlabels.csv,0\n")
    samples = load_samples(tmp_path)
    with pytest.raises(SamplesError, match=r"labels\.csv: not in a format that Pillow reads; mend or remove it\."):
        samples.image(0)
    for index in (1, -2):
        with pytest.raises(SamplesError, match="no image"):
            samples.image(index)


def test_sources_that_are_none(tmp_path):
    assert "no samples 'nowhere': it is no file or folder" in refusal("nowhere")
    (tmp_path / "a.txt").write_text("")
    assert "is a .txt" in refusal(tmp_path / "a.txt")
    assert "a int is no source" in refusal(3)
    with pytest.raises(SamplesError, match="it is no file or folder"):
        load_samples("x" * 300)
    assert "it is no file or folder" in refusal("nul\0")
    assert "of 3 is no pair" in refusal((X, Y, Y))
    assert "no option 'colour'; they have name, classes" in refusal((X, Y), colour=1)
    assert "no option 'x'; they have none" in refusal("digits", x="y")
    assert "no split 'valid'; give train, test, all" in refusal("digits", split="valid")
    assert "has no splits" in refusal((X, Y), split="test")
    assert "seed -1" in refusal((X, Y), count=2, seed=-1)
    assert "from 1 to 4" in refusal((X, Y), count=0)
    assert "from 1 to 4" in refusal((X, Y), count=5)


def test_torchvision_datasets_that_are_none(tmp_path):
    assert "nearest: CIFAR10, " in refusal("torchvision:CIFAR11")
    assert "nearest" in refusal("torchvision:ImageFolder")
    message = refusal("torchvision:CIFAR10", root=tmp_path)
    assert "download=True" in message and str(tmp_path) in message
    assert "no split 'val'; give train or test" in refusal("torchvision:MNIST", root=tmp_path, split="val")
    assert "Valid values are" in refusal("torchvision:SVHN", root=tmp_path, split="nosuch")
    assert "has no splits" in refusal("torchvision:EuroSAT", root=tmp_path, split="train")
    assert "no variants" in refusal("torchvision:MNIST", root=tmp_path, variant="letters")
    for name in ("EMNIST", "Flowers102", "ImageNet", "Caltech101", "STL10", "CelebA", "PCAM", "USPS"):
        assert str(tmp_path) in refusal(f"torchvision:{name}", root=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class Odd:
    """A dataset of whatever items it is given."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_torch_datasets_of_other_things():
    assert "is empty" in refusal(Odd())
    assert "no length" in refusal(type("Endless", (), {"__getitem__": lambda self, index: (X[0], 0)})())
    assert "not (picture, label)" in refusal(Odd(3, 4))
    assert "not (picture, label) with labels of one kind" in refusal(Odd((X[0], [0, 1]), (X[0], [1])))
    assert "<U3" in refusal(Odd((X[0], "cat")))
    for picture, says in (
        (X[0] / 255, "float64 ndarray"),
        ("a.png", "a str"),
        (np.zeros((5, 6, 70), np.uint8), "uint8 ndarray"),
    ):
        samples = load_samples(Odd((picture, 0)))
        with pytest.raises(SamplesError, match=rf"{says}.*give Pillow images"):
            samples.image(0)


def test_folders_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    assert "Permission denied" in refusal(tmp_path)


class Reader(nn.Module):
    """Tokens with their mask to three classes."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        real = attention_mask[:, :, None].float()
        return self.head((self.embed(input_ids) * real).sum(1) / real.sum(1))


class Listener(nn.Module):
    """A recording of one channel to three classes."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 2, 3), nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.conv(x).mean(2))


IDS, CLASSES = np.arange(1, 25).reshape(4, 6) % 19 + 1, np.arange(4) % 3


@pytest.fixture(scope="module")
def networks():
    shown = {"input_ids": torch.ones(2, 6, dtype=torch.int64), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    wave = Signature((Input("x", (1, 40), torch.float32, "series", 1),))
    return {
        "tokens": load_network(Reader(), example=shown),
        "letters": load_network(Reader(), example=Signature(signature_of(shown).inputs, Letters())),
        "sound": load_network(Listener(), example=wave),
        "table": load_network(nn.Linear(4, 3), example=torch.zeros(2, 4)),
        "picture": load_network(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), size=8),
    }


BAD = [
    ("letters", [], {}, r"the list holds no samples"),
    ("letters", ["a", 3], {}, r"text 1 of the list .* is a int; give str"),
    ("letters", [b"a", b"b"], {}, r"text 0 of the list .* is a bytes; give str"),
    ("letters", ["a", " "], {}, r"text 1 .* is empty"),
    ("tokens", ["a"], {}, r"without a tokenizer"),
    ("tokens", ({"input_ids": IDS + 15}, CLASSES), {}, r"numbers from .* rows 0 to 19: they were made for another"),
    ("tokens", ({"input_ids": IDS - 3}, CLASSES), {}, r"from -\d+; give whole numbers from 0"),
    ("tokens", ({"input_ids": IDS.astype(str)}, CLASSES), {}, r"is text of shape \(4, 6\); give numbers"),
    ("tokens", ({"input_ids": IDS * 1.0}, CLASSES), {}, r"float64 .*give whole numbers from 0"),
    ("tokens", ({"inputs": IDS, "attention_mask": IDS * 0 + 1}, CLASSES), {}, r"nearest: inputs"),
    ("tokens", ({"input_ids": IDS, "attention_mask": IDS[:, :4] * 0 + 1}, CLASSES), {}, r"one length; .*6, .*4 places"),
    ("tokens", ({"input_ids": IDS, "attention_mask": IDS[:3] * 0 + 1}, CLASSES), {}, r"one row a sample; .*4, .*3"),
    ("tokens", ({"input_ids": IDS}, CLASSES + 0.5), {}, r"one output a number\."),
    ("tokens", ({"input_ids": IDS}, CLASSES * 1.0), {}, r"or task='classification' for classes"),
    ("tokens", ({"input_ids": IDS}, CLASSES + 7), {}, r"label 9 and the network 3 outputs"),
    ("tokens", ({"input_ids": IDS}, CLASSES[:2]), {}, r"4 texts and 2 labels"),
    ("sound", (np.ones((4, 2, 40)), CLASSES), {"kind": "series"}, r"\(2, 40\) and the network takes x \(1x40"),
    ("sound", (np.full((4, 1, 40), np.nan), CLASSES), {"kind": "series"}, r"NaN or infinite in row 0"),
    ("table", (np.ones((4, 5)), CLASSES), {}, r"\(5,\) and the network takes .* \(4"),
    ("table", (np.ones((4, 4), complex), CLASSES), {}, r"complex128; give numbers"),
    ("picture", (np.zeros((4, 8, 8, 5)), CLASSES), {}, r"5 channels and the network takes 3"),
    ("picture", ["a"], {}, r"is text, and the network takes input \(3x8x8"),
    ("picture", (np.ones((4, 4)), CLASSES), {}, r"\(4,\) and the network takes input \(3x8x8"),
]


@pytest.mark.parametrize(("name", "source", "options", "says"), BAD)
def test_samples_that_a_network_does_not_take_are_one_sentence(networks, name, source, options, says):
    if isinstance(source, tuple) and isinstance(source[0], dict):
        options = {"kind": "tokens", **options}
    with pytest.raises(SamplesError) as caught:
        score(networks[name], load_samples(source, **options))
    message = str(caught.value)
    assert re.search(says, message), message
    assert "\n" not in message and message.endswith(".")


def test_texts_and_targets_need_a_decoder(networks, tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b\nx,y\n")
    with pytest.raises(SamplesError, match="the network no decoder; give one column of text"):
        score(networks["letters"], load_samples(tmp_path / "pairs.csv", text=("a", "b")))
    with pytest.raises(SamplesError, match="names 3 columns"):
        load_samples(tmp_path / "pairs.csv", text=("a", "b", "a"))


def test_what_is_cut_padded_or_unknown_is_counted_and_said(networks):
    zeros = np.where(np.arange(6) < 3, IDS, 0)
    with pytest.warns(NetopsyWarning, match="4 of 4 samples end in zeros .*, and have no attention_mask"):
        score(networks["tokens"], load_samples(({"input_ids": zeros}, CLASSES), kind="tokens"))
    with pytest.warns(NetopsyWarning, match="4 of 4 samples are longer than the 40 values"):
        score(networks["sound"], load_samples((np.ones((4, 1, 50), np.float32), CLASSES), kind="series"))
    foreign = networks["letters"].with_tensors({})
    tokenizer = Letters()
    tokenizer.unknown = 1  # a
    foreign.preprocessing = Signature(foreign.signature.inputs, tokenizer)
    with pytest.warns(NetopsyWarning, match="75% of the tokens are unknown to the tokenizer: is it the network's own"):
        score(foreign, load_samples(["aaab", "aaba"]))


def test_the_command_line_says_it_in_one_line_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reader.py").write_text("from torch import nn\n\n\ndef net():\n    return nn.Linear(2, 2)\n")
    for text, more, says in (
        ("a;b;label\n1;2;0\n", [], "has one column, 'a;b;label'; write it with commas"),
        ("a,b,label\n", [], "has no rows"),
        ("a,b,label\n1,,0\n1,2,1\n", [], "column 'b' of t.csv has no value in row 0"),
        ("a,b,lable\n1,2,0\n", ["--label", "label"], "no column 'label'; nearest: lable"),
        ("a,b,label\n1,2,0.5\n2,1,1.5\n", [], "2; give a network with one output a number"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(SystemExit, match="2"):
            main(["noise", "reader:net", "--samples", "t.csv", *more])
        written = capsys.readouterr().err
        assert says in written.strip().splitlines()[-1] and "Traceback" not in written, written


# Files of another kind, and links and names that lead out of a folder


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


@pytest.mark.parametrize(
    "kind", ["fifo", "socket", "link to the parent", "link out", "link to a file out", "loop", "broken link"]
)
def test_what_is_no_file_of_the_folder_is_left_out_and_said(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "set"
    _picture(folder / "cat" / "0.png")
    _picture(tmp_path / "elsewhere" / "deep" / "1.png")
    odd = folder / "cat" / "odd.png"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "socket":
        with contextlib.chdir(odd.parent), socket.socket(socket.AF_UNIX) as end:  # the path of a socket is short
            end.bind("odd.png")
    else:
        target = {
            "link to the parent": tmp_path,
            "link out": tmp_path / "elsewhere",
            "link to a file out": tmp_path / "elsewhere" / "deep" / "1.png",
            "loop": folder / "cat",
            "broken link": tmp_path / "nothing.png",
        }[kind]
        odd.symlink_to(target)
    for options in ({}, {"label": None}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert len(load_samples(folder, **options)) == 1
        sentences = [str(w.message) for w in caught if issubclass(w.category, NetopsyWarning)]
        if kind == "loop":
            assert sentences == []  # followed once: there is nothing new
        else:
            assert len(sentences) == 1 and "odd.png" in sentences[0] and "outside=True" in sentences[0]


def test_links_out_of_the_folder_are_followed_where_they_are_asked_for(tmp_path: Path) -> None:
    _picture(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "cat" / "link").symlink_to(tmp_path / "elsewhere")
    assert len(load_samples(tmp_path / "set", outside=True)) == 1
    with pytest.warns(NetopsyWarning), pytest.raises(SamplesError):
        load_samples(tmp_path / "set")


def test_links_inside_the_folder_are_followed_once(tmp_path: Path) -> None:
    _picture(tmp_path / "set" / "all" / "cat" / "0.png")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "set" / "all" / "cat")
    samples = load_samples(tmp_path / "set", label=None)
    assert len(samples) == 1


@pytest.mark.parametrize("form", ["../secret.png", "absolute", "link.png"])
@pytest.mark.parametrize("table", ["labels.csv", "table.csv", "table.parquet", "table.jsonl"])
def test_a_table_that_names_files_outside_is_refused_unless_asked(tmp_path: Path, form: str, table: str) -> None:
    folder = tmp_path / "set"
    _picture(folder / "0.png")
    _picture(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    name = str(tmp_path / "secret.png") if form == "absolute" else form
    frame = pl.DataFrame({"file": ["0.png", name], "label": [0, 1]})
    path = folder / table
    {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".jsonl": frame.write_ndjson}[path.suffix](path)
    source: Path = folder if table == "labels.csv" else path
    options = {} if table.endswith(".csv") else {"file": "file"}
    with pytest.raises(SamplesError, match=r"which lies outside .* outside=True \(--outside\)"):
        load_samples(source, **options)
    assert len(load_samples(source, outside=True, **options)) == 2
